//! Ollama: `manifests/HOST/NAMESPACE/NAME/TAG` is a JSON document that names
//! layers; the layer of the model is a GGUF file, `blobs/sha256-…`.

use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error, Result};
use serde_json::Value;

use super::{Models, failed, sorted_names};
use crate::reference::OllamaRef;
use crate::{bounded_file, gguf_model, license};

const MANIFESTS: &str = "manifests";

/// What the media types of layers begin with.
const MEDIA_TYPE: &str = "application/vnd.ollama.image.";

pub(super) fn models(root: &Path) -> Models {
    let manifests = root.join(MANIFESTS);
    if !manifests.is_dir() {
        return Box::new(std::iter::empty());
    }
    let found = match manifests_below(&manifests) {
        Ok(found) => found,
        Err(error) => return failed(error),
    };
    let root = root.to_owned();
    Box::new(found.into_iter().map(move |model| describe(&root, &model)))
}

/// All manifests, sorted by host, namespace, name and tag.
fn manifests_below(manifests: &Path) -> Result<Vec<OllamaRef>> {
    let mut found = Vec::new();
    for host in sorted_names(manifests, true)? {
        let hosts = manifests.join(&host);
        for namespace in sorted_names(&hosts, true)? {
            let namespaces = hosts.join(&namespace);
            for name in sorted_names(&namespaces, true)? {
                for tag in sorted_names(&namespaces.join(&name), false)? {
                    found.push(OllamaRef::of_manifest(&host, &namespace, &name, &tag));
                }
            }
        }
    }
    Ok(found)
}

pub(super) fn find(root: &Path, wanted: &OllamaRef) -> Result<Option<PathBuf>> {
    let path = root.join(MANIFESTS).join(wanted.manifest());
    if !path.is_file() {
        return Ok(None);
    }
    Manifest::read(root, &path)?.model().map(Some)
}

fn describe(root: &Path, model: &OllamaRef) -> Result<DiscoveredModel> {
    let manifest = Manifest::read(root, &root.join(MANIFESTS).join(model.manifest()))?;
    let mut described = gguf_model::describe(&manifest.model()?)?;
    described.name = model.to_string();
    if described.license.is_none()
        && let Some(blob) = manifest.layer("license")?
    {
        let text = bounded_file::head(&blob, 1 << 10);
        described.license = text.and_then(|text| license::of_license_text(&text));
    }
    Ok(described)
}

struct Manifest<'a> {
    root: &'a Path,
    file: String,
    document: Value,
}

impl<'a> Manifest<'a> {
    fn read(root: &'a Path, path: &Path) -> Result<Self> {
        let document = bounded_file::json(path)?;
        Ok(Self { root, file: path.display().to_string(), document })
    }

    /// The file of the layer with the weights.
    fn model(&self) -> Result<PathBuf> {
        match self.layer("model")? {
            Some(path) => Ok(path),
            None => {
                let kinds = self.layers()?.iter().filter_map(|layer| kind(layer));
                let found = kinds.collect::<Vec<_>>().join(", ");
                let supported = "a GGUF file as a layer of the kind `model`";
                Err(Error::unsupported_model(&*self.file, "layers", found, supported))
            }
        }
    }

    fn layers(&self) -> Result<&[Value]> {
        let layers = self.document.get("layers").and_then(Value::as_array);
        let expected = "an array of layers";
        let missing = || Error::invalid_model(&*self.file, "layers", expected, "another value");
        layers.map(Vec::as_slice).ok_or_else(missing)
    }

    /// The file of the first layer of a kind; it is there, in full.
    fn layer(&self, wanted: &str) -> Result<Option<PathBuf>> {
        let Some(layer) = self.layers()?.iter().find(|layer| kind(layer) == Some(wanted)) else {
            return Ok(None);
        };
        let invalid = |field: &str, expected: String, found: String| {
            let what = format!("{field} of the layer `{wanted}`");
            Error::invalid_model(&*self.file, what, expected, found)
        };
        let digest = layer.get("digest").and_then(Value::as_str).unwrap_or_default();
        let hash = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-"));
        let hash = hash.filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(hash) = hash else {
            let found: String = digest.chars().take(80).collect();
            return Err(invalid("digest", "sha256: and 64 digits".into(), format!("`{found}`")));
        };
        let path = self.root.join("blobs").join(format!("sha256-{hash}"));
        let facts = std::fs::metadata(&path).map_err(|e| Error::io(&path, "open", e))?;
        match layer.get("size").and_then(Value::as_u64) {
            Some(size) if size != facts.len() => {
                let expected = format!("{} bytes, the length of {}", facts.len(), path.display());
                Err(invalid("size", expected, format!("{size} bytes")))
            }
            _ => Ok(Some(path)),
        }
    }
}

/// What a layer is: `model`, `template`, `license`, …
fn kind(layer: &Value) -> Option<&str> {
    layer.get("mediaType")?.as_str()?.strip_prefix(MEDIA_TYPE)
}
