//! What a training run reports.

use std::path::PathBuf;

use serde::Serialize;

/// Something that happened in a training run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrainingEvent {
    /// A step ended.
    Step {
        /// Steps so far, this one included.
        step: u64,
        /// Steps of the run.
        total: u64,
        /// Mean loss over the step's targets, before the update, in nats.
        loss: f32,
        /// The learning rate of the update.
        learning_rate: f64,
        /// The norm of the gradients, before clipping.
        gradient_norm: f64,
        /// Tokens of the step.
        tokens: u64,
        /// Those per second of the step.
        tokens_per_second: f64,
        /// The most memory that the process ever had, in bytes, where the
        /// operating system tells.
        peak_memory: Option<u64>,
    },
    /// The evaluation data was computed.
    Evaluation {
        /// Steps so far.
        step: u64,
        /// Mean loss over its targets, in nats.
        loss: f32,
        /// Whether it is the least so far.
        best: bool,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps so far.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
}

/// What a run does after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AfterEvent {
    /// It goes on.
    Continue,
    /// It ends after this step, with a checkpoint.
    Stop,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunEnd {
    /// All steps were taken.
    Finished,
    /// Evaluations did not get better.
    Patience,
    /// An event's receiver said so.
    Asked,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TrainingSummary {
    /// Steps so far, those before the run was continued included.
    pub steps: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Steps of the checkpoint that it continued from.
    pub resumed_from: u64,
    /// Loss of the first step since then.
    pub first_loss: Option<f32>,
    /// Loss of the last step.
    pub last_loss: Option<f32>,
    /// The least evaluation loss.
    pub best_evaluation: Option<f32>,
    /// Tokens since it continued.
    pub tokens: u64,
    /// Seconds since then.
    pub seconds: f64,
    /// Why it ended.
    pub end: RunEnd,
}

impl TrainingSummary {
    pub(crate) fn new(total: u64) -> Self {
        Self {
            steps: 0,
            total,
            resumed_from: 0,
            first_loss: None,
            last_loss: None,
            best_evaluation: None,
            tokens: 0,
            seconds: 0.0,
            end: RunEnd::Finished,
        }
    }

    pub(crate) fn add(&mut self, event: &TrainingEvent) {
        if let TrainingEvent::Step { loss, tokens, .. } = event {
            self.first_loss.get_or_insert(*loss);
            self.last_loss = Some(*loss);
            self.tokens += tokens;
        }
    }
}

/// The most memory that this process ever had, in bytes; `None` where the
/// operating system does not tell.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
