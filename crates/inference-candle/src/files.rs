//! A model's files: in a folder, or embedded in the binary.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_core::{EmbeddedFiles, Error, ModelSource, Result};
use inference_gguf::GgufFile;
use inference_text::TextParts;

use crate::WeightBytes;
use crate::weights::MappedBytes;

/// The largest configuration file that is read.
const MAX_READ: u64 = 256 << 20;

/// A model's files by name.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    /// The file, or a part of a split one.
    Gguf(PathBuf),
    Embedded(EmbeddedFiles),
}

impl ModelFiles {
    /// The files of a source: a folder, a GGUF file, or what is embedded.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io) where the path does
    /// not exist,
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// where it is a file of another kind.
    pub fn new(source: &ModelSource) -> Result<Self> {
        let place = match source {
            ModelSource::Path(path) => {
                let facts = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
                if facts.is_dir() {
                    Place::Folder(path.clone())
                } else if is_gguf(path)? {
                    Place::Gguf(path.clone())
                } else {
                    let extension = path.extension().unwrap_or_default().to_string_lossy();
                    return Err(Error::unsupported_model(
                        path.display().to_string(),
                        "format",
                        extension,
                        "a GGUF file, or a folder of config.json and safetensors files",
                    ));
                }
            }
            ModelSource::Embedded(files) => Place::Embedded(files),
            _ => return Err(Error::unsupported(source.to_string(), "load")),
        };
        Ok(Self { place })
    }

    /// The GGUF model, where the source is or holds one. Safetensors come
    /// first: a folder that has them is no GGUF model.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where there are several, naming them, or the file is malformed,
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub fn gguf(&self) -> Result<Option<GgufFile>> {
        let safetensors = ["model.safetensors", "model.safetensors.index.json"];
        if safetensors.iter().any(|name| self.contains(name)) {
            return Ok(None);
        }
        match &self.place {
            Place::Gguf(path) => GgufFile::open(path).map(Some),
            Place::Folder(folder) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))? {
                    let entry = entry.map_err(|e| Error::io(folder, "read", e))?;
                    names.extend(entry.file_name().into_string());
                }
                let chosen = self.only_gguf(names)?;
                chosen.map(|name| GgufFile::open(&folder.join(name))).transpose()
            }
            Place::Embedded(files) => {
                let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
                let Some(name) = self.only_gguf(names)? else { return Ok(None) };
                let bytes = self.embedded(&name).unwrap_or_default();
                GgufFile::from_bytes(&name, Arc::new(bytes)).map(Some)
            }
        }
    }

    /// Tokenizer, chat template and special tokens: of the GGUF model where
    /// there is [one](Self::gguf), else of the files beside the weights.
    ///
    /// # Errors
    ///
    /// As [`gguf`](Self::gguf), [`TextParts::from_gguf`] and
    /// [`TextParts::load`].
    pub fn text(&self) -> Result<TextParts> {
        match self.gguf()? {
            Some(file) => TextParts::from_gguf(file.metadata()),
            None => TextParts::load(|name| self.read(name)),
        }
    }

    /// The one model among the names: the first part of a split one, and not
    /// a projector of images, which llama.cpp keeps beside its model.
    fn only_gguf(&self, mut names: Vec<String>) -> Result<Option<String>> {
        names.retain(|name| name.ends_with(".gguf") && !name.contains("mmproj"));
        names.sort_unstable();
        names.dedup_by(|later, first| match (split_stem(later), split_stem(first)) {
            (Some(later), Some(first)) => later == first,
            _ => false,
        });
        if names.len() > 1 {
            let found = names.join(", ");
            let expected = "one GGUF model; name the file";
            return Err(Error::invalid_model(self.name(), "GGUF files", expected, found));
        }
        Ok(names.pop())
    }

    /// What to call the model in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.place {
            Place::Folder(path) | Place::Gguf(path) => path.display().to_string(),
            Place::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match &self.place {
            Place::Folder(folder) => folder.join(name).is_file(),
            Place::Gguf(_) => false,
            Place::Embedded(_) => self.embedded(name).is_some(),
        }
    }

    /// The content of a file; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io), and
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// for a file of absurd size.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let folder = match &self.place {
            Place::Folder(folder) => folder,
            Place::Gguf(_) => return Ok(None),
            Place::Embedded(_) => return Ok(self.embedded(name).map(<[u8]>::to_vec)),
        };
        let path = folder.join(name);
        let facts = match std::fs::metadata(&path) {
            Ok(facts) => facts,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "open", e)),
        };
        if facts.len() > MAX_READ {
            let (expected, found) = (format!("at most {MAX_READ} bytes"), facts.len());
            return Err(Error::invalid_model(name, "size", expected, format!("{found} bytes")));
        }
        std::fs::read(&path).map(Some).map_err(|e| Error::io(path, "read", e))
    }

    /// The content of a file that has to be there.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where there is none.
    pub fn read_required(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::invalid_model(self.name(), name, "a file", "nothing");
        self.read(name)?.ok_or_else(missing)
    }

    /// The bytes of a file without reading them: mapped, or embedded.
    ///
    /// A mapped file must not be changed while the model is in use.
    ///
    /// # Errors
    ///
    /// As [`read_required`](Self::read_required).
    pub fn map(&self, name: &str) -> Result<WeightBytes> {
        Ok(Arc::clone(self.map_releasable(name)?.shared()))
    }

    /// As [`map`](Self::map), with the means to drop pages that were read.
    pub(crate) fn map_releasable(&self, name: &str) -> Result<MappedBytes> {
        let missing = || Error::invalid_model(self.name(), name, "a file", "nothing");
        match &self.place {
            Place::Embedded(_) => {
                Ok(MappedBytes::fixed(Arc::new(self.embedded(name).ok_or_else(missing)?)))
            }
            Place::Gguf(_) => Err(missing()),
            Place::Folder(folder) => {
                let path = folder.join(name);
                if !path.is_file() {
                    return Err(missing());
                }
                MappedBytes::map(&path)
            }
        }
    }

    fn embedded(&self, name: &str) -> Option<&'static [u8]> {
        let Place::Embedded(files) = self.place else { return None };
        files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }
}

/// Whether a file begins as GGUF does, whatever it is called.
fn is_gguf(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return Ok(true);
    }
    let facts = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_file() {
        return Ok(false);
    }
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    match file.read_exact(&mut magic) {
        Ok(()) => Ok(magic == *b"GGUF"),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(Error::io(path, "read", e)),
    }
}

/// `model` and `00003` of `model-00001-of-00003.gguf`.
fn split_stem(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (number(part) && number(count)).then_some((stem, count))
}
