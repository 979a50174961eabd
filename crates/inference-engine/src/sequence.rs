//! A request in a slot.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeBus, ProbeEvent, ProbeKind, RequestId};
use inference_core::{CancelToken, Error, FinishReason, GenerateMetrics, TokenId};
use inference_text::Tokenizer;

use crate::adapters::AdapterLease;
use crate::generation::Generation;
use crate::kv_memory::BlockTable;
use crate::meter::StepTally;
use crate::scheduler::{Candidate, Rank, Share};
use crate::submission::{PrefillTask, Submission, Task, overdue, refuse};

/// A request that holds a slot and KV blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    /// The prompt and what was generated.
    pub(crate) ids: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    /// Tokens of `ids` whose keys and values are in the blocks.
    pub(crate) computed: usize,
    pub(crate) table: BlockTable,
    /// Given back before its reader hears of the end.
    pub(crate) adapter: Option<AdapterLease>,
    pub(crate) work: Work,
    pub(crate) rank: Rank,
    /// The most tokens of `ids` whose keys and values it had before it was last
    /// admitted. Of these no logits are wanted.
    known: usize,
    cached_prompt_tokens: usize,
    /// Whether it let another compute what both begin with.
    pub(crate) follows: bool,
    preemptions: u32,
    deadline: Option<Instant>,
    cancel: Option<CancelToken>,
    submitted: Instant,
    /// When the first step that worked on it began.
    started: Option<Instant>,
    peak_bytes: u64,
    span: tracing::Span,
}

/// What a sequence is for.
#[derive(Debug)]
pub(crate) enum Work {
    Generate(Box<Generation>),
    Prefill(PrefillTask),
}

/// How a request ends: with a reason, or an error. A prefill that has all its
/// rows ends with [`Ending::Complete`].
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Reason(FinishReason),
    Complete,
    Error(Error),
}

impl Ending {
    /// What a request ended by, in metrics and traces, where its output does
    /// not know better.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reason(reason) => reason.name(),
            Self::Complete => "complete",
            Self::Error(_) => "error",
        }
    }
}

impl Sequence {
    /// A sequence for a request, without blocks.
    pub(crate) fn admit(submission: Submission, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let Submission { id, ids, adapter, rank, deadline, cancel, submitted, span, task, .. } =
            submission;
        let work = match task {
            Task::Generate(plan, sender) => {
                Work::Generate(Box::new(Generation::new(*plan, &ids, tokenizer, sender)))
            }
            Task::Prefill(task) => Work::Prefill(task),
        };
        Self {
            id,
            prompt_len: ids.len(),
            ids,
            computed: 0,
            table: BlockTable::default(),
            adapter,
            work,
            rank,
            known: 0,
            cached_prompt_tokens: 0,
            follows: false,
            preemptions: 0,
            deadline,
            cancel,
            submitted,
            started: None,
            peak_bytes: 0,
            span,
        }
    }

    /// Gives it blocks that hold the keys and values of the first `computed`
    /// tokens. Returns how many prompt tokens it thereby need not compute.
    pub(crate) fn begin(&mut self, table: BlockTable, computed: usize) -> usize {
        self.table = table;
        self.computed = computed;
        let spared = computed.min(self.prompt_len).saturating_sub(self.known);
        self.cached_prompt_tokens += spared;
        self.known = self.known.max(computed);
        spared
    }

    /// Gives it blocks in which more is computed, as [`begin`](Self::begin) does;
    /// also returns those that it had.
    pub(crate) fn exchange(&mut self, table: BlockTable, computed: usize) -> (BlockTable, usize) {
        self.known = self.known.max(self.computed);
        let before = self.take_table();
        (before, self.begin(table, computed))
    }

    /// Tokens whose keys and values are to be computed.
    pub(crate) fn pending(&self) -> usize {
        self.ids.len() - self.computed
    }

    /// Gives up its blocks; nothing else is lost.
    pub(crate) fn preempt(&mut self) -> BlockTable {
        self.known = self.known.max(self.computed);
        self.computed = 0;
        self.preemptions += 1;
        self.take_table()
    }

    /// How many tokens need not be computed if the cache has them; see
    /// [`Submission::cache_limit`].
    pub(crate) fn cache_limit(&self) -> usize {
        match &self.work {
            Work::Prefill(task) if task.all_rows => self.known,
            _ => self.ids.len() - 1,
        }
    }

