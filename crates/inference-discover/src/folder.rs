//! What one folder holds.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

use crate::config::CONFIG;
use crate::names::{GGUF, SplitName};
use crate::{adapter_folder, bounded_file, gguf_model, weight_files};

/// The largest document that is looked at to see whether it is a model's.
const MAX_PROBE: u64 = 1 << 20;

/// What one folder holds.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Folders and GGUF models, sorted; what else there is, in `files`.
    pub(crate) entries: Vec<Entry>,
    files: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Entry {
    Folder(PathBuf),
    /// A file, or the first part of a split one.
    Gguf(PathBuf),
    /// What cannot be looked at.
    Failed(Error),
}

impl Folder {
    /// Reads a folder, links followed.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(path, "list", e);
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            found.push((entry.file_name(), entry.file_type().map_err(failed)?));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut folder = Self { path: path.to_owned(), entries: Vec::new(), files: Vec::new() };
        // Split models that the list names already, by stem and count.
        let mut split_models: HashSet<(String, u32)> = HashSet::new();
        for (name, mut kind) in found {
            let path = path.join(&name);
            if kind.is_symlink() {
                match fs::metadata(&path) {
                    Ok(facts) => kind = facts.file_type(),
                    Err(e) => {
                        folder.entries.push(Entry::Failed(Error::io(path, "follow the link", e)));
                        continue;
                    }
                }
            }
            if kind.is_dir() {
                folder.entries.push(Entry::Folder(path));
            } else if kind.is_file() {
                let name = name.to_string_lossy().into_owned();
                match SplitName::parse(&name) {
                    Some(split) => {
                        if split_models.insert((split.stem.to_owned(), split.count)) {
                            folder
                                .entries
                                .push(split_model(&path.with_file_name(split.with_part(1))));
                        }
                    }
                    None if name.ends_with(GGUF) => folder.entries.push(Entry::Gguf(path)),
                    None => folder.files.push(name),
                }
            }
        }
        Ok(folder)
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    /// Whether there is an adapter, if only a part of one.
    pub(crate) fn is_adapter(&self) -> bool {
        let weights = self.has(adapter_folder::PEFT) || self.has(adapter_folder::MLX_LM);
        self.has(adapter_folder::CONFIG) || weights
    }

    /// Whether there is a safetensors model, if only a part of one: weights,
    /// or a description of a language model that nothing else here explains.
    pub(crate) fn is_model(&self) -> Result<bool> {
        let adapters = [adapter_folder::PEFT, adapter_folder::MLX_LM];
        let mut weights = self.files.iter().filter(|file| file.ends_with(".safetensors"));
        if weights.any(|file| !adapters.contains(&&**file)) || self.has(weight_files::INDEX) {
            // mlx-lm keeps the adapter at earlier steps beside the last one.
            return Ok(self.has(CONFIG) || !self.is_adapter());
        }
        if !self.has(CONFIG) || self.entries.iter().any(|entry| matches!(entry, Entry::Gguf(_))) {
            return Ok(false);
        }
        let Ok(bytes) = bounded_file::read(&self.path.join(CONFIG), MAX_PROBE) else {
            return Ok(false);
        };
        // Any program may have a config.json; a model's says what it is.
        let document: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        Ok(document.is_some_and(|document| document.get("model_type").is_some()))
    }
}

/// A split model by its first part, or the error that names what is missing.
fn split_model(first: &Path) -> Entry {
    match gguf_model::missing_part(first) {
        None => Entry::Gguf(first.to_owned()),
        Some(missing) => {
            let part = missing.file_name().unwrap_or_default().to_string_lossy();
            let (file, what) = (first.display().to_string(), format!("part `{part}`"));
            Entry::Failed(Error::invalid_model(file, what, "a file", "nothing"))
        }
    }
}
