//! A request on its way to a slot.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::probe::RequestId;
use inference_core::{
    CancelToken, Completion, Error, FinishReason, GenerateMetrics, Result, TokenId,
};
use tracing::{Span, field};

use crate::adapters::{AdapterId, AdapterLease};
use crate::channel::TokenSender;
use crate::request::GeneratePlan;
use crate::scheduler::Rank;

/// A request that was checked and may be queued.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    /// The prompt, at least one token, all inside the vocabulary.
    pub(crate) ids: Vec<TokenId>,
    /// Keys and values of a prefix of `ids`, for positions that the prefix
    /// cache does not have. Of no use where the sharing class of this prompt, or
    /// the adapter, is another than theirs.
    pub(crate) restored: Option<Arc<KvBytes>>,
    /// The adapter that changes the weights for it.
    pub(crate) adapter: Option<AdapterLease>,
    pub(crate) priority: i32,
    /// Given as it enters the queue.
    pub(crate) rank: Rank,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) submitted: Instant,
    /// From the call to the end.
    pub(crate) span: Span,
    pub(crate) task: Task,
}

/// Keys and values outside of the pool.
pub(crate) struct KvBytes {
    /// The [sharing class](crate::KvBlocks::sharing_class) of the prompt that
    /// they were computed for.
    pub(crate) class: u64,
    /// The adapter that they were computed with.
    pub(crate) adapter: Option<AdapterId>,
    /// How many, from position 0.
    pub(crate) positions: usize,
    /// What [`KvBlocks::read_block`](crate::KvBlocks::read_block) returned, one
    /// position after the other.
    pub(crate) bytes: Vec<u8>,
}

impl KvBytes {
    /// The bytes of some positions.
    pub(crate) fn range(&self, positions: Range<usize>) -> Option<&[u8]> {
        let size = self.bytes.len().checked_div(self.positions)?;
        self.bytes.get(positions.start * size..positions.end * size)
    }
}

impl std::fmt::Debug for KvBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvBytes").field("positions", &self.positions).finish_non_exhaustive()
    }
}

/// The span of a request, below that of its caller.
pub(crate) fn request_span(
    id: RequestId,
    prompt_tokens: usize,
    adapter: Option<&AdapterLease>,
) -> Span {
    tracing::info_span!(
        "request",
        id = id.0,
        prompt_tokens,
        adapter = adapter.map(AdapterLease::name),
        cached = field::Empty,
        generated = field::Empty,
        reason = field::Empty,
    )
}

/// What a request wants.
#[derive(Debug)]
pub(crate) enum Task {
    /// Text.
    Generate(Box<GeneratePlan>, TokenSender),
    /// Logits of the prompt itself.
    Prefill(PrefillTask),
}

/// Wants logits of the prompt, and no token.
pub(crate) struct PrefillTask {
    /// Every position, or the last alone.
    pub(crate) all_rows: bool,
    pub(crate) consumer: Box<dyn RowConsumer>,
}

impl std::fmt::Debug for PrefillTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefillTask").field("all_rows", &self.all_rows).finish_non_exhaustive()
    }
}

/// Takes logits on the engine thread. Dropped without an end if the engine
/// stops.
pub(crate) trait RowConsumer: Send {
    /// One row, `[vocab]`, in the order of positions.
    fn row(&mut self, logits: &[f32]);

    /// Whether it wants the keys and values of the prompt.
    fn wants_kv(&self) -> bool {
        false
    }

    /// The keys and values of the prompt, before the end.
    fn kv(&mut self, bytes: KvBytes) {
        drop(bytes);
    }

    /// All rows came, or an error.
    fn end(self: Box<Self>, end: Result<()>);
}

impl Submission {
    /// Notes that it entered the queue as `arrival`-th, now, in an engine that
    /// started at `start`.
    pub(crate) fn enter_queue(&mut self, arrival: u64, start: Instant, aging: Duration) {
        self.submitted = Instant::now();
        let at = self.submitted.saturating_duration_since(start);
        self.rank = Rank::new(self.priority, aging, at, arrival);
    }

    /// How many tokens need not be computed if the cache has them: not the
    /// last one, whose logits are wanted.
    pub(crate) fn cache_limit(&self) -> usize {
        match &self.task {
            Task::Prefill(task) if task.all_rows => 0,
            _ => self.ids.len() - 1,
        }
    }

    /// Why it must not run any more, if so.
    pub(crate) fn overdue(&self, now: Instant) -> Option<FinishReason> {
        let dropped = match &self.task {
            Task::Generate(_, sender) => sender.is_cancelled(),
            Task::Prefill(_) => false,
        };
        overdue(dropped, self.cancel.as_ref(), self.deadline, now)
    }

    /// Ends it before it ran.
    pub(crate) fn end(self, outcome: Result<FinishReason>, active_bytes: u64) {
        let _entered = self.span.enter();
        let reason = outcome.as_ref().map_or("error", FinishReason::name);
        self.span.record("reason", reason);
        tracing::debug!(?outcome, "ends before it ran");
        drop(self.adapter);
        match self.task {
            Task::Generate(plan, sender) => {
                let waited = self.submitted.elapsed();
                let metrics = || {
                    let mut metrics = GenerateMetrics::default();
                    metrics.prompt_tokens = self.ids.len();
                    metrics.queue_time = waited;
                    metrics.total_time = waited;
                    metrics.active_bytes = active_bytes;
                    metrics.peak_bytes = active_bytes;
                    metrics
                };
                let completion = |reason| Completion::new(reason, metrics(), plan.seed);
                sender.end([], outcome.map(completion));
            }
            Task::Prefill(task) => task.consumer.end(refuse(outcome, self.cancel.as_ref())),
        }
    }
}

/// What a request without a stream answers when it ends early: by its token
/// `cancel`, its deadline, or else because the model is closed.
pub(crate) fn refuse(outcome: Result<FinishReason>, cancel: Option<&CancelToken>) -> Result<()> {
    let reason = outcome?;
    let asked = cancel.is_some_and(CancelToken::is_cancelled);
    Err(match reason {
        FinishReason::Cancelled if !asked => Error::Closed,
        reason => Error::Cancelled { reason },
    })
}

/// Why a request must end, if so: cancelled by its reader or token, or late.
pub(crate) fn overdue(
    dropped: bool,
    cancel: Option<&CancelToken>,
    deadline: Option<Instant>,
    now: Instant,
) -> Option<FinishReason> {
    if dropped || cancel.is_some_and(CancelToken::is_cancelled) {
        return Some(FinishReason::Cancelled);
    }
    deadline.filter(|deadline| *deadline <= now).map(|_| FinishReason::Deadline)
}

#[cfg(test)]
impl Submission {
    /// A request for the last row of a prompt of three tokens, which nobody
    /// waits for.
    pub(crate) fn test(id: u64) -> Self {
        struct Nobody;
        impl RowConsumer for Nobody {
            fn row(&mut self, _: &[f32]) {}
            fn end(self: Box<Self>, _: Result<()>) {}
        }
        let id = RequestId(id);
        Self {
            id,
            restored: None,
            ids: vec![1; 3],
            adapter: None,
            priority: 0,
            rank: Rank::default(),
            deadline: None,
            cancel: None,
            submitted: Instant::now(),
            span: request_span(id, 3, None),
            task: Task::Prefill(PrefillTask { all_rows: false, consumer: Box::new(Nobody) }),
        }
    }
}
