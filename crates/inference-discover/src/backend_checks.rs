//! Which backends could load a model, and why the others could not.

use std::fmt;
use std::sync::Arc;

use inference_core::{Availability, Backend, DiscoveredModel, Registry};

/// The backends of a registry, asked once whether they can run here.
///
/// ```
/// use inference_core::{DiscoveredModel, Registry};
/// use inference_discover::BackendChecks;
///
/// let checks = BackendChecks::new(&Registry::linked());
/// let mut model = DiscoveredModel::default();
/// checks.fill(&mut model);
/// assert!(model.backends.is_empty(), "no backend is linked into this example");
/// ```
pub struct BackendChecks(Vec<(Arc<dyn Backend>, Option<String>)>);

impl BackendChecks {
    /// The backends of `registry`, in the order of automatic choice.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let ask = |backend: Arc<dyn Backend>| {
            let reason = match backend.availability() {
                Availability::Unavailable { reason } => Some(format!("unavailable: {reason}")),
                _ => None,
            };
            (backend, reason)
        };
        Self(registry.all().into_iter().map(ask).collect())
    }

    /// Sets [`DiscoveredModel::backends`]: what the backend says about the
    /// model, else why it cannot run on this machine, else `None`.
    pub fn fill(&self, model: &mut DiscoveredModel) {
        let check = |(backend, unavailable): &(Arc<dyn Backend>, Option<String>)| {
            let refused = backend.accepts(model).err().map(|error| error.to_string());
            (backend.name().to_owned(), refused.or_else(|| unavailable.clone()))
        };
        model.backends = self.0.iter().map(check).collect();
    }
}

impl fmt::Debug for BackendChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(backend, _)| backend.name());
        f.debug_tuple("BackendChecks").field(&names.collect::<Vec<_>>()).finish()
    }
}
