//! Many requests in one call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::stream::block_on;
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
/// [`TokenEvent::Failed`]; one that fails does not disturb the others. Like
/// [`TokenStream`](crate::TokenStream) it is both a blocking [`Iterator`] and a
/// [`futures_core::Stream`], and dropping it cancels what still runs. All items
/// are submitted when it is first read.
pub struct BatchStream {
    items: Vec<Option<Box<dyn TokenSource>>>,
    /// Where the next poll begins, so that no item starves the others.
    cursor: usize,
}

impl BatchStream {
    /// A stream over one source per item, or the error that refused the item.
    #[must_use]
    pub fn new(items: Vec<Result<Box<dyn TokenSource>>>) -> Self {
        let refused = |error| -> Box<dyn TokenSource> { Box::new(Refused(Some(error))) };
        let items = items.into_iter().map(|item| Some(item.unwrap_or_else(refused))).collect();
        Self { items, cursor: 0 }
    }

    /// Asks every item that still runs to end.
    pub fn cancel(&mut self) {
        self.items.iter_mut().flatten().for_each(|source| source.cancel());
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
        let count = self.items.len();
        let mut running = false;
        let mut found = None;
        // Every source is polled, so that all are submitted and none starves;
        // a poll stops at the first event because events cannot be put back.
        for offset in 0..count {
            let index = (self.cursor + offset) % count;
            let Some(source) = &mut self.items[index] else { continue };
            running = true;
            if let Poll::Ready(event) = source.poll_event(cx) {
                found = Some((index, event));
                break;
            }
        }
        match found {
            Some((index, event)) => {
                self.cursor = index + 1;
                if !matches!(event, TokenEvent::Token(_)) {
                    self.items[index] = None;
                }
                Poll::Ready(Some((index, event)))
            }
            None if running => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchStream")
            .field("items", &self.items.len())
            .field("running", &self.items.iter().flatten().count())
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

/// An item that was refused before it could run.
struct Refused(Option<Error>);

impl TokenSource for Refused {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<TokenEvent> {
        Poll::Ready(TokenEvent::Failed(self.0.take().unwrap_or(Error::Closed)))
    }

    fn cancel(&mut self) {}
}
