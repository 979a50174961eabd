//! Values to blocks: quantization.
//!
//! Every block is fitted by itself, so rows can be encoded in any order and in
//! parallel. The fits minimise the same weighted errors as ggml's
//! (`ggml/src/ggml-quants.c`), so files are as good as those that llama.cpp
//! writes; the 32-value types without importance are the same bytes as those
//! of the `gguf` Python package.

mod fit;
mod lookup;
mod small_blocks;
mod super_blocks;

use half::{bf16, f16};
use inference_core::{Error, Result};

use crate::BlockType;

/// The largest magnitude that blocks hold: their scales are 16-bit floats.
const LARGEST: f32 = 65504.0;

impl BlockType {
    /// Whether [`encode`](Self::encode) writes this type.
    #[must_use]
    pub fn can_encode(self) -> bool {
        self.encoder().is_some()
    }

    /// Writes whole rows of `values` over all of `out`, as blocks of this type.
    ///
    /// `importance` weighs the error in each column (what an importance matrix
    /// says: the mean square of the activations that it multiplies), finite
    /// and not negative; `values` then are rows of as many columns. Types that
    /// have nothing to choose (dense ones and Q8_0) do not look at it.
    /// `name` names the tensor in errors.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for a value
    /// that is not finite or too large for the type,
    /// [`Unsupported`](inference_core::ErrorKind::Unsupported) for a type that
    /// is not written,
    /// [`Engine`](inference_core::ErrorKind::Engine) where the lengths do not
    /// agree.
    pub fn encode(
        self,
        name: &str,
        values: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<()> {
        let encoder =
            self.encoder().ok_or_else(|| Error::unsupported(format!("type {self}"), "quantize"))?;
        let columns = importance.map_or(values.len(), <[f32]>::len);
        let whole = values.is_empty()
            || columns.is_multiple_of(self.block_values()) && values.len().is_multiple_of(columns);
        if !whole || self.row_bytes(values.len()) != Some(out.len()) {
            let (values, bytes) = (values.len(), out.len());
            return Err(Error::engine_message(format!(
                "{values} values in rows of {columns} for {bytes} bytes of {self}"
            )));
        }
        let largest = match self {
            Self::F32 => f32::MAX,
            Self::Bf16 => bf16::MAX.to_f32(),
            _ => LARGEST,
        };
        if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > largest) {
            return Err(Error::invalid_model(
                "weights",
                format!("tensor `{name}`"),
                format!("values up to {largest:e} for {self}"),
                value.to_string(),
            ));
        }
        if !values.is_empty() {
            encoder(values, importance, out);
        }
        Ok(())
    }

    fn encoder(self) -> Option<Encoder> {
        Some(match self {
            Self::F32 => |x, _, out| elements(x, out, f32::to_le_bytes),
            Self::F16 => |x, _, out| elements(x, out, |x| f16::from_f32(x).to_le_bytes()),
            Self::Bf16 => |x, _, out| elements(x, out, |x| bf16::from_f32(x).to_le_bytes()),
            Self::Q8_0 => |x, w, out| blocks(x, w, out, small_blocks::q8_0),
            Self::Q4_0 => |x, w, out| blocks(x, w, out, small_blocks::q4_0),
            Self::Q4_1 => |x, w, out| blocks(x, w, out, small_blocks::q4_1),
            Self::Q5_0 => |x, w, out| blocks(x, w, out, small_blocks::q5_0),
            Self::Q5_1 => |x, w, out| blocks(x, w, out, small_blocks::q5_1),
            Self::Q2K => |x, w, out| blocks(x, w, out, super_blocks::q2_k),
            Self::Q3K => |x, w, out| blocks(x, w, out, super_blocks::q3_k),
            Self::Q4K => |x, w, out| blocks(x, w, out, super_blocks::q4_k),
            Self::Q5K => |x, w, out| blocks(x, w, out, super_blocks::q5_k),
            Self::Q6K => |x, w, out| blocks(x, w, out, super_blocks::q6_k),
            Self::Iq4Nl => |x, w, out| blocks(x, w, out, lookup::iq4_nl),
            Self::Iq4Xs => |x, w, out| blocks(x, w, out, lookup::iq4_xs),
            _ => return None,
        })
    }
}

/// Encodes rows; lengths have been checked.
type Encoder = fn(&[f32], Option<&[f32]>, &mut [u8]);

/// The values of a block, and what weighs their errors.
#[derive(Clone, Copy)]
struct Block<'a, const V: usize> {
    values: &'a [f32; V],
    importance: Option<Importance<'a, V>>,
}

#[derive(Clone, Copy)]
struct Importance<'a, const V: usize> {
    columns: &'a [f32; V],
    /// Mean square of the block's row.
    row_mean_square: f32,
}

/// Encodes block by block: `V` values to `B` bytes.
fn blocks<const V: usize, const B: usize>(
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    encode: impl Fn(Block<'_, V>, &mut [u8; B]),
) {
    let columns = importance.map_or(values.len(), <[f32]>::len);
    let rows = values.chunks_exact(columns).zip(out.chunks_exact_mut(columns / V * B));
    for (row, out) in rows {
        let row_mean_square = match importance {
            Some(_) => fit::sum_of_squares(row) / columns as f32,
            None => 0.0,
        };
        let (values, _) = row.as_chunks::<V>();
        let (weights, _) = importance.unwrap_or_default().as_chunks::<V>();
        let (out, _) = out.as_chunks_mut::<B>();
        for (index, (values, out)) in values.iter().zip(out).enumerate() {
            let columns = weights.get(index);
            let importance = columns.map(|columns| Importance { columns, row_mean_square });
            encode(Block { values, importance }, out);
        }
    }
}

fn elements<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    let (out, _) = out.as_chunks_mut::<N>();
    for (value, out) in values.iter().zip(out) {
        *out = bytes(*value);
    }
}

/// A scale as blocks store it.
fn half_bytes(scale: f32) -> [u8; 2] {
    f16::from_f32(scale).to_le_bytes()
}

/// A scale as it is read back.
fn through_half(scale: f32) -> f32 {
    f16::from_f32(scale).to_f32()
}
