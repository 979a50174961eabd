//! The source behind a stream of tokens.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use inference_core::probe::RequestId;
use inference_core::{Completion, FinishReason, GenerateMetrics, TokenEvent, TokenSource};

use crate::channel::TokenReader;
use crate::mailbox::Mailbox;
use crate::request::GeneratePlan;
use crate::submission::{Submission, Task};
use crate::sync::Mutex;

/// Requests that are submitted together, when any of their sources is first
/// polled: so the engine sees a whole batch at once. In ascending order of
/// their ids; empties as they are submitted.
pub(crate) type Group = Arc<Mutex<VecDeque<Submission>>>;

/// What to do when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Fail with `Exhausted`.
    Refuse,
    /// Wait for room.
    Wait,
}

/// One request, submitted when it, or another of its group, is first polled.
#[derive(Debug)]
pub(crate) struct EngineSource {
    id: RequestId,
    mailbox: Arc<Mailbox>,
    reader: TokenReader,
    when_full: WhenFull,
    group: Group,
    submitted: bool,
    cancelled: bool,
}

impl EngineSource {
    /// A source for the request `id`, which is in `group`.
    pub(crate) fn new(
        id: RequestId,
        mailbox: Arc<Mailbox>,
        reader: TokenReader,
        group: Group,
        when_full: WhenFull,
    ) -> Self {
        Self { id, mailbox, reader, when_full, group, submitted: false, cancelled: false }
    }

    /// Ready when the request is on its way, with an event if it never will
    /// be.
    fn submit(&mut self, cx: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.id;
        if let Ok(own) = group.binary_search_by_key(&id, |submission| submission.id) {
            if self.cancelled {
                return Poll::Ready(Some(TokenEvent::Finished(unsubmitted(group.remove(own)))));
            }
            let outcome = match self.when_full {
                WhenFull::Wait => self.mailbox.submit_some(&mut group, cx.waker()),
                WhenFull::Refuse => {
                    group.remove(own).map_or(Ok(()), |own| self.mailbox.submit(own))
                }
            };
            if let Err(error) = outcome {
                return Poll::Ready(Some(TokenEvent::Failed(error)));
            }
        }
        self.submitted = group.binary_search_by_key(&id, |submission| submission.id).is_err();
        if self.submitted { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// How a request ends that was cancelled before it was submitted.
fn unsubmitted(submission: Option<Submission>) -> Completion {
    let mut metrics = GenerateMetrics::default();
    let mut seed = 0;
    if let Some(Submission { ids, task: Task::Generate(plan, _), .. }) = submission {
        let GeneratePlan { seed: own, .. } = *plan;
        metrics.prompt_tokens = ids.len();
        seed = own;
    }
    Completion::new(FinishReason::Cancelled, metrics, seed)
}

impl TokenSource for EngineSource {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        if !self.submitted {
            match self.submit(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(event)) => return Poll::Ready(event),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.reader.poll(cx)
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.reader.cancel();
    }
}
