//! A backend of byte n-gram models: small, real, and written as a third party
//! would write one. The README walks through it.
//!
//! | file | what it holds |
//! |---|---|
//! | `counts.rs` | the model itself: counts of n-grams, read, taken and smoothed |
//! | `byte_vocabulary.rs` | its tokenizer: a token per byte |
//! | `runner.rs` | [`ModelRunner`](inference_engine::ModelRunner): logits of a batch |
//! | `backend.rs` | [`Backend`](inference_core::Backend): what it can do, and loading |

#![forbid(unsafe_code)]

mod backend;
mod byte_vocabulary;
mod counts;
mod runner;

use std::sync::Arc;

use inference_core::{BackendRegistration, Registry, inventory};

pub use backend::NgramBackend;
pub use byte_vocabulary::{EOS, VOCAB_SIZE};
pub use counts::Counts;

// Whoever links this crate (`use ngram_backend as _;`) has the backend.
inventory::submit! { BackendRegistration::new(|| Arc::new(NgramBackend)) }

/// Adds the backend to a registry, for where linking does not do it.
pub fn register(registry: &Registry) {
    registry.register(Arc::new(NgramBackend));
}

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
