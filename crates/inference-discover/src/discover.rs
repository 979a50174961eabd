//! The walk over folders.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error, Result};

use crate::folder::{Entry, Folder};
use crate::read_ahead::{self, Found};
use crate::{DiscoverOptions, adapter_folder, gguf_model, safetensors_folder};

/// Most models that are described before they are asked for.
const MAX_AHEAD: usize = 64;

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
/// Lazy: what follows a model is looked at when it is asked for, or, as more
/// and more are asked for, up to 64 models of the same folder at once, on
/// several threads. Only headers are read. A folder is a model where it has `config.json` and safetensors, an
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
    /// What was described ahead.
    ready: VecDeque<Result<DiscoveredModel>>,
    /// How many to describe at once next time.
    ahead: usize,
    /// Canonical paths of folders and GGUF files.
    seen: HashSet<PathBuf>,
}

#[derive(Debug)]
enum Pending {
    Root(PathBuf),
    Folder { path: PathBuf, depth: usize },
    Model(Found),
    Failed(Error),
}

impl Discover {
    /// The models below `root`, as far as the options allow.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, options: DiscoverOptions) -> Self {
        let pending = vec![Pending::Root(root.into())];
        Self { options, pending, ready: VecDeque::new(), ahead: 1, seen: HashSet::new() }
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
            found.push(Pending::Model(Found::Adapter(path.to_owned())));
        }
        if folder.is_model()? {
            found.push(Pending::Model(Found::Safetensors(path.to_owned())));
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
                Entry::Gguf(path) => found.push(Pending::Model(Found::Gguf(path))),
                Entry::Failed(error) => found.push(Pending::Failed(error)),
            }
        }
        self.pending.extend(found.into_iter().rev());
        Ok(())
    }

    /// Goes on by one step; what it found is ready then, if it found anything.
    fn step(&mut self, pending: Pending) -> Result<()> {
        match pending {
            Pending::Failed(error) => Err(error),
            Pending::Model(found) => {
                self.pending.push(Pending::Model(found));
                self.describe_ahead()
            }
            Pending::Folder { path, depth } => self.enter(&path, depth),
            Pending::Root(path) => {
                let facts = fs::metadata(&path).map_err(|e| Error::io(&path, "open", e))?;
                if facts.is_dir() {
                    return self.enter(&path, 0);
                }
                self.ready.push_back(file(&path));
                Ok(())
            }
        }
    }

    /// Describes the models on top of what is left to do.
    fn describe_ahead(&mut self) -> Result<()> {
        let mut models = Vec::new();
        let mut failed = Ok(());
        while models.len() < self.ahead {
            let model = |pending: &mut Pending| matches!(pending, Pending::Model(_));
            let Some(Pending::Model(found)) = self.pending.pop_if(model) else { break };
            match self.is_new_model(&found) {
                Ok(true) => models.push(found),
                Ok(false) => {}
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        self.ahead = (self.ahead * 2).min(MAX_AHEAD);
        self.ready.extend(read_ahead::describe(&models));
        failed
    }

    /// A folder was met for the first time where it was entered.
    fn is_new_model(&mut self, found: &Found) -> Result<bool> {
        match found {
            Found::Gguf(path) => self.is_new(path),
            _ => Ok(true),
        }
    }
}

impl Iterator for Discover {
    type Item = Result<DiscoveredModel>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let pending = self.pending.pop()?;
            if let Err(error) = self.step(pending) {
                // Behind what was described before it.
                self.ready.push_back(Err(error));
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
