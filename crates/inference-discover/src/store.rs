//! One store of models, as a tool lays it out.

mod hub_cache;
mod llama_cpp;
mod lm_studio;
mod ollama;

use std::fmt;
use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Result};

use crate::reference::{HubRef, OllamaRef};

/// A tool that keeps models on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreKind {
    /// The cache of the Hugging Face hub: `models--ORG--NAME/snapshots/COMMIT`.
    HuggingFace,
    /// LM Studio: `ORG/NAME/FILE.gguf`.
    LmStudio,
    /// llama.cpp's downloads: `ORG_NAME_FILE.gguf`.
    LlamaCpp,
    /// Ollama: manifests that name blobs.
    Ollama,
}

impl StoreKind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HuggingFace => "huggingface",
            Self::LmStudio => "lm-studio",
            Self::LlamaCpp => "llama.cpp",
            Self::Ollama => "ollama",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A folder in which a tool keeps models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    kind: StoreKind,
    root: PathBuf,
}

/// Models or errors, one after the other.
type Models = Box<dyn Iterator<Item = Result<DiscoveredModel>> + Send>;

impl Store {
    /// The store of a tool in a folder.
    pub fn new(kind: StoreKind, root: impl Into<PathBuf>) -> Self {
        Self { kind, root: root.into() }
    }

    /// Whose it is.
    #[must_use]
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.root.is_dir()
    }

    /// Its models, sorted and lazy as those of [`Discover`](crate::Discover),
    /// under names that [`resolve`](crate::resolve) takes, paths where there are
    /// no better ones. Of a repository
    /// of the hub every snapshot is listed; those that are not `main`'s have
    /// `@COMMIT` in the name.
    pub fn models(&self) -> impl Iterator<Item = Result<DiscoveredModel>> + use<> {
        let models: Models = match self.kind {
            StoreKind::HuggingFace => hub_cache::models(&self.root),
            StoreKind::LmStudio => lm_studio::models(&self.root),
            StoreKind::LlamaCpp => llama_cpp::models(&self.root),
            StoreKind::Ollama => ollama::models(&self.root),
        };
        models
    }

    /// The path of a repository's model; `None` where the store has nothing of
    /// it.
    pub(crate) fn find_hub(&self, wanted: &HubRef) -> Result<Option<PathBuf>> {
        match self.kind {
            StoreKind::HuggingFace => hub_cache::find(&self.root, wanted),
            StoreKind::LmStudio => lm_studio::find(&self.root, wanted),
            StoreKind::LlamaCpp => llama_cpp::find(&self.root, wanted),
            StoreKind::Ollama => Ok(None),
        }
    }

    /// The path of a model of Ollama; `None` where the store has nothing of it.
    pub(crate) fn find_ollama(&self, wanted: &OllamaRef) -> Result<Option<PathBuf>> {
        match self.kind {
            StoreKind::Ollama => ollama::find(&self.root, wanted),
            _ => Ok(None),
        }
    }
}

/// The entries of a folder that are folders, or files, sorted by name; errors
/// name the folder.
fn sorted_names(folder: &Path, folders: bool) -> Result<Vec<String>> {
    let failed = |e| inference_core::Error::io(folder, "list", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        // What is not UTF-8 was not written by these tools.
        if let Some(name) = name.filter(|name| !name.starts_with('.') && path.is_dir() == folders) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The one failure of a listing as its only item.
fn failed(error: inference_core::Error) -> Models {
    Box::new(std::iter::once(Err(error)))
}
