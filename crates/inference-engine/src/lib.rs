//! Sequences (draft head; the manual follows).

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod block_pool;
mod channel;
mod classify;
mod engine_thread;
mod generation;
mod mailbox;
mod meter;
mod model;
mod options;
mod parts;
mod request;
mod rng;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
#[cfg(any(test, feature = "test-support"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-support")))]
pub mod sim_runner;
mod stream;
mod submission;
mod text_output;

#[cfg(test)]
mod tests;

pub use model::EngineModel;
pub use options::EngineOptions;
pub use parts::ModelParts;
pub use runner::{BlockId, MemoryUsage, ModelRunner, RunnerSpec, StepBatch, StepSequence};