    /// How many tokens of a share of `len` are of the prompt and computed for
    /// the first time.
    pub(crate) fn new_prompt_tokens(&self, len: usize) -> usize {
        let end = self.prompt_len.min(self.computed + len);
        end.saturating_sub(self.computed.max(self.known))
    }

    /// Whether it waits for its reader.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(&self.work, Work::Generate(generation) if generation.is_parked())
    }

    /// What the scheduler may do with it; nothing while it is parked.
    pub(crate) fn candidate(&mut self, slot: usize) -> Candidate {
        let waits = self.pending();
        // What was preempted computes its own output again, like a prompt.
        let prefill = self.computed < self.prompt_len || waits > 1;
        let (pending, drafts) = match &mut self.work {
            Work::Generate(generation) if generation.is_parked() => (0, 0),
            Work::Generate(generation) => (waits, generation.draft(&self.ids, !prefill)),
            Work::Prefill(_) => (waits, 0),
        };
        Candidate { slot, pending, prefill, drafts, rank: self.rank }
    }

    /// The tokens of a share.
    pub(crate) fn tokens(&self, share: Share) -> impl Iterator<Item = TokenId> {
        let drafts = match &self.work {
            Work::Generate(generation) => generation.drafts(),
            Work::Prefill(_) => &[],
        };
        let pending = &self.ids[self.computed..self.computed + share.len];
        pending.iter().chain(drafts.iter().take(share.drafts)).copied()
    }

    /// Its blocks, for the pool.
    pub(crate) fn take_table(&mut self) -> BlockTable {
        std::mem::take(&mut self.table)
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.computed < self.prompt_len { Phase::Prefill } else { Phase::Decode }
    }

    /// Why it must not go on, if so. A parked sequence first tries to deliver.
    pub(crate) fn check(&mut self, now: Instant, lag: Duration) -> Option<FinishReason> {
        let dropped = match &self.work {
            Work::Generate(generation) => generation.is_cancelled(),
            Work::Prefill(_) => false,
        };
        if let Some(reason) = overdue(dropped, self.cancel.as_ref(), self.deadline, now) {
            return Some(reason);
        }
        match &mut self.work {
            Work::Generate(generation) => generation.flush(now, lag),
            Work::Prefill(_) => None,
        }
    }

    /// When [`check`](Self::check) may find something that no wake-up tells.
    pub(crate) fn next_check(&self, lag: Duration) -> (Option<Instant>, bool) {
        let lagging = match &self.work {
            Work::Generate(generation) => {
                generation.parked_since().and_then(|t| t.checked_add(lag))
            }
            Work::Prefill(_) => None,
        };
        let at = [self.deadline, lagging].into_iter().flatten().min();
        (at, self.cancel.is_some())
    }

    /// Notes that a step works on it, and how many bytes the model then holds.
    pub(crate) fn note_step(&mut self, now: Instant, active_bytes: u64) {
        self.started.get_or_insert(now);
        self.peak_bytes = self.peak_bytes.max(active_bytes);
    }

    /// Positions in a share whose logits are wanted.
    pub(crate) fn wanted_rows(&self, share: Share) -> Range<usize> {
        let end = self.computed + share.len;
        let all = matches!(&self.work, Work::Prefill(task) if task.all_rows);
        if all {
            self.computed.max(self.known).min(end)..end
        } else if end == self.ids.len() {
            end - 1..end + share.drafts
        } else {
            end..end
        }
    }

    /// Takes the logits of a computed share, one row per wanted position.
    ///
    /// A draft is verified by sampling as if there were none: the token of each
    /// position is drawn from its row, with the random number that belongs to
    /// its index, and the next row counts as long as the draft named that
    /// token. So the tokens are the same as without drafts, whatever the
    /// sampler does, and a draft is accepted with the probability that the
    /// model gives to it: that of speculative sampling where the draft is
    /// certain of itself (Leviathan et al., *Fast Inference from Transformers
    /// via Speculative Decoding*, 2023).
    ///
    /// What was computed after the first wrong draft is computed again; until
    /// then nobody reads it, since it lies behind `computed`.
    pub(crate) fn take_rows<'a>(
        &mut self,
        share: Share,
        rows: impl Iterator<Item = &'a [f32]>,
        now: Instant,
        bus: Option<&ProbeBus>,
        tally: &mut StepTally,
    ) -> Option<Ending> {
        self.computed += share.len;
        let _entered = self.span.enter();
        match &mut self.work {
            Work::Prefill(task) => {
                rows.for_each(|row| task.consumer.row(row));
                (self.computed == self.ids.len()).then_some(Ending::Complete)
            }
            Work::Generate(generation) => {
                let mut accepted = 0;
                let mut ending = None;
                for (row, expected) in rows.zip(0..) {
                    let draft = generation.drafts().get(expected).copied();
                    let draft = draft.filter(|_| expected < share.drafts);
                    match generation.last_token() {
                        Some(last) => tally.note_gap(now, last),
                        None => tally.ttft.push(now.duration_since(self.submitted)),
                    }
                    tally.generated += 1;
                    let length = self.ids.len();
                    ending = Self::advance(generation, &mut self.ids, self.id, row, now, bus);
                    // Ids grow but for a stop token.
                    let chosen = match &ending {
                        Some(Ending::Reason(FinishReason::StopToken(id))) => Some(*id),
                        _ => self.ids.get(length).copied(),
                    };
                    if draft.is_none() || draft != chosen {
                        break;
                    }
                    accepted += 1;
                    self.computed += self.ids.len() - length;
                    if ending.is_some() {
                        break;
                    }
                }
                generation.learn(share.drafts, accepted);
                tally.drafted += share.drafts as u64;
                tally.accepted += accepted as u64;
                ending
            }
        }
    }

    /// Wakes the reader for the tokens that it was sent.
    pub(crate) fn wake_reader(&mut self) {
        if let Work::Generate(generation) = &mut self.work {
            generation.wake_reader();
        }
    }

    fn advance(
        generation: &mut Generation,
        ids: &mut Vec<TokenId>,
        id: RequestId,
        row: &[f32],
        now: Instant,
        bus: Option<&ProbeBus>,
    ) -> Option<Ending> {
        if let Some(bus) = bus
            && bus.wants(ProbeKind::Logits)
        {
            let event = ProbeEvent::Logits { index: generation.generated(), values: row.into() };
            bus.emit(Some(id), Phase::Decode, event);
        }
        let probe = |index, token: &inference_core::Token| {
            if let Some(bus) = bus
                && bus.wants(ProbeKind::Token)
            {
                let text = token.text.clone();
                let event = ProbeEvent::Token { id: token.id, text, index };
                bus.emit(Some(id), Phase::Decode, event);
            }
        };
        match generation.advance(row, ids, now, probe) {
            Ok(reason) => reason.map(Ending::Reason),
            Err(error) => Some(Ending::Error(error)),
        }
    }

    /// Ends it: tells its reader. The caller has its blocks.
    pub(crate) fn end(self, ending: Ending, active_bytes: u64) -> Option<FinishReason> {
        let now = Instant::now();
        drop(self.adapter);
        let _entered = self.span.enter();
        tracing::debug!(?ending, "ends");
        self.span.record("cached", self.cached_prompt_tokens);
        let name = ending.name();
        let peak = self.peak_bytes.max(active_bytes);
        let reason = match self.work {
            Work::Prefill(task) => {
                let outcome = match ending {
                    Ending::Complete => Ok(()),
                    Ending::Reason(reason) => refuse(Ok(reason), self.cancel.as_ref()),
                    Ending::Error(error) => Err(error),
                };
                task.consumer.end(outcome);
                None
            }
            Work::Generate(generation) => {
                let mut metrics = GenerateMetrics::default();
                metrics.prompt_tokens = self.prompt_len;
                metrics.cached_prompt_tokens = self.cached_prompt_tokens;
                metrics.preemptions = self.preemptions;
                metrics.total_time = now.duration_since(self.submitted);
                let started = self.started.unwrap_or(now);
                metrics.queue_time = started.duration_since(self.submitted);
                metrics.peak_bytes = peak;
                metrics.active_bytes = active_bytes;
                generation.fill_times(&mut metrics, self.submitted, started, now);
                self.span.record("generated", generation.generated());
                generation.end(ending, metrics)
            }
        };
        self.span.record("reason", reason.as_ref().map_or(name, FinishReason::name));
        reason
    }
}
