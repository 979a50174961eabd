//! From what a user writes to a path.

use std::path::{Path, PathBuf};

use inference_core::{Error, ErrorKind, ModelSource, Result};

use crate::store::StoreKind;
use crate::{HubRef, ModelRef, Stores};

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// A folder, or a GGUF file (which in Ollama's store has no extension).
    pub path: PathBuf,
    /// The store that it was found in; `None` for a path.
    pub store: Option<StoreKind>,
}

impl From<Resolved> for ModelSource {
    fn from(resolved: Resolved) -> Self {
        Self::Path(resolved.path)
    }
}

/// Finds the model that a text names, in the stores of
/// [`Stores::from_env`]; see [`Stores::resolve`].
///
/// # Errors
///
/// Those of [`Stores::resolve`].
pub fn resolve(text: &str) -> Result<Resolved> {
    // The environment is of no interest to a path.
    match local(text) {
        Some(resolved) => Ok(resolved),
        None => Stores::from_env().resolve(text),
    }
}

fn local(text: &str) -> Option<Resolved> {
    let path = Path::new(text);
    // A link that leads nowhere is a path too, and an error where it is opened.
    let exists = !text.is_empty() && std::fs::symlink_metadata(path).is_ok();
    exists.then(|| Resolved { path: path.to_owned(), store: None })
}

impl Stores {
    /// Finds the model that a text names, as [`ModelRef`] describes them. A
    /// path that exists wins over any other meaning. The network is never
    /// asked.
    ///
    /// # Errors
    ///
    /// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound) with the
    /// command that downloads it where no store has a model of the name, or has
    /// it incompletely; [`Io`](inference_core::ErrorKind::Io) for a path that
    /// does not exist; [`InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// for a malformed name and one that several files fit.
    pub fn resolve(&self, text: &str) -> Result<Resolved> {
        if let Some(resolved) = local(text) {
            return Ok(resolved);
        }
        match text.parse()? {
            ModelRef::Path(path) => {
                Err(Error::io(path, "open", std::io::ErrorKind::NotFound.into()))
            }
            ModelRef::Hub(wanted) => self.find_hub(&wanted),
            ModelRef::Ollama(wanted) => {
                for store in self.iter() {
                    if let Some(path) = store.find_ollama(&wanted)? {
                        return Ok(Resolved { path, store: Some(store.kind()) });
                    }
                }
                let name = wanted.to_string();
                let pull = name.trim_start_matches("ollama:").to_owned();
                Err(Error::model_not_found(name, format!("`ollama pull {pull}` downloads it")))
            }
        }
    }

    pub(crate) fn find_hub(&self, wanted: &HubRef) -> Result<Resolved> {
        let pull = format!("`inference pull {wanted}`");
        let mut problem = None;
        for store in self.iter() {
            match store.find_hub(wanted) {
                Ok(Some(path)) => return Ok(Resolved { path, store: Some(store.kind()) }),
                Ok(None) => {}
                // The name is the problem, not the files.
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        let hint = match problem {
            Some(error) => format!("it is incomplete ({error}); {pull} completes it"),
            None => format!("it is neither a path nor in a local store; {pull} downloads it"),
        };
        Err(Error::model_not_found(wanted.to_string(), hint))
    }
}
