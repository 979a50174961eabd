//! The walk over folders.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error, Result};

use crate::folder::{Entry, Folder};
use crate::{DiscoverOptions, adapter_folder, gguf_model, safetensors_folder};

/// The models below a folder, or the one in a file; see [`Discover`].
///
/// ```no_run
/// for model in inference_discover::discover("/data/models") {
///     match model {
///         Ok(model) => println!("{}: {:?}", model.path.display(), model.architecture),
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// ```
pub fn discover(root: impl Into<PathBuf>) -> Discover {
    Discover::new(root, DiscoverOptions::new())
}

/// The models below a folder, in the order of their paths.
///
/// Lazy: what follows a model is looked at when it is asked for. Only headers
/// are read. A folder is a model where it has `config.json` and safetensors, an
/// adapter where it has `adapter_config.json`; each GGUF file is a model, a
/// split one with all of its parts, and several in a folder are several models.
/// Symbolic links are followed; what two paths lead to is listed once, under
/// the path that comes first.
///
/// A model that is malformed or incomplete, a link that leads nowhere and a
/// folder that cannot be read are errors naming the file; the walk goes on
/// behind them.
#[derive(Debug)]
pub struct Discover {
    options: DiscoverOptions,
    /// What is left to do, the next on top.
    pending: Vec<Pending>,
    /// Canonical paths of folders and GGUF files.
    seen: HashSet<PathBuf>,
}

#[derive(Debug)]
enum Pending {
    Root(PathBuf),
    Folder { path: PathBuf, depth: usize },
    Gguf(PathBuf),
    Safetensors(PathBuf),
    Adapter(PathBuf),
    Failed(Error),
}

impl Discover {
    /// The models below `root`, as far as the options allow.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, options: DiscoverOptions) -> Self {
        Self { options, pending: vec![Pending::Root(root.into())], seen: HashSet::new() }
    }

    /// Whether this path is met for the first time, by whatever name.
    fn is_new(&mut self, path: &Path) -> Result<bool> {
        let path = fs::canonicalize(path).map_err(|e| Error::io(path, "open", e))?;
        Ok(self.seen.insert(path))
    }

    fn enter(&mut self, path: &Path, depth: usize) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let folder = Folder::read(path)?;
        let mut found = Vec::new();
        if folder.is_adapter() {
            found.push(Pending::Adapter(path.to_owned()));
        }
        if folder.is_model()? {
            found.push(Pending::Safetensors(path.to_owned()));
        }
        for entry in folder.entries {
            match entry {
                Entry::Folder(path) => {
                    let hidden = path
                        .file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
                    if depth < self.options.max_depth && (self.options.hidden || !hidden) {
                        found.push(Pending::Folder { path, depth: depth + 1 });
                    }
                }
                Entry::Gguf(path) => found.push(Pending::Gguf(path)),
                Entry::Failed(error) => found.push(Pending::Failed(error)),
            }
        }
        self.pending.extend(found.into_iter().rev());
        Ok(())
    }

    /// What a step of the walk found, if anything.
    fn step(&mut self, pending: Pending) -> Result<Option<DiscoveredModel>> {
        match pending {
            Pending::Failed(error) => Err(error),
            Pending::Safetensors(path) => safetensors_folder::describe(&path).map(Some),
            Pending::Adapter(path) => adapter_folder::describe(&path).map(Some),
            Pending::Gguf(path) => match self.is_new(&path)? {
                true => gguf_model::describe(&path).map(Some),
                false => Ok(None),
            },
            Pending::Folder { path, depth } => self.enter(&path, depth).map(|()| None),
            Pending::Root(path) => {
                let facts = fs::metadata(&path).map_err(|e| Error::io(&path, "open", e))?;
                if facts.is_dir() {
                    return self.enter(&path, 0).map(|()| None);
                }
                file(&path).map(Some)
            }
        }
    }
}

impl Iterator for Discover {
    type Item = Result<DiscoveredModel>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let pending = self.pending.pop()?;
            if let Some(item) = self.step(pending).transpose() {
                return Some(item);
            }
        }
    }
}

impl std::iter::FusedIterator for Discover {}

/// Describes the model in a file.
fn file(path: &Path) -> Result<DiscoveredModel> {
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
    if is_gguf || gguf_model::has_magic(path) {
        return gguf_model::describe(path);
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let supported = "a GGUF file, or a folder of config.json and safetensors files";
    Err(Error::unsupported_model(path.display().to_string(), "format", extension, supported))
}

/// Describes the one model at a path: a GGUF file, or a folder that is a model
/// or an adapter.
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file and
/// field, tensor or missing part, [`Io`](inference_core::ErrorKind::Io).
pub fn describe(path: &Path) -> Result<DiscoveredModel> {
    let facts = fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_dir() {
        return file(path);
    }
    let folder = Folder::read(path)?;
    if folder.is_adapter() && !folder.is_model()? {
        return adapter_folder::describe(path);
    }
    safetensors_folder::describe(path)
}
