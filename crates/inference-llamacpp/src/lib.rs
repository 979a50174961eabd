//! llama.cpp as a backend.
//!
//! The model is llama.cpp's, through the crate `llama-cpp-2`: its reader of
//! GGUF files, its kernels, its KV cache. Everything around it is this
//! project's: tokenizer and chat template ([`inference_text`]), and one
//! generation loop with its samplers, streams, stop strings, batching and
//! metrics ([`inference_engine`]). So a request means the same on every
//! backend, and a benchmark of two backends differs in the model alone.
//!
//! Linking this crate registers `llama_cpp`, `rocm` and `vulkan`; where
//! link-time registration is lost, call [`register`]. Built without the feature
//! `llama-cpp` (the default: compiling llama.cpp takes CMake, a C++ compiler,
//! libclang and minutes) they are there and unavailable, and say why:
//!
//! ```
//! use inference_core::{Availability, Registry};
//!
//! let registry = Registry::new();
//! inference_llamacpp::register(&registry);
//! match registry.get("llama_cpp")?.availability() {
//!     Availability::Ready { devices } => assert!(!devices.is_empty()),
//!     Availability::Unavailable { reason } => assert!(reason.contains("llama-cpp")),
//!     _ => {}
//! }
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! # Options
//!
//! | option | |
//! |---|---|
//! | `context_len` | up to the model's own; llama.cpp rounds a sequence's room up to 256 positions |
//! | `parallel_slots` | at most 256 |
//! | `prefix_cache` | on unless switched off; then the sequences' positions lie in memory of their own, which makes large batches faster. Recurrent models and those with sliding windows have none, nor speculative decoding |
//! | `kv_dtype` | `f16` unless set |
//! | `kv_budget` | 1 GiB unless set; a sequence gets room for the whole context, so a small budget lets fewer run at once, and only then makes the context smaller |
//! | `threads` | of prompts and of tokens alike |
//! | `gpu_layers` | with a GPU: how many; without: none |
//! | `step_token_budget` | llama.cpp's `n_batch`; it computes at most 512 tokens at once (`n_ubatch`) |
//! | `adapter_path`, `adapter_scale` | a GGUF file of an adapter, for every request; adapters per request are not there, since the binding cannot add one to a model in use |
//! | `adapter_budget`, `quantize`, `affinity`, `precision` other than `fast` | refused |
//!
//! All others are the engine's. Snapshots ([`SequenceState`]) are there with the
//! prefix cache, for models that keep keys and values of every position: not for
//! those with sliding windows or a recurrent state. Weights are mapped; types that llama.cpp
//! repacks for the CPU are copied by it.
//!
//! # Equal answers
//!
//! llama.cpp chooses kernels by the number of rows. So logits differ within
//! rounding between a request alone and one in company, or with another
//! `step_token_budget`; this backend promises no equal bits.
//!
//! [`SequenceState`]: inference_core::SequenceState
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod device;
#[cfg(feature = "llama-cpp")]
mod identity;
#[cfg(feature = "llama-cpp")]
mod kv_plan;
#[cfg(feature = "llama-cpp")]
mod load;
#[cfg(feature = "llama-cpp")]
mod log_capture;
#[cfg(feature = "llama-cpp")]
mod options;
#[cfg(feature = "llama-cpp")]
mod runner;
#[cfg(feature = "llama-cpp")]
mod session;
#[cfg(feature = "llama-cpp")]
mod state_file;

use std::sync::Arc;

use inference_core::{BackendRegistration, Registry, inventory};

pub use backend::LlamaCppBackend;
pub use device::Devices;

inventory::submit! { BackendRegistration::new(|| Arc::new(LlamaCppBackend::new(Devices::Default))) }
inventory::submit! { BackendRegistration::new(|| Arc::new(LlamaCppBackend::new(Devices::Rocm))) }
inventory::submit! { BackendRegistration::new(|| Arc::new(LlamaCppBackend::new(Devices::Vulkan))) }

/// Adds the backends `llama_cpp`, `rocm` and `vulkan` to a registry.
pub fn register(registry: &Registry) {
    for devices in Devices::ALL {
        registry.register(Arc::new(LlamaCppBackend::new(*devices)));
    }
}
