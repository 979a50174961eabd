//! The stream of one request's tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;

use crate::{Completion, Error, Result, Token};

/// What a [`TokenSource`] delivers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenEvent {
    /// The next token.
    Token(Token),
    /// The request ended; nothing follows.
    Finished(Completion),
    /// The request failed; nothing follows.
    Failed(Error),
}

/// What a backend implements to back a [`TokenStream`] or one item of a
/// [`BatchStream`](crate::BatchStream).
///
/// Dropping the source must cancel its request and give back what it holds.
pub trait TokenSource: Send {
    /// The next event. Work may begin with the first call, not before.
    ///
    /// [`Future::poll`]'s rules hold: after `Pending`, the waker of the latest
    /// call is woken once there is something to read; the call itself does not
    /// wait. It needs no async runtime and does not mind one. After `Finished`
    /// or `Failed` it is not called again.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent>;

    /// Asks the request to end as soon as it can, with
    /// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled). Tokens that
    /// are already on their way may still come, `Finished` certainly does; a
    /// request that was not submitted yet ends without computing anything.
    fn cancel(&mut self);
}

/// The tokens of one request, as they are generated.
///
/// It is lazy: the request is submitted when the stream is first read (or by
/// [`start`](Self::start)), and the engine never runs further ahead of the
/// reader than the stream's bounded buffer.
///
/// Read it as a blocking [`Iterator`], or as a [`futures_core::Stream`] in
/// async code. Both may be used from inside an async runtime without a panic,
/// although blocking there holds up its thread. Dropping the stream cancels
/// the request. End-of-sequence and stop tokens are never yielded. After an
/// error the stream is at its end.
///
/// ```
/// use inference_core::{FinishReason, Result, TokenStream};
///
/// fn print_all(mut stream: TokenStream) -> Result<()> {
///     for token in stream.by_ref() {
///         print!("{}", token?.text);
///     }
///     let completion = stream.finish()?;
///     assert_ne!(completion.finish_reason, FinishReason::Cancelled);
///     Ok(())
/// }
/// ```
pub struct TokenStream {
    source: Option<Box<dyn TokenSource>>,
    /// An event that `start` already read.
    pending: Option<TokenEvent>,
    outcome: Option<Result<Completion>>,
    /// Declared, and so dropped, after the source.
    guards: Guards,
}

/// What is kept until a request has ended; see [`TokenStream::with_guard`].
pub(crate) type Guards = Vec<Box<dyn Send>>;

impl TokenStream {
    /// A stream over `source`.
    #[must_use]
    pub fn new(source: Box<dyn TokenSource>) -> Self {
        Self { source: Some(source), pending: None, outcome: None, guards: Guards::new() }
    }

    /// Keeps `guard` until the end of the request was read or the stream is
    /// dropped, whichever comes first, and drops it then, after the request's
    /// own resources. For whoever must know that a stream is in use.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        if self.source.is_some() {
            self.guards.push(Box::new(guard));
        }
        self
    }

    /// Submits the request now, without waiting for a token.
    pub fn start(&mut self) {
        if self.pending.is_none()
            && let Some(source) = &mut self.source
            && let Poll::Ready(event) = source.poll_event(&mut Context::from_waker(Waker::noop()))
        {
            self.pending = Some(event);
        }
    }

    /// Asks the request to end early; the stream then ends, and
    /// [`finish`](Self::finish) reports
    /// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled) unless it
    /// had ended before.
    pub fn cancel(&mut self) {
        if let Some(source) = &mut self.source {
            source.cancel();
        }
    }

    /// How the request ended, if it has.
    #[must_use]
    pub fn completion(&self) -> Option<&Completion> {
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().ok())
    }

    /// Reads what is left, blocking, and returns how the request ended.
    ///
    /// Call [`cancel`](Self::cancel) first to end it early.
    ///
    /// # Errors
    ///
    /// The error that ended the request, also when the stream has already
    /// yielded it.
    pub fn finish(mut self) -> Result<Completion> {
        while self.outcome.is_none() {
            self.next();
        }
        self.take_outcome()
    }

    /// [`finish`](Self::finish), without blocking.
    ///
    /// # Errors
    ///
    /// The error that ended the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the stream, which cancels the request.
    pub async fn finish_async(mut self) -> Result<Completion> {
        while self.outcome.is_none() {
            NextToken(&mut self).await;
        }
        self.take_outcome()
    }

    /// The next token, without blocking; `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no token.
    pub fn next_async(&mut self) -> impl Future<Output = Option<Result<Token>>> + '_ {
        NextToken(self)
    }

    /// Reads the whole stream, blocking, into one text.
    ///
    /// # Errors
    ///
    /// The error that ended the request.
    pub fn collect_text(mut self) -> Result<(String, Completion)> {
        let mut text = String::new();
        for token in self.by_ref() {
            text.push_str(&token?.text);
        }
        Ok((text, self.finish()?))
    }

    fn take_outcome(&mut self) -> Result<Completion> {
        self.outcome
            .take()
            .unwrap_or_else(|| Err(Error::engine_message("the stream ended without an outcome")))
    }

    fn poll_token(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Token>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let event = match self.pending.take() {
            Some(event) => event,
            None => std::task::ready!(source.poll_event(cx)),
        };
        match event {
            TokenEvent::Token(token) => return Poll::Ready(Some(Ok(token))),
            TokenEvent::Finished(completion) => self.outcome = Some(Ok(completion)),
            TokenEvent::Failed(error) => self.outcome = Some(Err(error)),
        }
        self.source = None;
        self.guards.clear();
        match &self.outcome {
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
            _ => Poll::Ready(None),
        }
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream")
            .field("ended", &self.source.is_none())
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl Iterator for TokenStream {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        block_on(NextToken(self))
    }
}

impl Stream for TokenStream {
    type Item = Result<Token>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_token(cx)
    }
}

struct NextToken<'a>(&'a mut TokenStream);

impl Future for NextToken<'_> {
    type Output = Option<Result<Token>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_token(cx)
    }
}

/// Drives a future on this thread, sleeping in between. Unlike a runtime's
/// `block_on` it may be called from inside a runtime.
pub(crate) fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            return output;
        }
        signal.wait();
    }
}

/// A wake-up that is remembered until somebody waits for it.
///
/// Not `thread::park`: a thread has one park token, which a source that parks
/// inside its poll would take from us, and which we would take from a caller
/// that parks for reasons of its own.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            woken = self.changed.wait(woken).unwrap_or_else(PoisonError::into_inner);
        }
        *woken = false;
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}
