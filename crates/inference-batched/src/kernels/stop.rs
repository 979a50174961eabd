//! Whether a call goes on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use inference_core::CancelToken;

/// What ends a call before its last model.
#[derive(Debug)]
pub(crate) struct Stop<'a> {
    cancel: Option<&'a CancelToken>,
    cancelled: AtomicBool,
    /// The least index of a model without weights; `usize::MAX`: none so far.
    missing: AtomicUsize,
}

impl<'a> Stop<'a> {
    pub(crate) fn new(cancel: Option<&'a CancelToken>) -> Self {
        let missing = AtomicUsize::new(usize::MAX);
        Self { cancel, cancelled: AtomicBool::new(false), missing }
    }

    /// Whether the call was cancelled; asked between layers.
    #[inline]
    pub(crate) fn between_layers(&self) -> bool {
        match self.cancel {
            None => false,
            Some(token) => {
                let cancelled = token.is_cancelled();
                if cancelled {
                    self.cancelled.store(true, Ordering::Relaxed);
                }
                cancelled
            }
        }
    }

    /// Takes note of a model without weights.
    pub(crate) fn miss(&self, model: usize) {
        self.missing.fetch_min(model, Ordering::Relaxed);
    }

    /// Whether any model without weights was met.
    pub(crate) fn missed(&self) -> bool {
        self.missing() < usize::MAX
    }

    /// The least model without weights that was met, or `usize::MAX`.
    pub(crate) fn missing(&self) -> usize {
        self.missing.load(Ordering::Relaxed)
    }

    /// Whether any part of the call was left out because of its token.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
