//! Who enters a slot, and who leaves before the next step.

use std::time::{Duration, Instant};

use inference_core::FinishReason;
use inference_core::probe::{Phase, ProbeEvent};

use crate::engine_thread::{CANCEL_POLL, Engine};
use crate::scheduler::{Rank, gathering};
use crate::sequence::{Ending, Sequence};

impl Engine {
    /// Ends what was cancelled, is late or lags.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let overdue: Vec<(Rank, FinishReason)> = self
            .waiting
            .iter()
            .filter_map(|(rank, submission)| Some((*rank, submission.overdue(now)?)))
            .collect();
        for (rank, reason) in overdue {
            if let Some(submission) = self.waiting.remove(&rank) {
                self.end_waiting(submission, Ok(reason));
            }
        }
        let lag = self.options.lag_timeout;
        for slot in (0..self.running.len()).rev() {
            if let Some(reason) = self.running[slot].check(now, lag) {
                self.end_running(slot, Ending::Reason(reason));
            }
        }
    }

    /// How long to wait for more requests before any runs.
    pub(crate) fn gathering(&self, now: Instant) -> Option<Duration> {
        if self.options.max_wait.is_zero() || !self.running.is_empty() || self.draining {
            return None;
        }
        let first = self.waiting.values().map(|submission| submission.submitted).min();
        let full = self.options.max_batch.min(self.options.max_queue);
        gathering(now, first, self.waiting.len(), full, self.options.max_wait)
    }

    /// Moves waiting requests into free slots, in the order of their rank.
    /// One that lacks blocks is not overtaken, so that it cannot starve.
    pub(crate) fn admit(&mut self) {
        while self.running.len() < self.options.max_batch
            && let Some(first) = self.waiting.first_entry()
        {
            let blocks = first.get().positions.div_ceil(self.spec.block_size);
            let Some(table) = self.pool.reserve(blocks) else {
                if !std::mem::replace(&mut self.short_of_blocks, true) {
                    let (used, total) = (self.pool.used(), self.pool.total());
                    let waiting = self.waiting.len();
                    let event = ProbeEvent::CachePressure { used, total, waiting };
                    self.emit(None, Phase::Queued, event);
                }
                return;
            };
            let submission = first.remove();
            let prompt_tokens = submission.ids.len();
            let event = ProbeEvent::Admitted { prompt_tokens, cached_tokens: 0 };
            self.emit(Some(submission.id), Phase::Queued, event);
            self.running.push(Sequence::admit(submission, table, self.tokenizer.clone()));
            self.mailbox.leave_queue();
        }
        self.short_of_blocks = false;
    }

    /// How long there is nothing to do; `None` until somebody wakes the
    /// engine.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let lag = self.options.lag_timeout;
        let waiting = self.waiting.values().map(|s| (s.deadline, s.cancel.is_some()));
        let running = self.running.iter().map(|sequence| sequence.next_check(lag));
        waiting
            .chain(running)
            .flat_map(|(at, polled)| {
                let until = at.map(|at| at.saturating_duration_since(now));
                [until, polled.then_some(CANCEL_POLL)]
            })
            .flatten()
            .min()
    }
}
