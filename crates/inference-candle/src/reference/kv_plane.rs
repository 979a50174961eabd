//! The keys, or the values, of one layer.

use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use half::{bf16, f16};

use crate::kv_cache::Q8_GROUP;

/// What is added to a byte of q8_0, since Candle's bytes are unsigned.
const OFFSET: f64 = 128.0;

/// `[slots, kv_heads, head_dim]`, stored.
#[derive(Debug)]
pub(super) enum Plane {
    /// As floats.
    Dense(Tensor),
    /// As bytes, and a scale for each [`Q8_GROUP`] of them.
    Q8 {
        /// `[slots, kv_heads, head_dim]`.
        bytes: Tensor,
        /// `[slots, kv_heads, head_dim / 32]`, f16.
        scales: Tensor,
    },
}

impl Plane {
    /// Zeros of a dense type.
    pub(super) fn dense(shape: [usize; 3], dtype: DType, device: &Device) -> CandleResult<Self> {
        Tensor::zeros(&shape[..], dtype, device).map(Self::Dense)
    }

    /// Zeros of q8_0.
    pub(super) fn q8(shape: [usize; 3], device: &Device) -> CandleResult<Self> {
        let [slots, heads, head_dim] = shape;
        let bytes = Tensor::zeros(&shape[..], DType::U8, device)?;
        let scales = Tensor::zeros((slots, heads, head_dim / Q8_GROUP), DType::F16, device)?;
        Ok(Self::Q8 { bytes, scales })
    }

    /// The tensors that it consists of.
    fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Dense(tensor) => vec![tensor],
            Self::Q8 { bytes, scales } => vec![bytes, scales],
        }
    }

    /// Stores f32 `[len, kv_heads, head_dim]` from slot `slot` on.
    pub(super) fn set(&self, new: &Tensor, slot: usize) -> CandleResult<()> {
        let new = new.detach();
        match self {
            Self::Dense(tensor) => {
                let new = new.to_dtype(tensor.dtype())?.contiguous()?;
                tensor.slice_set(&new, 0, slot)
            }
            Self::Q8 { bytes, scales } => {
                let (new_bytes, new_scales) = quantize(&new)?;
                bytes.slice_set(&new_bytes.contiguous()?, 0, slot)?;
                scales.slice_set(&new_scales.contiguous()?, 0, slot)
            }
        }
    }

    /// The slots named by `slots` as f32, `[len, kv_heads, head_dim]`.
    pub(super) fn get(&self, slots: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(slots, 0)?.to_dtype(DType::F32),
            Self::Q8 { bytes, scales } => {
                let shape = bytes.dims3()?;
                let bytes = bytes.index_select(slots, 0)?.to_dtype(DType::F32)?;
                let scales = scales.index_select(slots, 0)?.to_dtype(DType::F32)?;
                let (len, heads, groups) = scales.dims3()?;
                let values = (bytes - OFFSET)?
                    .reshape((len, heads, groups, Q8_GROUP))?
                    .broadcast_mul(&scales.unsqueeze(D::Minus1)?)?;
                values.reshape((len, heads, shape.2))
            }
        }
    }

    /// Copies `len` slots.
    pub(super) fn copy(&self, from: usize, to: usize, len: usize) -> CandleResult<()> {
        self.tensors().into_iter().try_for_each(|tensor| {
            // A tensor cannot be set from a view of itself.
            tensor.slice_set(&tensor.narrow(0, from, len)?.copy()?, 0, to)
        })
    }

    /// The bytes of `len` slots; see [`KvCache`](crate::KvCache).
    pub(super) fn to_bytes(&self, first: usize, len: usize) -> CandleResult<Vec<u8>> {
        let of = |tensor: &Tensor| tensor.narrow(0, first, len)?.flatten_all();
        Ok(match self {
            Self::Dense(tensor) => {
                let flat = of(tensor)?;
                match tensor.dtype() {
                    DType::F32 => bytes_of(&flat.to_vec1::<f32>()?, |v| v.to_ne_bytes()),
                    DType::F16 => bytes_of(&flat.to_vec1::<f16>()?, |v| v.to_ne_bytes()),
                    DType::BF16 => bytes_of(&flat.to_vec1::<bf16>()?, |v| v.to_ne_bytes()),
                    other => candle_core::bail!("keys and values of type {other:?}"),
                }
            }
            Self::Q8 { bytes, scales } => {
                let (bytes, scales) = (of(bytes)?.to_vec1::<u8>()?, of(scales)?.to_vec1::<f16>()?);
                let mut all = Vec::with_capacity(bytes.len() / Q8_GROUP * (Q8_GROUP + 2));
                for (group, scale) in bytes.chunks_exact(Q8_GROUP).zip(&scales) {
                    all.extend_from_slice(&scale.to_ne_bytes());
                    // What was never written is zero with its scale.
                    all.extend(group.iter().map(|byte| signed(*byte, *scale)));
                }
                all
            }
        })
    }

    /// The inverse of [`to_bytes`](Self::to_bytes).
    pub(super) fn set_bytes(&self, bytes: &[u8], first: usize, len: usize) -> CandleResult<()> {
        let set = |tensor: &Tensor, bytes: &[u8]| {
            let shape = [&[len], &tensor.dims()[1..]].concat();
            let new = Tensor::from_raw_buffer(bytes, tensor.dtype(), &shape, tensor.device())?;
            tensor.slice_set(&new, 0, first)
        };
        match self {
            Self::Dense(tensor) => set(tensor, bytes),
            Self::Q8 { bytes: values, scales } => {
                let (mut new_values, mut new_scales) = (Vec::new(), Vec::new());
                for group in bytes.chunks_exact(Q8_GROUP + 2) {
                    let (scale, group) = group.split_at(2);
                    new_scales.extend_from_slice(scale);
                    new_values.extend(group.iter().map(|byte| byte.wrapping_add(OFFSET as u8)));
                }
                set(values, &new_values)?;
                set(scales, &new_scales)
            }
        }
    }
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

