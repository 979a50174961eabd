//! A model's files: in a folder, or embedded in the binary.

use std::path::PathBuf;
use std::sync::Arc;

use inference_core::{EmbeddedFiles, Error, ModelSource, Result};
use inference_gguf::{GgufFile, is_gguf, model_in_folder, only_model};
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
                model_in_folder(folder)?.map(|path| GgufFile::open(&path)).transpose()
            }
            Place::Embedded(files) => {
                let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
                let Some(name) = only_model(&self.name(), names)? else { return Ok(None) };
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

    /// The names of all files, sorted; none of a GGUF file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match &self.place {
            Place::Gguf(_) => {}
            Place::Embedded(files) => {
                names.extend(files.iter().map(|(name, _)| (*name).to_owned()))
            }
            Place::Folder(folder) => {
                let failed = |error| Error::io(folder, "list", error);
                for entry in std::fs::read_dir(folder).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if self.contains(&name) {
                        names.push(name);
                    }
                }
            }
        }
        names.sort();
        Ok(names)
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
