//! A small language model trained by this repository and embedded in the
//! binary.
//!
//! [`FILES`] holds what a model folder holds: `config.json`,
//! `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` (with
//! the chat template) and `model.safetensors` (f16). The weights begin at an
//! address that is a multiple of 64, so they can be used where they lie.
//!
//! ```
//! let names: Vec<&str> = inference_demo::FILES.iter().map(|(name, _)| *name).collect();
//! assert!(names.contains(&"model.safetensors"));
//! ```
//!
//! # How it was made
//!
//! `cargo xtask train-demo` wrote every one of these files: it generates the
//! text (stories from a grammar, and questions with their answers), trains the
//! tokenizer on it, and then the model, a decoder of the Llama architecture,
//! with the repository's own `inference-candle` decoder and Candle's automatic
//! differentiation. It is seeded: the same seed and number of steps give the
//! same text, the same initial weights and the same order of training.
//!
//! The crate's `MODEL_CARD.md` holds what was measured, the accuracy on
//! questions that training never saw ([`HELD_OUT`]) above all, and the model's
//! limits.
//!
//! # Training it again
//!
//! ```text
//! RAYON_NUM_THREADS=1 cargo xtask train-demo --seed 42
//! cargo test -p tests --test demo_accuracy
//! ```
#![forbid(unsafe_code)]

/// Bytes that begin at a multiple of 64.
#[repr(C, align(64))]
struct Aligned<const N: usize>([u8; N]);

static WEIGHTS: Aligned<{ include_bytes!("../model/model.safetensors").len() }> =
    Aligned(*include_bytes!("../model/model.safetensors"));

/// The model's files: name and content, as they would lie in a folder.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../model/config.json")),
    ("generation_config.json", include_bytes!("../model/generation_config.json")),
    ("tokenizer.json", include_bytes!("../model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../model/tokenizer_config.json")),
    ("model.safetensors", &WEIGHTS.0),
];

/// Questions that training never saw, with their answers: a JSON array of
/// objects with `task`, `prompt` and `answer`.
pub const HELD_OUT: &str = include_str!("../heldout.json");
