//! Sources that a test scripts, and executors small enough to trust.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use inference_core::{Completion, FinishReason, GenerateMetrics, Token, TokenEvent, TokenSource};

pub(crate) fn token(id: u32) -> TokenEvent {
    TokenEvent::Token(Token::new(id, id.to_string()))
}

pub(crate) fn finished(reason: FinishReason) -> TokenEvent {
    TokenEvent::Finished(Completion::new(reason, GenerateMetrics::default(), 0))
}

/// What a test knows and says of its source.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: VecDeque<TokenEvent>,
    waker: Option<Waker>,
    polls: usize,
    cancelled: bool,
    dropped: bool,
    ended: bool,
}

impl Script {
    pub(crate) fn new(events: impl IntoIterator<Item = TokenEvent>) -> Self {
        let script = Self::default();
        script.0.lock().unwrap().events.extend(events);
        script
    }

    pub(crate) fn source(&self) -> Box<dyn TokenSource> {
        Box::new(Scripted(self.clone()))
    }

    pub(crate) fn push(&self, event: TokenEvent) {
        let mut state = self.0.lock().unwrap();
        state.events.push_back(event);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn waker(&self) -> Option<Waker> {
        self.0.lock().unwrap().waker.clone()
    }

    pub(crate) fn polls(&self) -> usize {
        self.0.lock().unwrap().polls
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.0.lock().unwrap().cancelled
    }

    pub(crate) fn dropped(&self) -> bool {
        self.0.lock().unwrap().dropped
    }
}

struct Scripted(Script);

impl TokenSource for Scripted {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        let mut state = self.0.0.lock().unwrap();
        assert!(!state.ended, "polled after its end");
        state.polls += 1;
        let cancelled = state.cancelled.then(|| finished(FinishReason::Cancelled));
        match state.events.pop_front().or(cancelled) {
            Some(event) => {
                state.ended = !matches!(event, TokenEvent::Token(_));
                Poll::Ready(event)
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn cancel(&mut self) {
        let mut state = self.0.0.lock().unwrap();
        state.cancelled = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().dropped = true;
    }
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct CountingWaker(AtomicUsize);

impl CountingWaker {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Drives a future by parking this thread, as a small runtime does.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

/// The next item of a `Stream`, as async code awaits it.
pub(crate) async fn next<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_next(cx)).await
}
