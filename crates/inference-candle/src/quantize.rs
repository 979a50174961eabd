//! Quantization: of weights while a model loads, and of whole models into
//! GGUF files.

mod encode;
mod imatrix;
mod on_load;
mod recipe;

pub(crate) use on_load::QuantizedOnLoad;
pub use recipe::FileType;
