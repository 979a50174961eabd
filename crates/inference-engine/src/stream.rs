//! The source behind a stream of tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use inference_core::{Completion, FinishReason, GenerateMetrics, Result, TokenEvent, TokenSource};

use crate::channel::TokenReader;
use crate::mailbox::Mailbox;
use crate::submission::Submission;

/// What to do when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Fail with `Exhausted`.
    Refuse,
    /// Wait for room.
    Wait,
}

/// One request, submitted when it is first polled.
#[derive(Debug)]
pub(crate) struct EngineSource {
    mailbox: Arc<Mailbox>,
    reader: TokenReader,
    when_full: WhenFull,
    /// At most one, until it is submitted.
    unsubmitted: VecDeque<Submission>,
    /// How it ends if it is cancelled before it is submitted.
    seed: u64,
    cancelled: bool,
}

impl EngineSource {
    pub(crate) fn new(
        mailbox: Arc<Mailbox>,
        submission: Submission,
        reader: TokenReader,
        seed: u64,
        when_full: WhenFull,
    ) -> Self {
        let unsubmitted = VecDeque::from([submission]);
        Self { mailbox, reader, when_full, unsubmitted, seed, cancelled: false }
    }

    fn submit(&mut self, cx: &mut Context<'_>) -> Result<()> {
        match self.when_full {
            WhenFull::Wait => self.mailbox.submit_some(&mut self.unsubmitted, cx.waker()),
            WhenFull::Refuse => match self.unsubmitted.pop_front() {
                Some(submission) => self.mailbox.submit(submission),
                None => Ok(()),
            },
        }
    }
}

impl TokenSource for EngineSource {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        if let Some(submission) = self.unsubmitted.front() {
            if self.cancelled {
                let mut metrics = GenerateMetrics::default();
                metrics.prompt_tokens = submission.ids.len();
                let completion = Completion::new(FinishReason::Cancelled, metrics, self.seed);
                return Poll::Ready(TokenEvent::Finished(completion));
            }
            if let Err(error) = self.submit(cx) {
                return Poll::Ready(TokenEvent::Failed(error));
            }
            if !self.unsubmitted.is_empty() {
                return Poll::Pending;
            }
        }
        self.reader.poll(cx)
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.reader.cancel();
    }
}
