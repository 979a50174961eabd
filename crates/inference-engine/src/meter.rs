//! Totals of an engine, shared with whoever asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inference_core::ModelMetrics;

/// Written by the engine thread, read by callers.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<ModelMetrics>);

impl Meter {
    fn lock(&self) -> MutexGuard<'_, ModelMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ModelMetrics)) {
        change(&mut self.lock());
    }

    pub(crate) fn read(&self) -> ModelMetrics {
        self.lock().clone()
    }
}

/// What the rows of one step became.
#[derive(Debug, Default)]
pub(crate) struct StepTally {
    /// Tokens generated.
    pub(crate) generated: u64,
    /// Drafted tokens that were verified.
    pub(crate) drafted: u64,
    /// Those of them that were right.
    pub(crate) accepted: u64,
    /// Times to first token.
    pub(crate) ttft: Vec<Duration>,
    /// Times from one token to the next, each with how many tokens in a row had
    /// it; zero for those that came in one step.
    pub(crate) itl: Vec<(Duration, u32)>,
    /// When the last of these had their tokens before.
    last: Option<Instant>,
}

impl StepTally {
    /// Notes a token that came `now`, the one before it at `last`: mostly in
    /// the step before, like those of its neighbours.
    pub(crate) fn note_gap(&mut self, now: Instant, last: Instant) {
        if self.last == Some(last)
            && let Some((_, count)) = self.itl.last_mut()
        {
            *count += 1;
            return;
        }
        self.last = Some(last);
        self.itl.push((now.duration_since(last), 1));
    }

    /// Adds it to the totals.
    pub(crate) fn add_to(&self, metrics: &mut ModelMetrics) {
        metrics.generated_tokens += self.generated;
        metrics.draft_tokens += self.drafted;
        metrics.accepted_draft_tokens += self.accepted;
        self.ttft.iter().for_each(|time| metrics.ttft.record(*time));
        for (time, count) in &self.itl {
            metrics.itl.record_many(*time, u64::from(*count));
        }
    }
}
