//! Sequences (draft head; the manual follows).

mod runner;

pub use runner::{BlockId, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence};
