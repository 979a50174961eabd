//! Totals of an engine, shared with whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use inference_core::ModelMetrics;

/// Written by the engine thread, read by callers.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<ModelMetrics>);

impl Meter {
    fn lock(&self) -> MutexGuard<'_, ModelMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ModelMetrics)) {
        change(&mut self.lock());
    }

    pub(crate) fn read(&self) -> ModelMetrics {
        self.lock().clone()
    }
}
