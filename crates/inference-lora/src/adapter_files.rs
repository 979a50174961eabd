//! An adapter's files, and which format they have.

use std::fmt;
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};
use inference_gguf::{GgufFile, is_gguf, only_model};

use crate::json_fields::Fields;
use crate::peft_config::CONFIG;
use crate::read_adapter::{ReadAdapter, ReadOptions};
use crate::stored_tensors::{TensorEntry, list};
use crate::{ModuleTable, gguf_adapter, mlx, peft};

/// The formats of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterFormat {
    /// `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// `adapter_config.json` and `adapters.safetensors`.
    MlxLm,
    /// One file of llama.cpp's.
    Gguf,
}

impl AdapterFormat {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::MlxLm => "mlx-lm",
            Self::Gguf => "gguf",
        }
    }
}

impl fmt::Display for AdapterFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An adapter's files, opened; tensors are not read yet.
pub struct AdapterFiles {
    contents: Contents,
}

enum Contents {
    Peft(PathBuf, Fields),
    MlxLm(PathBuf, Fields),
    Gguf(GgufFile),
}

impl AdapterFiles {
    /// Opens the adapter at `path`: a folder, one of its two files, or a GGUF
    /// file. The format is that of the content: what the configuration has
    /// fields of.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where a file is missing or malformed, and where the content does not
    /// say which format it is,
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for a format that is not read,
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub fn open(path: &Path) -> Result<Self> {
        let facts = std::fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
        if facts.is_dir() {
            return Self::open_folder(path);
        }
        if is_gguf(path)? {
            return Ok(Self { contents: Contents::Gguf(gguf_adapter::open(path)?) });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parts = [CONFIG, peft::WEIGHTS, mlx::WEIGHTS];
        if parts.contains(&&*name) {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            return Self::open_folder(parent.unwrap_or(Path::new(".")));
        }
        let supported =
            format!("a folder with {CONFIG}, one of its files ({}), a GGUF file", parts.join(", "));
        let file = path.display().to_string();
        Err(Error::unsupported_model(file, "format", name, supported))
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        let place = folder.display().to_string();
        let config = folder.join(CONFIG);
        if !config.is_file() {
            if let Some(file) = gguf_in(folder, &place)? {
                return Ok(Self { contents: Contents::Gguf(gguf_adapter::open(&file)?) });
            }
            return Err(Error::invalid_model(place, CONFIG, "a file", "nothing"));
        }
        let fields = Fields::read(&config)?;
        let is_peft = fields.get("peft_type").is_some();
        let own = mlx::OWN_FIELDS.into_iter().find(|field| fields.get(field).is_some());
        let (weights, contents) = match (is_peft, own) {
            (true, None) => (peft::WEIGHTS, Contents::Peft(folder.to_owned(), fields)),
            (false, Some(_)) => (mlx::WEIGHTS, Contents::MlxLm(folder.to_owned(), fields)),
            (true, Some(field)) => {
                let expected = "a configuration of one format";
                let found = format!("peft_type (PEFT) and {field} (mlx-lm)");
                return Err(Error::invalid_model(fields.file(), "format", expected, found));
            }
            (false, None) => {
                let expected = "peft_type (PEFT) or lora_parameters (mlx-lm)";
                return Err(Error::invalid_model(fields.file(), "format", expected, "neither"));
            }
        };
        if !folder.join(weights).is_file() {
            if is_peft && folder.join(peft::PICKLED).is_file() {
                let found = peft::PICKLED;
                return Err(Error::unsupported_model(place, "weights", found, peft::WEIGHTS));
            }
            return Err(Error::invalid_model(place, weights, "a file", "nothing"));
        }
        Ok(Self { contents })
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> AdapterFormat {
        match &self.contents {
            Contents::Peft(..) => AdapterFormat::Peft,
            Contents::MlxLm(..) => AdapterFormat::MlxLm,
            Contents::Gguf(_) => AdapterFormat::Gguf,
        }
    }

    /// What the configuration says, as text: the fields that are set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// a value that cannot be read.
    pub fn settings(&self) -> Result<Vec<(String, String)>> {
        match &self.contents {
            Contents::Peft(_, fields) | Contents::MlxLm(_, fields) => {
                let set = fields.iter().filter(|(_, value)| !value.is_null());
                Ok(set.map(|(name, value)| (name.to_owned(), value.to_string())).collect())
            }
            Contents::Gguf(file) => {
                let metadata = file.metadata();
                let describe = |key: &str| {
                    let value = metadata.get(key)?.map(|value| value.describe());
                    Ok((key.to_owned(), value.unwrap_or_default()))
                };
                metadata.keys().map(describe).collect()
            }
        }
    }

    /// The tensors, by the files' own names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// a malformed file, [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub fn tensors(&self) -> Result<Vec<TensorEntry>> {
        match &self.contents {
            Contents::Peft(folder, _) => list(&folder.join(peft::WEIGHTS)),
            Contents::MlxLm(folder, _) => list(&folder.join(mlx::WEIGHTS)),
            Contents::Gguf(file) => Ok(gguf_adapter::entries(file)),
        }
    }

    /// Reads the adapter and checks it against a model's modules: names,
    /// shapes, pairs, ranks, finite values, and what the configuration
    /// promises.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// naming file and field or tensor,
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for what is not implemented, by the field's name,
    /// [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub fn read(&self, table: &ModuleTable, options: ReadOptions) -> Result<ReadAdapter> {
        match &self.contents {
            Contents::Peft(folder, fields) => peft::read(folder, fields, table, options),
            Contents::MlxLm(folder, fields) => mlx::read(folder, fields, table, options),
            Contents::Gguf(file) => gguf_adapter::read(file, table, options),
        }
    }
}

impl fmt::Debug for AdapterFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterFiles({})", self.format())
    }
}

/// The only GGUF file of a folder.
fn gguf_in(folder: &Path, place: &str) -> Result<Option<PathBuf>> {
    let failed = |error| Error::io(folder, "list", error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(only_model(place, names)?.map(|name| folder.join(name)))
}
