//! How a group computes.

use crate::{WeightDtype, WeightLayout, Workers};

/// Choices for a group of models.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BatchedOptions {
    /// Threads of a call, the calling one included; `None`: as many as the
    /// process may use CPUs. Results are the same bits for any number. CPU
    /// only.
    pub threads: Option<usize>,
    /// Threads that groups share; in place of [`threads`](Self::threads), not
    /// beside it. CPU only.
    pub workers: Option<Workers>,
    /// How weights are stored.
    pub dtype: WeightDtype,
    /// How weights lie in memory; `None`: by the size of a model. CPU only.
    pub layout: Option<WeightLayout>,
}

impl BatchedOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads of a call.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Threads that groups share.
    #[must_use]
    pub fn with_workers(mut self, workers: Workers) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How weights are stored.
    #[must_use]
    pub fn with_dtype(mut self, dtype: WeightDtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// How weights lie in memory.
    #[must_use]
    pub fn with_layout(mut self, layout: WeightLayout) -> Self {
        self.layout = Some(layout);
        self
    }
}
