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
pub struct CancelToken(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    cancelled: AtomicBool,
    /// Cancelling any of these cancels this one.
    parents: Box<[CancelToken]>,
}

impl CancelToken {
    /// A token that nobody has cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token of its own that is also cancelled when any of `tokens` is, for a
    /// request that more than one party may end. Each level of nesting is one
    /// more look.
    ///
    /// ```
    /// use inference_core::CancelToken;
    ///
    /// let (user, server) = (CancelToken::new(), CancelToken::new());
    /// let request = CancelToken::any_of([user.clone(), server.clone()]);
    /// server.cancel();
    /// assert!(request.is_cancelled() && !user.is_cancelled());
    /// ```
    #[must_use]
    pub fn any_of(tokens: impl IntoIterator<Item = CancelToken>) -> Self {
        let parents = tokens.into_iter().collect();
        Self(Arc::new(Flag { cancelled: AtomicBool::new(false), parents }))
    }

    /// Asks every request that holds this token to end. Cannot be undone.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called, on this token or on one
    /// that it [follows](Self::any_of).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
            || self.0.parents.iter().any(CancelToken::is_cancelled)
    }
}
