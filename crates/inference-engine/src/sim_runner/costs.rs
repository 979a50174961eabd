//! What a simulated step costs.

use std::time::Duration;

use crate::runner::StepBatch;

/// The time that a step takes: a constant, and so much for each of its
/// sequences and tokens. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepCosts {
    /// Of every step.
    pub per_step: Duration,
    /// Of every sequence in a step.
    pub per_sequence: Duration,
    /// Of every token in a step.
    pub per_token: Duration,
}

impl StepCosts {
    /// Costs by step, by sequence and by token.
    #[must_use]
    pub fn new(per_step: Duration, per_sequence: Duration, per_token: Duration) -> Self {
        Self { per_step, per_sequence, per_token }
    }

    /// What `batch` costs.
    #[must_use]
    pub fn of(&self, batch: &StepBatch) -> Duration {
        let times = |cost: Duration, count: usize| {
            cost.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
        };
        self.per_step
            .saturating_add(times(self.per_sequence, batch.sequences.len()))
            .saturating_add(times(self.per_token, batch.tokens.len()))
    }
}

/// Whose time a step takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimClock {
    /// Nobody's: the costs are only added up, in
    /// [`SimControl::elapsed`](super::SimControl::elapsed). The engine reads
    /// the machine's clock, so its own times do not contain them.
    #[default]
    Virtual,
    /// The engine thread's: each step also sleeps for its cost.
    Real,
}
