//! The conformance suite of inference backends: named [behaviours]
//! that the contract of [`inference_core`] demands, each with a check for any
//! backend and model.
//!
//! # Holding a backend to it
//!
//! A test without a harness of its own (`harness = false` in the manifest) is
//! one call:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use inference_conformance::{ModelUnderTest, SuiteOptions, run};
//! use inference_core::{Registry, doc};
//!
//! fn main() -> ExitCode {
//!     let registry = Registry::new();
//!     doc::register(&registry); // yours
//!     run(&registry, &SuiteOptions::new().with_model(ModelUnderTest::new("echo", "echo")))
//! }
//! ```
//!
//! It takes the arguments of the standard test harness. [`suite`] gives the
//! same as a list of trials, [`report`] runs everything and gives a table or
//! JSON, [`run_one`] holds one backend to one behaviour.
//!
//! # What is executed
//!
//! What a backend declares usable in its
//! [`capabilities`](inference_core::Backend::capabilities) is executed; what it
//! does not is checked to answer
//! [`Unsupported`](inference_core::ErrorKind::Unsupported), or `None` where an
//! accessor gives it. So there are four [outcomes](Outcome): pass, fail,
//! unsupported (and it says so), and not applicable, where the model or what is
//! known about it lacks something, such as a tokenizer.
//!
//! What is known about a model is [plain data](ModelUnderTest): reference logits,
//! greedy ids, texts that a chat template gives. The suite itself knows neither
//! tokenizers nor tensors.
//!
//! Checks count (requests, forward passes, tokens, events) rather than measure
//! time; where they wait, it is for something that has to come, and
//! [`HANG_AFTER`] bounds it.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod adapter_folder;
mod behaviour;
mod behaviours;
mod context;
mod execution;
mod model_under_test;
mod outcome;
mod recorder;
mod references;
mod refusal;
mod report;
mod suite;

pub use behaviour::{Behaviour, behaviour, behaviours};
pub use execution::{HANG_AFTER, run_one, run_within};
pub use model_under_test::{LoadRefusal, ModelUnderTest, Reference, TemplateGolden};
pub use outcome::Outcome;
pub use report::{Column, Report};
pub use suite::{SuiteOptions, report, run, suite};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
