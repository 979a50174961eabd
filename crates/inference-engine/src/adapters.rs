//! Adapters: as the engine gets them from a loader, and as requests hold them.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use inference_core::{AdapterInfo, Adapters, BASE_MODEL, Result};

use crate::model::EngineModel;
use crate::request::Requirements;

/// Stands for the weights of an adapter at a scale: what was loaded anew, or
/// has another scale, has another id, whatever its name. No two are the same
/// in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(u64);

impl AdapterId {
    /// An id that nothing else has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The right of one request to an adapter: as long as it is there, the adapter
/// is. It is given back where it is dropped, before the request's caller hears
/// of the end.
pub struct AdapterLease {
    id: AdapterId,
    name: Arc<str>,
    /// Dropped with the lease.
    _held: Box<dyn Any + Send + Sync>,
}

impl AdapterLease {
    /// A right to the adapter `id`, called `name`, that ends as `held` is
    /// dropped.
    #[must_use]
    pub fn new(id: AdapterId, name: Arc<str>, held: Box<dyn Any + Send + Sync>) -> Self {
        Self { id, name, _held: held }
    }

    /// What the steps of the request carry; see
    /// [`StepSequence::adapter`](crate::StepSequence::adapter).
    #[must_use]
    pub fn id(&self) -> AdapterId {
        self.id
    }

    /// The name by which it was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for AdapterLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterLease").field("id", &self.id).field("name", &self.name).finish()
    }
}

/// The adapters of a runner, shared between it and the threads of callers.
pub trait AdapterSource: Adapters + fmt::Debug {
    /// The adapter that a request uses which names this one. `None` asks for
    /// what a request uses that names none, which may be nothing.
    ///
    /// Called on the caller's thread before the request is queued; may read
    /// files.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// where no adapter has that name, naming those that there are;
    /// [`ErrorKind::Exhausted`](inference_core::ErrorKind::Exhausted) where
    /// there is no memory for it.
    fn acquire(&self, name: Option<&str>) -> Result<Option<AdapterLease>>;
}

impl Requirements {
    /// The adapter of a request that names this one, or none.
    ///
    /// # Errors
    ///
    /// As [`AdapterSource::acquire`]; `Unsupported` for a name where the model
    /// has no adapters.
    pub(crate) fn adapter(&self, name: Option<&str>) -> Result<Option<AdapterLease>> {
        match (&self.parts.adapters, name) {
            (Some(_), Some(BASE_MODEL)) => Ok(None),
            (Some(source), name) => source.acquire(name),
            (None, Some(_)) => Err(self.no_adapters()),
            (None, None) => Ok(None),
        }
    }

    fn adapters(&self) -> Result<&dyn AdapterSource> {
        self.parts.adapters.as_deref().ok_or_else(|| self.no_adapters())
    }
}

/// Those of the model, while it is open.
impl Adapters for EngineModel {
    fn load(&self, name: &str, path: &Path, scale: f32) -> Result<AdapterInfo> {
        self.mailbox.check_open()?;
        self.requirements.adapters()?.load(name, path, scale)
    }

    /// Requests that use it run on; nobody can name it any more from the call
    /// on, which returns when the last of them ended. A reader that does not
    /// read holds it up until it is cancelled for
    /// [lagging](inference_core::FinishReason::Lagging).
    fn unload(&self, name: &str) -> Result<()> {
        self.check_may_wait()?;
        self.requirements.adapters()?.unload(name)
    }

    fn set_scale(&self, name: &str, scale: f32) -> Result<()> {
        self.mailbox.check_open()?;
        self.requirements.adapters()?.set_scale(name, scale)
    }

    fn list(&self) -> Vec<AdapterInfo> {
        self.requirements.parts.adapters.as_ref().map(|source| source.list()).unwrap_or_default()
    }
}
