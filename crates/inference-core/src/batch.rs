//! Many requests in one call.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;

use crate::stream::{Guards, block_on};
use crate::{Completion, Error, GenerateOptions, Prompt, Result, Token, TokenEvent, TokenSource};

/// One request of a batch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchItem {
    /// What it starts from.
    pub prompt: Prompt,
    /// Its own options.
    pub options: GenerateOptions,
}

impl BatchItem {
    /// A request with default options.
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        Self { prompt: prompt.into(), options: GenerateOptions::default() }
    }

    /// Sets the options.
    #[must_use]
    pub fn with_options(mut self, options: GenerateOptions) -> Self {
        self.options = options;
        self
    }
}

/// The outcome of one item, read to its end.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BatchOutput {
    /// The whole text.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// How it ended.
    pub completion: Completion,
}

/// The events of a batch as they come: `(index of the item, event)`.
///
/// Every item ends with exactly one [`TokenEvent::Finished`] or
/// [`TokenEvent::Failed`]; one that fails does not disturb the others. All
/// items are submitted when the stream is first read, and none starves: an item
/// that has just delivered queues behind those that are ready too. An event
/// costs the same however many items wait.
///
/// Like [`TokenStream`](crate::TokenStream) it is both a blocking [`Iterator`]
/// and a [`futures_core::Stream`], and dropping it cancels what still runs.
///
/// ```
/// use inference_core::doc::EchoBackend;
/// use inference_core::{Backend, BatchItem, LoadOptions, TokenEvent};
///
/// let model = EchoBackend.load_model(&"echo".into(), &LoadOptions::new())?;
/// let mut texts = vec![String::new(); 2];
/// for (index, event) in model.batch_generate(vec![BatchItem::new("one"), BatchItem::new("two")])? {
///     match event {
///         TokenEvent::Token(token) => texts[index].push_str(&token.text),
///         TokenEvent::Failed(error) => return Err(error),
///         _ => {}
///     }
/// }
/// assert_eq!(texts, ["one", "two"]);
/// # Ok::<(), inference_core::Error>(())
/// ```
pub struct BatchStream {
    items: Vec<Item>,
    /// Items that have not ended.
    running: usize,
    submitted: bool,
    /// What submitting the items brought at once; at most one event per item.
    early: VecDeque<(usize, TokenEvent)>,
    ready: Arc<ReadyQueue>,
    /// Declared, and so dropped, after the items.
    guards: Guards,
}

struct Item {
    /// `None` once the item has ended.
    source: Option<Box<dyn TokenSource>>,
    /// Puts the item into the ready queue.
    waker: Waker,
}

impl BatchStream {
    /// A stream over one source per item, or the error that refused the item.
    #[must_use]
    pub fn new(items: Vec<Result<Box<dyn TokenSource>>>) -> Self {
        let ready = Arc::new(ReadyQueue::new(items.len()));
        let item = |(index, source): (usize, Result<Box<dyn TokenSource>>)| Item {
            source: Some(source.unwrap_or_else(|error| Box::new(Refused(Some(error))))),
            waker: Waker::from(Arc::new(ItemWaker { index, ready: Arc::clone(&ready) })),
        };
        let items: Vec<_> = items.into_iter().enumerate().map(item).collect();
        let (running, early) = (items.len(), VecDeque::new());
        Self { items, running, submitted: false, early, ready, guards: Guards::new() }
    }

