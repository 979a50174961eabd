//! The backends that a program can choose from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::{
    Availability, Backend, Capabilities, CapabilityId, Error, LoadOptions, ModelSource, Result,
    TextModel,
};

/// The order of automatic choice; backends not named here follow by name.
pub const AUTOMATIC_ORDER: [&str; 7] =
    ["metal", "rocm", "cuda", "cpu", "llama_cpp", "vulkan", "remote"];

/// A backend that registers itself when its crate is linked.
///
/// ```
/// use std::sync::Arc;
/// use inference_core::{BackendRegistration, Registry, inventory};
/// # use inference_core::doc::EchoBackend;
///
/// inventory::submit! { BackendRegistration::new(|| Arc::new(EchoBackend)) }
///
/// assert!(Registry::global().list().contains(&"echo".to_owned()));
/// ```
#[derive(Clone, Copy)]
pub struct BackendRegistration(fn() -> Arc<dyn Backend>);

impl BackendRegistration {
    /// A registration by constructor.
    #[must_use]
    pub const fn new(constructor: fn() -> Arc<dyn Backend>) -> Self {
        Self(constructor)
    }
}

impl fmt::Debug for BackendRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendRegistration(..)")
    }
}

inventory::collect!(BackendRegistration);

/// A set of backends by name.
///
/// [`Registry::global`] holds the backends whose crates are linked in.
/// [`Registry::new`] is empty, for isolation: give it backends with
/// [`register`](Self::register) or with a backend crate's own
/// `register(&Registry)`.
///
/// ```
/// use inference_core::doc;
/// use inference_core::{CapabilityId, ErrorKind, LoadOptions, Registry};
///
/// let registry = Registry::new();
/// doc::register(&registry);
/// assert_eq!(registry.list(), ["echo"]);
/// assert!(registry.capabilities("echo")?.status(CapabilityId::Generate).is_usable());
///
/// let model = registry.load_model("echo", &LoadOptions::new())?;
/// assert_eq!(model.info().backend, "echo");
///
/// let error = registry.get("cuda").err().unwrap();
/// assert_eq!(error.kind(), ErrorKind::UnknownBackend);
/// assert_eq!(error.to_string(), "unknown backend `cuda`; registered: echo");
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Default)]
pub struct Registry {
    backends: RwLock<BTreeMap<String, Arc<dyn Backend>>>,
}

impl Registry {
    /// A registry without backends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry of its own with every backend that is linked in. Where two
    /// of them bear the same name, it is not specified which one stays.
    #[must_use]
    pub fn linked() -> Self {
        let registry = Self::new();
        for registration in inventory::iter::<BackendRegistration> {
            registry.register((registration.0)());
        }
        registry
    }

    /// The process-wide registry, with every backend that is linked in.
    pub fn global() -> &'static Registry {
        static GLOBAL: OnceLock<Registry> = OnceLock::new();
        GLOBAL.get_or_init(Self::linked)
    }

    /// Adds a backend and returns the one of the same name that it replaces.
    pub fn register(&self, backend: Arc<dyn Backend>) -> Option<Arc<dyn Backend>> {
        // Asked before the lock: it is the backend's code.
        let name = backend.name().to_owned();
        let mut backends = self.backends.write().unwrap_or_else(PoisonError::into_inner);
        backends.insert(name, backend)
    }

    /// The backend of this name.
    ///
    /// # Errors
    ///
    /// [`NoBackendRegistered`](crate::ErrorKind::NoBackendRegistered) or
    /// [`UnknownBackend`](crate::ErrorKind::UnknownBackend).
    pub fn get(&self, name: &str) -> Result<Arc<dyn Backend>> {
        let backends = self.backends.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = backends.get(name) {
            return Ok(Arc::clone(backend));
        }
        if backends.is_empty() {
            return Err(Error::NoBackendRegistered);
        }
        Err(Error::UnknownBackend {
            name: name.to_owned(),
            known: backends.keys().cloned().collect(),
        })
    }

    fn get_available(&self, name: &str) -> Result<Arc<dyn Backend>> {
        let backend = self.get(name)?;
        match backend.availability() {
            Availability::Ready { .. } => Ok(backend),
            Availability::Unavailable { reason } => {
                Err(Error::BackendUnavailable { name: name.to_owned(), reason })
            }
        }
    }

    /// The names, sorted.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let backends = self.backends.read().unwrap_or_else(PoisonError::into_inner);
        backends.keys().cloned().collect()
    }

    /// The backends in the order of automatic choice.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Backend>> {
        let backends = self.backends.read().unwrap_or_else(PoisonError::into_inner);
        let rank = |name: &str| AUTOMATIC_ORDER.iter().position(|known| *known == name);
        let mut all: Vec<_> = backends.iter().collect();
        // Stable: those of no rank stay sorted by name.
        all.sort_by_key(|(name, _)| rank(name).unwrap_or(AUTOMATIC_ORDER.len()));
        all.into_iter().map(|(_, backend)| Arc::clone(backend)).collect()
    }

    /// The first backend, in the order of automatic choice, that can run here.
    ///
    /// # Errors
    ///
    /// [`NoBackendRegistered`](crate::ErrorKind::NoBackendRegistered) or
    /// [`NoBackendAvailable`](crate::ErrorKind::NoBackendAvailable) with each
    /// backend's reason.
    pub fn default_backend(&self) -> Result<Arc<dyn Backend>> {
        let mut reasons = Vec::new();
        for backend in self.all() {
            match backend.availability() {
                Availability::Ready { .. } => return Ok(backend),
                Availability::Unavailable { reason } => {
                    reasons.push((backend.name().to_owned(), reason));
                }
            }
        }
        if reasons.is_empty() {
            return Err(Error::NoBackendRegistered);
        }
        Err(Error::NoBackendAvailable { reasons })
    }

    /// Loads a model with the backend that the options name, or else with
    /// [`default_backend`](Self::default_backend).
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get) and
    /// [`default_backend`](Self::default_backend);
    /// [`BackendUnavailable`](crate::ErrorKind::BackendUnavailable);
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption);
    /// [`Error::Load`] with the backend's own error as its source.
    pub fn load_model(
        &self,
        source: impl Into<ModelSource>,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        let backend = match &options.backend {
            Some(name) => self.get_available(name)?,
            None => self.default_backend()?,
        };
        let source = source.into();
        backend.load_model(&source, options).map_err(|error| Error::Load {
            backend: backend.name().to_owned(),
            model: source.to_string(),
            source: Box::new(error),
        })
    }

    /// [`load_model`](Self::load_model), for a model that can be trained: its
    /// [`as_trainable`](TextModel::as_trainable) is `Some`.
    ///
    /// # Errors
    ///
    /// Those of [`load_model`](Self::load_model), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the model cannot
    /// be trained.
    pub fn load_trainable(
        &self,
        source: impl Into<ModelSource>,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        let model = self.load_model(source, options)?;
        if model.as_trainable().is_none() {
            let subject = format!("{} on backend `{}`", model.model_type(), model.info().backend);
            return Err(Error::unsupported(subject, CapabilityId::LoraTraining.as_str()));
        }
        Ok(model)
    }

    /// The capabilities of the backend of this name.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub fn capabilities(&self, name: &str) -> Result<Capabilities> {
        Ok(self.get(name)?.capabilities())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.list()).finish()
    }
}
