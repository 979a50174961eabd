//! Text generation with local language models.
//!
//! This crate is the front door: it re-exports the contract
//! ([`inference_core`]) at its root, the [`text`] and [`engine`] layers as
//! modules, and links the backends that its features name, so that they are in
//! [`Registry::global`] without another line of code.
//!
#![cfg_attr(
    all(feature = "cpu", feature = "demo"),
    doc = r#"
```
use inference::prelude::*;

fn main() -> inference::Result<()> {
    // A folder with config.json, tokenizer.json and *.safetensors works the
    // same way: inference::load("path/to/model", &LoadOptions::new()).
    let model = inference::load(inference::demo(), &LoadOptions::new())?;

    let options = GenerateOptions::new().with_max_tokens(32);
    let mut stream = model.generate("Once upon a time".into(), options)?;
    for token in stream.by_ref() {
        print!("{}", token?.text);
    }
    let completion = stream.finish()?;
    println!();
    println!("{} tokens, {}", completion.metrics.generated_tokens, completion.finish_reason);
    Ok(())
}
```
"#
)]
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `cpu` (default) | the CPU backend |
//! | `demo` (default) | the embedded model, [`demo`] |
//! | `batched` | thousands of small networks evaluated together, `inference::batched` |
//! | `discover` | finding models and fetching them from the hub, `inference::discover` |
//! | `lora` | reading, merging and saving LoRA adapters, `inference::lora` |
//! | `cuda` | the CUDA backend, built against CUDA |
//! | `metal` | the Metal backend, built against Metal |
//! | `llama-cpp` | llama.cpp as a backend; needs CMake, a C++ compiler and libclang |
//! | `rocm`, `vulkan` | llama.cpp on those GPUs |
//! | `serde` | `Serialize` and `Deserialize` for the contract's plain types |
//! | `service` | hosting several models within a memory budget, `inference::service` |
//!
//! # Which backend runs a model
//!
//! [`LoadOptions::backend`] names one; unset, the first that can run on this
//! machine is taken, in [`AUTOMATIC_ORDER`]. [`Registry::all`] lists them with
//! their [`Availability`] and [`Capabilities`].
//!
//! Backends register themselves when the final program is linked. Where that
//! is lost (static libraries, some plug-in hosts), call [`register_backends`]
//! once.
#![forbid(unsafe_code)]

pub use inference_core::*;
pub use {inference_engine as engine, inference_text as text};

/// Thousands of small networks of one shape and different weights, evaluated together.
#[cfg(feature = "batched")]
pub use inference_batched as batched;

/// Finding models on this machine, and fetching them from the Hugging Face hub.
#[cfg(feature = "discover")]
pub use inference_discover as discover;

/// Several models by name within a memory budget, reached through typed actions.
#[cfg(feature = "service")]
pub use inference_service as service;

pub mod prelude;

/// Writing models as quantized GGUF files.
pub mod quantize {
    pub use inference_candle::{FileType, QuantizeOptions, QuantizeReport, quantize_model};
}

/// LoRA adapters: reading, checking, merging and saving them.
#[cfg(feature = "lora")]
pub mod lora {
    pub use inference_candle::{
        MergeAdapter, MergeOptions, MergeReport, MergedWeights, merge_model,
    };
    pub use inference_lora::*;

    use crate::{ModelSource, Result};

    /// The modules of a model: what an adapter can change, and is checked
    /// against. Reads descriptions and headers only.
    ///
    /// # Errors
    ///
    /// Those of loading the model.
    pub fn modules(source: &ModelSource) -> Result<ModuleTable> {
        inference_candle::ModelFiles::new(source)?.modules()
    }
}

use std::sync::Arc;

/// Loads a model with the backend that the options name, or else with the
/// first available one of [`Registry::global`].
///
/// # Errors
///
/// Those of [`Registry::load_model`].
pub fn load(source: impl Into<ModelSource>, options: &LoadOptions) -> Result<Arc<dyn TextModel>> {
    Registry::global().load_model(source, options)
}

/// Tokenizer, chat template and special tokens of a model, without its
/// weights: of a folder, a GGUF file, or an embedded model.
///
/// ```no_run
/// let parts = inference::text_parts("model.gguf")?;
/// if let Some(tokenizer) = parts.tokenizer {
///     println!("{:?}", tokenizer.encode("Once upon a time", true)?);
/// }
/// # Ok::<(), inference::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::InvalidModel`] naming file and field, [`ErrorKind::Io`],
/// [`ErrorKind::UnsupportedModel`] for files of another kind.
pub fn text_parts(source: impl Into<ModelSource>) -> Result<text::TextParts> {
    inference_candle::ModelFiles::new(&source.into())?.text()
}

/// The embedded model: a small decoder that tells short stories and answers a
/// few kinds of question, so that a first program needs no files.
#[cfg(feature = "demo")]
#[must_use]
pub fn demo() -> ModelSource {
    ModelSource::Embedded(inference_demo::FILES)
}

/// Adds the backends of this crate's features to `registry`, replacing those
/// of the same names.
///
/// Programs have them in [`Registry::global`] already; call this where
/// link-time registration is lost, as in static libraries, or to fill a
/// [`Registry`] of one's own.
#[cfg_attr(
    feature = "cpu",
    doc = r#"
```
let registry = inference::Registry::new();
inference::register_backends(&registry);
assert!(registry.list().contains(&"cpu".to_owned()));
```
"#
)]
pub fn register_backends(registry: &Registry) {
    #[cfg(feature = "cpu")]
    inference_cpu::register(registry);
    #[cfg(feature = "cuda")]
    inference_cuda::register(registry);
    #[cfg(feature = "metal")]
    inference_metal::register(registry);
    #[cfg(feature = "llama-cpp")]
    inference_llamacpp::register(registry);
    #[cfg(not(any(feature = "cpu", feature = "cuda", feature = "metal", feature = "llama-cpp")))]
    let _ = registry;
}
