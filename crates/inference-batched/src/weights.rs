//! The weights of all models, apart from any device.

use std::path::Path;

use inference_core::{Error, Result};

use crate::model_weights::{CheckedWeights, bias_name, weight_name};
use crate::request::out_of_range;
use crate::{Architecture, WeightDtype, weights_file};

/// The weights of many models of one architecture: of each layer one
/// contiguous tensor `[models, inputs, outputs]`, and one `[models, outputs]` of
/// biases.
///
/// This is what files hold, and what models are gathered in before they go to
/// a device; [`BatchedInference::from_weights`](crate::BatchedInference::from_weights)
/// packs it.
#[derive(Clone, Debug)]
pub struct BatchedWeights {
    num_models: usize,
    architecture: Architecture,
    dtype: WeightDtype,
    pub(crate) layers: Vec<LayerTensors>,
    loaded: Vec<bool>,
}

/// The numbers of one layer of all models, as they are stored.
#[derive(Clone, Debug)]
pub(crate) struct LayerTensors {
    /// `[models, inputs, outputs]`.
    pub(crate) weight: Vec<u8>,
    /// `[models, outputs]`; empty without a bias.
    pub(crate) bias: Vec<u8>,
}

impl BatchedWeights {
    /// Models without weights, stored as f32.
    ///
    /// # Errors
    ///
    /// Those of [`with_dtype`](Self::with_dtype).
    pub fn new(num_models: usize, architecture: &Architecture) -> Result<Self> {
        Self::with_dtype(num_models, architecture, WeightDtype::F32)
    }

    /// Models without weights.
    ///
    /// # Errors
    ///
    /// Those of [`Architecture::validate`]; `Exhausted` where there is no
    /// memory.
    #[expect(clippy::slow_vector_initialization, reason = "memory may not suffice")]
    pub fn with_dtype(
        num_models: usize,
        architecture: &Architecture,
        dtype: WeightDtype,
    ) -> Result<Self> {
        architecture.validate()?;
        let zeros = |per_model: usize| {
            let bytes =
                per_model.checked_mul(num_models).and_then(|n| n.checked_mul(dtype.bytes()));
            let mut zeros = Vec::new();
            match bytes {
                Some(bytes) if zeros.try_reserve_exact(bytes).is_ok() => {
                    zeros.resize(bytes, 0);
                    Ok(zeros)
                }
                _ => {
                    let needed = bytes.map_or(u64::MAX, |bytes| bytes as u64);
                    Err(Error::exhausted("memory for weights (bytes)", needed, 0))
                }
            }
        };
        let layers = architecture.layers.iter().map(|layer| {
            Ok(LayerTensors { weight: zeros(layer.weights())?, bias: zeros(layer.biases())? })
        });
        Ok(Self {
            num_models,
            layers: layers.collect::<Result<_>>()?,
            architecture: architecture.clone(),
            dtype,
            loaded: vec![false; num_models],
        })
    }

    /// How many models there are, loaded or not.
    #[must_use]
    pub fn num_models(&self) -> usize {
        self.num_models
    }

    /// What all models have in common.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How numbers are stored.
    #[must_use]
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// The weights of a layer of all models, `[models, inputs, outputs]`, as they
    /// are stored, in this machine's byte order; `None`: no such layer.
    #[must_use]
    pub fn weight_bytes(&self, layer: usize) -> Option<&[u8]> {
        self.layers.get(layer).map(|layer| &layer.weight[..])
    }

    /// The biases of a layer of all models, `[models, outputs]`, in the same
    /// way; `None`: no such layer, or no bias.
    #[must_use]
    pub fn bias_bytes(&self, layer: usize) -> Option<&[u8]> {
        let spec = self.architecture.layers.get(layer)?;
        self.layers.get(layer).filter(|_| spec.bias).map(|layer| &layer.bias[..])
    }

    /// Gives a model its weights by name, all or nothing, as
    /// [`BatchedInference::load_weights`](crate::BatchedInference::load_weights)
    /// does.
    ///
    /// # Errors
    ///
    /// Those of that function.
    pub fn load_weights<K: AsRef<str>, V: AsRef<[f32]>>(
        &mut self,
        index: usize,
        weights: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.check_index(index)?;
        let weights: Vec<(K, V)> = weights.into_iter().collect();
        let weights = weights.iter().map(|(name, values)| (name.as_ref(), values.as_ref()));
        let weights = CheckedWeights::new(index, &self.architecture, self.dtype, weights)?;
        let dtype = self.dtype;
        let write = |bytes: &mut [u8], values: &[f32]| {
            for (at, value) in values.iter().enumerate() {
                dtype.write(bytes, index * values.len() + at, *value);
            }
        };
        for (layer, (weight, bias)) in self.layers.iter_mut().zip(weights.layers()) {
            write(&mut layer.weight, weight);
            write(&mut layer.bias, bias.unwrap_or(&[]));
        }
        self.loaded[index] = true;
        Ok(())
    }

    /// A model's weights by name.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range or a model without weights.
    pub fn weights(&self, index: usize) -> Result<Vec<(String, Vec<f32>)>> {
        self.check_index(index)?;
        if !self.loaded[index] {
            return Err(crate::request::not_loaded(index));
        }
        let read = |bytes: &[u8], count: usize| -> Vec<f32> {
            (0..count).map(|at| self.dtype.read(bytes, index * count + at)).collect()
        };
        let mut named = Vec::new();
        for (at, (layer, spec)) in self.layers.iter().zip(&self.architecture.layers).enumerate() {
            named.push((weight_name(at), read(&layer.weight, spec.weights())));
            if spec.bias {
                named.push((bias_name(at), read(&layer.bias, spec.biases())));
            }
        }
        Ok(named)
    }

    /// Whether a model has weights.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an index out of range.
    pub fn is_loaded(&self, index: usize) -> Result<bool> {
        self.check_index(index)?;
        Ok(self.loaded[index])
    }

    /// Reads a file of [`save`](Self::save), with the architecture that it
    /// names.
    ///
    /// # Errors
    ///
    /// `Io`; `InvalidModel` naming file and tensor: no architecture, a tensor
    /// that is missing, unknown or of another shape or type.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        weights_file::load(path.as_ref(), None)
    }

    /// Reads a safetensors file with tensors `layer_N` (`[models, inputs,
    /// outputs]`) and `layer_N.bias` (`[models, outputs]`), as the weights of
    /// this architecture. What the file says of its own must agree.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load).
    pub fn load_as(path: impl AsRef<Path>, architecture: &Architecture) -> Result<Self> {
        architecture.validate()?;
        weights_file::load(path.as_ref(), Some(architecture))
    }

    /// Writes all models to a safetensors file, with the architecture and the
    /// models without weights in its metadata. The file appears when it is
    /// whole.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        weights_file::save(self, path.as_ref())
    }

    pub(crate) fn set_loaded(&mut self, index: usize, loaded: bool) {
        if let Some(slot) = self.loaded.get_mut(index) {
            *slot = loaded;
        }
    }

    fn check_index(&self, index: usize) -> Result<()> {
        if index < self.num_models { Ok(()) } else { Err(out_of_range(index, self.num_models)) }
    }
}
