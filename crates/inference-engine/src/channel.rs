//! The bounded channel from the engine to one stream.
//!
//! It is our own because a reader must be able to block inside an async
//! runtime: tokio's receivers take part in cooperative scheduling, and once a
//! task's budget is spent they report "not ready" and wait for the task to
//! yield, which a blocking reader never does.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use inference_core::{Completion, Error, Result, Token, TokenEvent};

use crate::mailbox::Mailbox;
use crate::sync::{AtomicBool, Mutex, MutexGuard};

#[derive(Debug)]
struct Channel {
    capacity: usize,
    /// The reader asked for the end, or is gone.
    cancelled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tokens: VecDeque<Token>,
    ending: Option<Result<Completion>>,
    ended: bool,
    /// The engine found the channel full, and waits for the reader.
    parked: bool,
    reader: Option<Waker>,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes a reader. A waker is the reader's code: what it does must not harm the
/// engine, so no lock is held, and a panic ends here.
pub(crate) fn wake(waker: Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
        tracing::error!("the waker of a stream panicked");
    }
}

/// Makes a channel of `capacity` tokens whose reader can wake `engine`.
pub(crate) fn channel(capacity: usize, engine: Arc<Mailbox>) -> (TokenSender, TokenReader) {
    let cancelled = AtomicBool::new(false);
    let channel = Arc::new(Channel { capacity, cancelled, state: Mutex::default() });
    let sender = TokenSender { channel: Arc::clone(&channel), sleeper: None };
    (sender, TokenReader { channel, engine })
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct TokenSender {
    channel: Arc<Channel>,
    /// A reader to be woken; see [`TokenSender::send`].
    sleeper: Option<Waker>,
}

impl TokenSender {
    /// Sends a token, or gives it back where the channel is full; the engine
    /// is then woken when the reader has taken a token.
    ///
    /// A reader that waits sleeps on until it is [woken](Self::wake_reader):
    /// who reads many streams shall find the tokens of a whole step.
    pub(crate) fn send(&mut self, token: Token) -> Result<(), Box<Token>> {
        let mut state = self.channel.lock();
        if state.tokens.len() >= self.channel.capacity {
            // Under the same lock as the check, so that no wake-up is lost.
            state.parked = true;
            return Err(Box::new(token));
        }
        state.tokens.push_back(token);
        if state.reader.is_some() {
            self.sleeper = state.reader.take();
        }
        Ok(())
    }

    /// Wakes the reader if it waits for what was sent.
    pub(crate) fn wake_reader(&mut self) {
        self.sleeper.take().into_iter().for_each(wake);
    }

    /// Whether nobody wants more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.channel.cancelled.load(Ordering::Acquire)
    }

    /// Ends the stream with the tokens that are left, a few at most, which do
    /// not count against the capacity.
    pub(crate) fn end(mut self, tail: impl IntoIterator<Item = Token>, ending: Result<Completion>) {
        self.finish(tail, ending);
    }

    fn finish(&mut self, tail: impl IntoIterator<Item = Token>, ending: Result<Completion>) {
        let mut state = self.channel.lock();
        if !std::mem::replace(&mut state.ended, true) {
            state.tokens.extend(tail);
            state.ending = Some(ending);
        }
        let reader = state.reader.take();
        drop(state);
        self.wake_reader();
        reader.into_iter().for_each(wake);
    }
}

impl Drop for TokenSender {
    /// A stream never hangs, even if the engine is unwinding.
    fn drop(&mut self) {
        self.finish([], Err(Error::engine_message("the engine thread stopped")));
    }
}

/// The stream's end. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct TokenReader {
    channel: Arc<Channel>,
    engine: Arc<Mailbox>,
}

impl TokenReader {
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        let mut state = self.channel.lock();
        if let Some(token) = state.tokens.pop_front() {
            let parked = std::mem::replace(&mut state.parked, false);
            drop(state);
            if parked {
                self.engine.wake();
            }
            return Poll::Ready(TokenEvent::Token(token));
        }
        match state.ending.take() {
            Some(Ok(completion)) => Poll::Ready(TokenEvent::Finished(completion)),
            Some(Err(error)) => Poll::Ready(TokenEvent::Failed(error)),
            None => {
                let earlier = state.reader.replace(cx.waker().clone());
                // A waker may own whatever it wakes; see `wake`.
                drop(state);
                drop(earlier);
                Poll::Pending
            }
        }
    }

    pub(crate) fn cancel(&self) {
        if !self.channel.cancelled.swap(true, Ordering::AcqRel) && !self.channel.lock().ended {
            self.engine.wake();
        }
    }
}

impl Drop for TokenReader {
    fn drop(&mut self) {
        self.cancel();
    }
}
