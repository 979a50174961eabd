//! Where weights come from.

mod aligned;
mod fingerprint;
mod gguf_names;
mod gguf_weights;
mod mapped_bytes;
mod safetensors_file;

use std::collections::HashMap;

use candle_core::Tensor;
use inference_core::{Error, Result};

pub(crate) use fingerprint::Fingerprint;
pub(crate) use gguf_names::{GgufNames, TensorForm};
pub use gguf_weights::GgufWeights;
pub(crate) use mapped_bytes::MappedBytes;
pub use safetensors_file::SafetensorsFiles;
pub(crate) use safetensors_file::{ElementType, RawTensor};

pub(crate) use aligned::AlignedBytes;
pub(crate) use aligned::aligned;

use crate::Weight;

/// Weights by name.
pub trait WeightSource {
    /// Whether there is a weight of this name.
    fn contains(&self, name: &str) -> bool;

    /// The weight; cheap, because bytes are shared.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where it is missing,
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for a type other than f32, f16 and bf16.
    fn get(&self, name: &str) -> Result<Weight>;

    /// Gives pages of mapped files back that were read while a model was
    /// built; those that it computes with are read again. Does nothing where
    /// nothing is mapped.
    fn release_pages(&self) {}
}

/// Weights that are tensors, such as variables under training.
#[derive(Clone, Debug, Default)]
pub struct TensorWeights {
    tensors: HashMap<String, Tensor>,
}

impl TensorWeights {
    /// An empty source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor. What a decoder over this source computes can be
    /// differentiated with respect to it.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        self.tensors.insert(name.into(), tensor);
        self
    }
}

impl FromIterator<(String, Tensor)> for TensorWeights {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }
}

impl WeightSource for TensorWeights {
    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let tensor = self.tensors.get(name).ok_or_else(|| missing("weights", name))?;
        Ok(Weight::from_tensor(name, tensor.clone()))
    }
}

/// The error that `file` lacks a tensor.
pub(crate) fn missing(file: &str, name: &str) -> Error {
    Error::invalid_model(file, format!("tensor `{name}`"), "present", "nothing")
}
