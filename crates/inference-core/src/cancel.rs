//! Cancellation that any thread can ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag shared between a caller and the requests it may want to end.
///
/// Clones share the flag. The engine looks at it at every step, so a request
/// ends within one step of [`CancelToken::cancel`], with
/// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
///
/// ```
/// use inference_core::{CancelToken, GenerateOptions};
///
/// let cancel = CancelToken::new();
/// let options = GenerateOptions::new().with_cancel(cancel.clone());
/// cancel.cancel();
/// assert!(options.cancel.is_some_and(|token| token.is_cancelled()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every request that holds this token to end. Cannot be undone.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
