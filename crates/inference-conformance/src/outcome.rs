//! What came of one behaviour.

use std::fmt;

use inference_core::{CapabilityId, Error};

/// What came of holding one backend to one behaviour with one model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It behaves so.
    Pass {
        /// The largest absolute difference between its logits and the
        /// reference's, where logits were compared.
        worst_logit_difference: Option<f32>,
    },
    /// It does not; the message says what was expected and what was found.
    Fail(String),
    /// The backend declares that it lacks the ability, or refuses the option by
    /// name, and was found to answer so.
    Unsupported(String),
    /// Nothing to check: the model under test or its data lack something. Says
    /// what.
    NotApplicable(String),
}

impl Outcome {
    /// A pass without a comparison of logits.
    pub const PASS: Outcome = Outcome::Pass { worst_logit_difference: None };

    /// The stable name: `pass`, `fail`, `unsupported` or `n/a`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass { .. } => "pass",
            Self::Fail(_) => "fail",
            Self::Unsupported(_) => "unsupported",
            Self::NotApplicable(_) => "n/a",
        }
    }

    /// Whether the backend misbehaves.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fail(_))
    }

    /// What was found, or why nothing could be; empty for a pass.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Pass { .. } => "",
            Self::Fail(message) | Self::Unsupported(message) | Self::NotApplicable(message) => {
                message
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass { worst_logit_difference: Some(worst) } => write!(f, "pass ({worst:.1e})"),
            Self::Pass { .. } => f.write_str("pass"),
            other => write!(f, "{}: {}", other.name(), other.message()),
        }
    }
}

/// Why a check ended early. An [`Error`] where none belongs is a failure.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    Fail(String),
    Unsupported(String),
    NotApplicable(String),
}

/// What a check returns.
pub(crate) type Check = Result<Outcome, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(format!("unexpected error: {}", explained(&error)))
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fail(message) => Self::Fail(message),
            Stop::Unsupported(message) => Self::Unsupported(message),
            Stop::NotApplicable(message) => Self::NotApplicable(message),
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The check cannot be made, for this reason.
pub(crate) fn not_applicable<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::NotApplicable(reason.into()))
}

/// The backend does not do so.
pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(message.into()))
}

/// The ability is declared absent.
pub(crate) fn undeclared(id: CapabilityId, detail: &str) -> Outcome {
    let separator = if detail.is_empty() { "" } else { ": " };
    Outcome::Unsupported(format!("{}{separator}{detail}", id.as_str()))
}

/// Fails the check with a formatted message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        // A comparison with what is no number does not hold.
        let holds: bool = $condition;
        if !holds {
            return Err($crate::outcome::Stop::Fail(format!($($message)+)));
        }
    };
}

/// Fails the check unless both values are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            let what = format!($($message)+);
            return Err($crate::outcome::Stop::Fail(format!(
                "{what}: expected {right:?}, found {left:?}"
            )));
        }
    }};
}

pub(crate) use {ensure, ensure_eq};
