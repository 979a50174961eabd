//! The weights of a GGUF file, under the names and in the form of the decoder.

use std::fmt;
use std::sync::Arc;

use candle_core::DType;
use inference_core::{Error, Result};
use inference_gguf::{BlockType, GgufFile, TensorType};

use super::aligned::AlignedBytes;
use super::gguf_names::{GgufNames, TensorForm};
use super::{WeightSource, aligned, missing};
use crate::config::gguf::architecture;
use crate::{DecoderConfig, Weight, WeightBytes, WeightType};

/// The tensors of a GGUF file, mapped or embedded, as stored.
///
/// Weights have the names of safetensors files. The rows of queries and keys
/// that llama.cpp interleaves for its rotary embedding are copied back into
/// the order of the decoder's; everything else shares the file's bytes.
pub struct GgufWeights {
    file: GgufFile,
    names: GgufNames,
}

impl GgufWeights {
    /// The weights of `file`, for the decoder that
    /// [`DecoderConfig::from_gguf`] describes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for an architecture that is not implemented.
    pub fn new(file: GgufFile, config: &DecoderConfig) -> Result<Self> {
        let names = GgufNames::new(config, architecture(file.metadata())?);
        Ok(Self { file, names })
    }
}

impl WeightSource for GgufWeights {
    fn contains(&self, name: &str) -> bool {
        self.names.tensor(name).is_some_and(|tensor| self.file.tensor(&tensor.name).is_some())
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let file = self.file.metadata().file();
        let wanted = self.names.tensor(name).ok_or_else(|| missing(file, name))?;
        let tensor = self.file.tensor(&wanted.name).ok_or_else(|| missing(file, &wanted.name))?;
        let what = || format!("type of tensor `{}`", wanted.name);
        let TensorType::Known(kind) = tensor.kind() else {
            let known: Vec<_> = BlockType::ALL.iter().map(|kind| kind.as_str()).collect();
            let found = tensor.kind().to_string();
            return Err(Error::unsupported_model(file, what(), found, known.join(", ")));
        };
        let stored = match kind {
            BlockType::F32 => WeightType::Dense(DType::F32),
            BlockType::F16 => WeightType::Dense(DType::F16),
            BlockType::Bf16 => WeightType::Dense(DType::BF16),
            kind if kind.is_dense() => {
                let supported = "F32, F16, BF16 and block types";
                return Err(Error::unsupported_model(file, what(), kind.as_str(), supported));
            }
            kind => WeightType::Blocks(kind),
        };
        let (bytes, range) = self.file.data(tensor)?;
        let (bytes, range) = aligned(&bytes, range, alignment(stored));
        let shape = tensor.shape().to_vec();
        let mut weight = Weight::stored(&*wanted.name, shape, stored, bytes, range)?
            .with_map(self.file.mapped(tensor));
        if let Some(expert) = wanted.expert {
            weight = weight.index_first(expert)?;
        }
        match wanted.form {
            TensorForm::Same | TensorForm::PlusOne => Ok(weight),
            TensorForm::Interleaved { heads } => {
                let copy = deinterleaved(file, &weight, heads);
                weight.release_pages();
                copy
            }
        }
    }

    fn release_pages(&self) {
        self.file.release_pages();
    }
}

/// What Candle's own kernels expect of the address of blocks: that of the
/// widest member, a 16-bit scale.
fn alignment(kind: WeightType) -> usize {
    match kind {
        WeightType::Dense(dtype) => dtype.size_in_bytes(),
        WeightType::Blocks(_) | WeightType::Coded(_) => size_of::<half::f16>(),
    }
}

/// The rows of each head in halves instead of interleaved: row `2i + j` of a
/// head of `n` goes to `j * n/2 + i`.
fn deinterleaved(file: &str, weight: &Weight, heads: usize) -> Result<Weight> {
    let rows = weight.shape().first().copied().unwrap_or(0);
    let head = rows.checked_div(heads).unwrap_or(0);
    let bytes = weight.bytes().unwrap_or_default();
    let row = bytes.len().checked_div(rows).unwrap_or(0);
    // A vector in blocks has no rows of its own.
    if head * heads != rows || !head.is_multiple_of(2) || row * rows != bytes.len() || row == 0 {
        return Err(Error::invalid_model(
            file,
            format!("tensor `{}`", weight.name()),
            format!("an even number of rows for each of {heads} heads"),
            format!("shape {:?}", weight.shape()),
        ));
    }
    let mut ordered = AlignedBytes::zeroed(bytes.len());
    let to = ordered.as_mut();
    for (to, from) in to.chunks_exact_mut(head * row).zip(bytes.chunks_exact(head * row)) {
        let (first, second) = to.split_at_mut(head / 2 * row);
        let halves = first.chunks_exact_mut(row).zip(second.chunks_exact_mut(row));
        for ((first, second), pair) in halves.zip(from.chunks_exact(2 * row)) {
            let (even, odd) = pair.split_at(row);
            first.copy_from_slice(even);
            second.copy_from_slice(odd);
        }
    }
    let len = bytes.len();
    let bytes: WeightBytes = Arc::new(ordered);
    Weight::stored(weight.name(), weight.shape().to_vec(), weight.kind(), bytes, 0..len)
}

impl fmt::Debug for GgufWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufWeights").field("file", &self.file).finish_non_exhaustive()
    }
}
