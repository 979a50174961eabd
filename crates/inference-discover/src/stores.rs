//! Where the tools of this machine keep their models.

use std::ffi::OsString;
use std::path::PathBuf;

use inference_core::{DiscoveredModel, Result};

use crate::store::{Store, StoreKind};

/// The stores of this machine, whether or not they exist.
///
/// | tool | where |
/// |---|---|
/// | Hugging Face | `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub` |
/// | LM Studio | `~/.lmstudio/models`, `~/.cache/lm-studio/models` |
/// | llama.cpp | `LLAMA_CACHE`, else `XDG_CACHE_HOME/llama.cpp`, else `~/.cache/llama.cpp` (macOS: `~/Library/Caches/llama.cpp`, Windows: `LOCALAPPDATA\llama.cpp`) |
/// | Ollama | `OLLAMA_MODELS`, else `~/.ollama/models`; on Linux also `/usr/share/ollama/.ollama/models` |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores(Vec<Store>);

impl Stores {
    /// No store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The stores of this process's environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// The stores of an environment given as a function from the names of
    /// variables to their values.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let dirs = Dirs::from_vars(&var);
        let mut stores = Self::new();
        stores.add(StoreKind::HuggingFace, dirs.hub_cache(&var));
        stores.add(StoreKind::LmStudio, dirs.in_home(".lmstudio/models"));
        stores.add(StoreKind::LmStudio, dirs.in_home(".cache/lm-studio/models"));
        let llama_cpp = dirs.var(&var, "LLAMA_CACHE").or_else(|| {
            if cfg!(target_os = "macos") {
                dirs.in_home("Library/Caches/llama.cpp")
            } else if cfg!(windows) {
                Some(dirs.var(&var, "LOCALAPPDATA")?.join("llama.cpp"))
            } else {
                Some(dirs.cache()?.join("llama.cpp"))
            }
        });
        stores.add(StoreKind::LlamaCpp, llama_cpp);
        match dirs.var(&var, "OLLAMA_MODELS") {
            Some(root) => stores.add(StoreKind::Ollama, Some(root)),
            None => {
                stores.add(StoreKind::Ollama, dirs.in_home(".ollama/models"));
                if cfg!(target_os = "linux") && dirs.home.is_some() {
                    // Where its installer has the service keep them.
                    let service = PathBuf::from("/usr/share/ollama/.ollama/models");
                    stores.add(StoreKind::Ollama, Some(service));
                }
            }
        }
        stores
    }

    /// Adds a store.
    #[must_use]
    pub fn with_store(mut self, kind: StoreKind, root: impl Into<PathBuf>) -> Self {
        self.0.push(Store::new(kind, root));
        self
    }

    fn add(&mut self, kind: StoreKind, root: Option<PathBuf>) {
        self.0.extend(root.map(|root| Store::new(kind, root)));
    }

    /// All of them, in the order in which names are looked up.
    pub fn iter(&self) -> impl Iterator<Item = &Store> {
        self.0.iter()
    }

    /// The models of those that exist; see [`Store::models`].
    pub fn models(&self) -> impl Iterator<Item = Result<DiscoveredModel>> + use<> {
        let existing: Vec<_> = self.0.iter().filter(|store| store.exists()).cloned().collect();
        existing.into_iter().flat_map(|store| store.models())
    }
}

/// The models of every store of this machine that exists: those of
/// [`Stores::from_env`].
pub fn discover_all() -> impl Iterator<Item = Result<DiscoveredModel>> {
    Stores::from_env().models()
}

/// The folders that stores lie in.
#[derive(Debug)]
pub(crate) struct Dirs {
    home: Option<PathBuf>,
    cache: Option<PathBuf>,
}

impl Dirs {
    pub(crate) fn from_vars(var: &impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { home: path("HOME").or_else(|| path("USERPROFILE")), cache: path("XDG_CACHE_HOME") }
    }

    /// The cache of the Hugging Face hub.
    pub(crate) fn hub_cache(&self, var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let own = self.var(var, "HF_HUB_CACHE").or_else(|| self.var(var, "HUGGINGFACE_HUB_CACHE"));
        own.or_else(|| Some(self.hub_home(var)?.join("hub")))
    }

    /// Where the tools of the hub keep everything.
    pub(crate) fn hub_home(&self, var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        self.var(var, "HF_HOME").or_else(|| Some(self.cache()?.join("huggingface")))
    }

    fn cache(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(|| self.in_home(".cache"))
    }

    fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }

    /// A folder that a variable names, `~` being the home folder.
    fn var(&self, var: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(var(name).filter(|value| !value.is_empty())?);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }
}
