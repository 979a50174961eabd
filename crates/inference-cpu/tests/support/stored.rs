//! Weights as a checkpoint holds them.

use std::sync::Arc;

use candle_core::DType;
use half::{bf16, f16};
use inference_candle::{Weight, WeightType};

/// Bytes that begin at a multiple of 8.
struct Aligned(Vec<u64>);

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A stored weight that begins `skip` elements after an aligned address.
pub(crate) fn stored(values: &[f32], shape: &[usize], dtype: DType, skip: usize) -> Weight {
    let size = dtype.size_in_bytes();
    let mut bytes = vec![0xFFu8; skip * size];
    for value in values {
        match dtype {
            DType::F16 => bytes.extend(f16::from_f32(*value).to_le_bytes()),
            DType::BF16 => bytes.extend(bf16::from_f32(*value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    let range = skip * size..bytes.len();
    bytes.resize(bytes.len().next_multiple_of(8), 0xFF);
    let words = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()));
    let bytes = Arc::new(Aligned(words.collect()));
    Weight::stored("w", shape.to_vec(), WeightType::Dense(dtype), bytes, range).unwrap()
}
