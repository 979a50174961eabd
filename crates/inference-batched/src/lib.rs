//! Thousands of small networks of one shape and different weights, evaluated
//! together.
//!
//! A system with a small network per source has a thousand models of the same
//! shape. One by one they are a thousand products that each wait for memory;
//! together they are one pass over all weights.
//!
//! | you want to | read |
//! |---|---|
//! | say what a model looks like | [`Architecture`], [`LayerSpec`], [`Activation`] |
//! | load and evaluate models | [`BatchedInference`] |
//! | evaluate some models, or several rows each | [`Request`] |
//! | save all models, or load them | [`BatchedWeights`] |
//! | gather a file per model, also ONNX | [`from_folder`] |
//! | have several architectures behind one call | [`BatchedGroups`] |
//! | choose threads, storage, layout | [`BatchedOptions`], [`Workers`] |
//!
//! # What is promised
//!
//! - Every weight is read once per call, as long as no model has more than 256
//!   rows. Activations of a model stay in the first-level cache from its first
//!   layer to its last.
//! - Results are the same bits for any number of threads, any subset of models
//!   and any number of rows. They are those of a loop over models but for
//!   rounding. Instruction sets with fused multiply-adds (AVX2, AVX-512, NEON)
//!   agree with each other.
//! - Calls into buffers of the caller's allocate nothing once calls of their
//!   kind have been made.
//! - A model without weights is an error that names it, never zeros.
//!
//! # Features
//!
//! `candle`, `cuda`, `metal`: the same through Candle's operations on its
//! devices (experimental); `Device::candle`, [`Device::cuda`], [`Device::metal`].
//!
//! # Threads
//!
//! A group has threads of its own, or shares a pool of [`Workers`] with others.
//! A caller that finds them busy with another call computes on its own thread
//! alone, so callers never wait for each other. Loading locks a part of the
//! weights for as long as it takes to copy one model.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod activation;
mod architecture;
#[cfg(feature = "candle")]
mod candle_models;
mod device;
mod dtype;
mod groups;
mod import;
mod inference;
mod kernels;
mod layout;
mod memory;
mod model_weights;
mod options;
mod packed_models;
mod request;
mod weights;
mod weights_file;

pub use activation::Activation;
pub use architecture::{Architecture, LayerSpec};
pub use device::Device;
pub use dtype::WeightDtype;
pub use groups::{BatchedGroups, ModelRow};
pub use import::{Import, from_folder};
pub use inference::BatchedInference;
pub use kernels::workers::Workers;
pub use layout::WeightLayout;
pub use options::BatchedOptions;
pub use request::Request;
pub use weights::BatchedWeights;