    /// Keeps `guard` until the end of every item was read or the stream is
    /// dropped, whichever comes first, and drops it then, as
    /// [`TokenStream::with_guard`](crate::TokenStream::with_guard) does.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        if self.running > 0 {
            self.guards.push(Box::new(guard));
        }
        self
    }

    /// Asks every item that still runs to end. Read on to see their ends.
    pub fn cancel(&mut self) {
        for source in self.items.iter_mut().filter_map(|item| item.source.as_mut()) {
            source.cancel();
        }
    }

    /// Reads everything, blocking; one result per item, in their order.
    #[must_use]
    pub fn collect_all(mut self) -> Vec<Result<BatchOutput>> {
        let mut tokens: Vec<Vec<Token>> = self.items.iter().map(|_| Vec::new()).collect();
        let mut ends: Vec<Option<Result<Completion>>> = self.items.iter().map(|_| None).collect();
        for (index, event) in self.by_ref() {
            match event {
                TokenEvent::Token(token) => tokens[index].push(token),
                TokenEvent::Finished(completion) => ends[index] = Some(Ok(completion)),
                TokenEvent::Failed(error) => ends[index] = Some(Err(error)),
            }
        }
        let gather = |(tokens, end): (Vec<Token>, Option<Result<Completion>>)| {
            let missing = || Err(Error::engine_message("the item ended without an outcome"));
            let completion = end.unwrap_or_else(missing)?;
            let text = tokens.iter().map(|token| token.text.as_str()).collect();
            Ok(BatchOutput { text, tokens, completion })
        };
        tokens.into_iter().zip(ends).map(gather).collect()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, TokenEvent)>> {
        if self.running == 0 {
            return Poll::Ready(None);
        }
        // Before any poll, so that no wake-up falls between the two.
        self.ready.set_reader(cx.waker());
        if !self.submitted {
            self.submitted = true;
            for index in 0..self.items.len() {
                if let Poll::Ready(event) = self.poll_item(index) {
                    self.early.push_back((index, event));
                }
            }
        }
        if let Some((index, event)) = self.early.pop_front() {
            return Poll::Ready(Some(self.deliver(index, event)));
        }
        // A source that wakes itself is not polled twice in one call: it would
        // keep the reader's thread for ever.
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop() else { break };
            if let Poll::Ready(event) = self.poll_item(index) {
                return Poll::Ready(Some(self.deliver(index, event)));
            }
        }
        if self.ready.len() > 0 {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_item(&mut self, index: usize) -> Poll<TokenEvent> {
        let Item { source, waker } = &mut self.items[index];
        // A waker may outlive its item.
        let Some(source) = source else { return Poll::Pending };
        source.poll_event(&mut Context::from_waker(waker))
    }

    fn deliver(&mut self, index: usize, event: TokenEvent) -> (usize, TokenEvent) {
        if matches!(event, TokenEvent::Token(_)) {
            // There may be more; a source wakes only after `Pending`.
            self.ready.push(index);
        } else {
            self.items[index].source = None;
            self.running -= 1;
            if self.running == 0 {
                self.guards.clear();
            }
        }
        (index, event)
    }
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream")
            .field("items", &self.items.len())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Iterator for BatchStream {
    type Item = (usize, TokenEvent);

    fn next(&mut self) -> Option<Self::Item> {
        block_on(NextEvent(self))
    }
}

impl Stream for BatchStream {
    type Item = (usize, TokenEvent);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_event(cx)
    }
}

struct NextEvent<'a>(&'a mut BatchStream);

impl Future for NextEvent<'_> {
    type Output = Option<(usize, TokenEvent)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_event(cx)
    }
}

/// The items that may have an event, in the order in which they said so.
struct ReadyQueue(Mutex<Ready>);

struct Ready {
    queue: VecDeque<usize>,
    /// For each item whether it is in the queue.
    queued: Vec<bool>,
    /// Whoever waits for the batch.
    reader: Option<Waker>,
}

impl ReadyQueue {
    fn new(items: usize) -> Self {
        Self(Mutex::new(Ready {
            queue: VecDeque::with_capacity(items),
            queued: vec![false; items],
            reader: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_reader(&self, waker: &Waker) {
        let mut ready = self.lock();
        match &mut ready.reader {
            Some(reader) => reader.clone_from(waker),
            None => ready.reader = Some(waker.clone()),
        }
    }

    fn push(&self, index: usize) {
        let mut ready = self.lock();
        if !std::mem::replace(&mut ready.queued[index], true) {
            ready.queue.push_back(index);
        }
    }

    fn pop(&self) -> Option<usize> {
        let mut ready = self.lock();
        let index = ready.queue.pop_front()?;
        ready.queued[index] = false;
        Some(index)
    }

    fn len(&self) -> usize {
        self.lock().queue.len()
    }
}

struct ItemWaker {
    index: usize,
    ready: Arc<ReadyQueue>,
}

impl Wake for ItemWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.index);
        // Taken, for one wake-up per poll is enough; woken without the lock,
        // which a waker that polls at once would take again.
        let reader = self.ready.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// An item that was refused before it could run.
struct Refused(Option<Error>);

impl TokenSource for Refused {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<TokenEvent> {
        Poll::Ready(TokenEvent::Failed(self.0.take().unwrap_or(Error::Closed)))
    }

    fn cancel(&mut self) {}
}