/// A stored byte as ggml stores it.
fn signed(byte: u8, scale: f16) -> u8 {
    if scale.to_bits() == 0 { 0 } else { byte.wrapping_sub(OFFSET as u8) }
}

/// The nearest bytes and scales of f32 `[len, kv_heads, head_dim]`: the
/// largest magnitude of a group is 127 steps of its scale, which is rounded to
/// f16 first. A value that is not finite makes the scale NaN.
fn quantize(new: &Tensor) -> CandleResult<(Tensor, Tensor)> {
    let (len, heads, head_dim) = new.dims3()?;
    let groups = new.reshape((len, heads, head_dim / Q8_GROUP, Q8_GROUP))?;
    let greatest = groups.abs()?.max_keepdim(D::Minus1)?;
    // A tensor, since Candle divides by a number by way of its inverse.
    let steps = Tensor::new(127f32, new.device())?;
    let not_finite = groups.affine(0.0, 0.0)?.sum_keepdim(D::Minus1)?;
    let scales = (greatest.broadcast_div(&steps)? + not_finite)?.to_dtype(DType::F16)?;
    let step = scales.to_dtype(DType::F32)?;
    // Where the scale is zero, so are all bytes.
    let divisor = (&step + step.eq(0f32)?.to_dtype(DType::F32)?)?;
    let nonzero = step.ne(0f32)?.to_dtype(DType::F32)?;
    let bytes = groups
        .broadcast_div(&divisor)?
        .round()?
        .clamp(-127f32, 127f32)?
        .broadcast_mul(&nonzero)?
        .affine(1.0, OFFSET)?
        .to_dtype(DType::U8)?;
    Ok((bytes.reshape((len, heads, head_dim))?, scales.squeeze(D::Minus1)?))
}
