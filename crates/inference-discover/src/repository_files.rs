//! Which model of a folder with a repository's files is meant.

use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error, Result};

use crate::names::GGUF;
use crate::reference::HubRef;
use crate::{Discover, DiscoverOptions, adapter_folder, gguf_model, safetensors_folder};

/// Levels of folders that repositories keep GGUF files in.
const DEPTH: usize = 2;

/// The model of `folder` that is wanted: the file, the one GGUF file of the
/// quantization, or without either the folder if it is a safetensors model or
/// an adapter, or else its one GGUF model. `None` where there is nothing of the kind.
///
/// # Errors
///
/// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) where several
/// files fit, and what is wrong with the model where it is incomplete.
pub(crate) fn find(folder: &Path, wanted: &HubRef) -> Result<Option<PathBuf>> {
    if let Some(file) = &wanted.file {
        let path = folder.join(file);
        if path.is_file() {
            return match gguf_model::missing_part(&path) {
                Some(missing) => Err(Error::invalid_model(
                    path.display().to_string(),
                    format!("part `{}`", missing.display()),
                    "a file",
                    "nothing",
                )),
                None => Ok(Some(path)),
            };
        }
        if file.ends_with(GGUF) {
            return Ok(None);
        }
    } else if folder.join(crate::config::CONFIG).is_file() {
        let described = safetensors_folder::describe(folder);
        match (described, gguf_models(folder).next()) {
            (Ok(_), _) => return Ok(Some(folder.to_owned())),
            // The configuration belongs to the GGUF files.
            (Err(_), Some(_)) => {}
            (Err(error), None) => return Err(error),
        }
    }
    if wanted.file.is_none() && folder.join(adapter_folder::CONFIG).is_file() {
        adapter_folder::describe(folder)?;
        return Ok(Some(folder.to_owned()));
    }
    let fits = |model: &DiscoveredModel| match &wanted.file {
        None => true,
        Some(tag) => model.name.to_ascii_lowercase().contains(&tag.to_ascii_lowercase()),
    };
    let mut found = Vec::new();
    for model in gguf_models(folder) {
        let model = model?;
        if fits(&model) {
            found.push(model.path);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let files = several.iter().map(|path| {
                let file = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
                HubRef { file: Some(file), ..wanted.clone() }.to_string()
            });
            let expected = format!("one of {}", files.collect::<Vec<_>>().join(", "));
            Err(Error::invalid_input("model", expected, wanted.to_string()))
        }
    }
}

fn gguf_models(folder: &Path) -> impl Iterator<Item = Result<DiscoveredModel>> + use<> {
    let options = DiscoverOptions::new().with_max_depth(DEPTH);
    Discover::new(folder, options).filter(|model| match model {
        Ok(model) => model.format == "gguf",
        Err(_) => false,
    })
}
