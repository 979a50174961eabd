//! What goes wrong in a simulated step.

use inference_core::TokenId;

use super::mix;

/// What goes wrong in a forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimFault {
    /// It fails, and the runner can go on or not.
    Error {
        /// Whether the runner can go on.
        survives: bool,
    },
    /// It panics.
    Panic,
    /// The logits of every row that belongs to a prompt beginning with this
    /// token are NaN.
    Nan(TokenId),
    /// The logits of every row of this sequence of the step are NaN, counted
    /// from 0 and modulo their number.
    NanSequence(usize),
    /// It returns one logit too few, and the runner cannot go on.
    Short,
}

/// How probable it is that a step goes wrong, by kind; together at most 1. All
/// 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FaultRates {
    /// [`SimFault::Error`] that the runner survives.
    pub error: f64,
    /// [`SimFault::NanSequence`], of any sequence of the step.
    pub nan: f64,
    /// [`SimFault::Error`] that the runner does not survive.
    pub fatal: f64,
    /// [`SimFault::Panic`].
    pub panic: f64,
    /// [`SimFault::Short`].
    pub short: f64,
}

impl FaultRates {
    /// Sets the rate of errors that the runner survives.
    #[must_use]
    pub fn with_error(mut self, rate: f64) -> Self {
        self.error = rate;
        self
    }

    /// Sets the rate of sequences whose logits are NaN.
    #[must_use]
    pub fn with_nan(mut self, rate: f64) -> Self {
        self.nan = rate;
        self
    }

    /// Sets the rate of errors that the runner does not survive.
    #[must_use]
    pub fn with_fatal(mut self, rate: f64) -> Self {
        self.fatal = rate;
        self
    }

    /// Sets the rate of panics.
    #[must_use]
    pub fn with_panic(mut self, rate: f64) -> Self {
        self.panic = rate;
        self
    }

    /// Sets the rate of steps that return too little.
    #[must_use]
    pub fn with_short(mut self, rate: f64) -> Self {
        self.short = rate;
        self
    }

    /// What goes wrong in step `index`: a pure function of both and the seed.
    pub(super) fn draw(&self, seed: u64, index: usize) -> Option<SimFault> {
        let word = mix(seed ^ mix(index as u64));
        let mut unit = (word >> 11) as f64 / (1_u64 << 53) as f64;
        let sequence = mix(word) as usize;
        [
            (self.error, SimFault::Error { survives: true }),
            (self.nan, SimFault::NanSequence(sequence)),
            (self.fatal, SimFault::Error { survives: false }),
            (self.panic, SimFault::Panic),
            (self.short, SimFault::Short),
        ]
        .into_iter()
        .find_map(|(rate, fault)| {
            unit -= rate;
            (unit < 0.0).then_some(fault)
        })
    }
}

/// A fault that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InjectedFault {
    /// The step, from 0.
    pub step: usize,
    /// What went wrong.
    pub fault: SimFault,
    /// The sequences of the step that a correct engine ends for it.
    pub victims: usize,
}
