//! Blocks of every quantized type in one common form.
//!
//! A block is decoded once, to [`Unpacked`]: signed 8-bit integers in groups
//! of 16 with a scale and an offset per group. What computes on integers
//! multiplies those; what wants floats takes `scale * q + offset`, which is to
//! the bit the value that ggml gives a block. Layouts are those of ggml's
//! `ggml-common.h`; multi-byte fields are little-endian.
//!
//! The functions per type are inlined into their caller, so that a kernel that
//! is compiled for a set of vector instructions unpacks with them.

#![allow(clippy::needless_range_loop, reason = "indices say a layout more plainly")]

mod codebooks;
mod fp4;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_quants;
mod simple;
mod ternary;

use inference_core::{Error, Result};

pub use fp4::{unpack_mxfp4, unpack_nvfp4};
pub use iq1::{unpack_iq1_m, unpack_iq1_s};
pub use iq2::{unpack_iq2_s, unpack_iq2_xs, unpack_iq2_xxs};
pub use iq3::{unpack_iq3_s, unpack_iq3_xxs};
pub use iq4::{unpack_iq4_nl, unpack_iq4_xs};
pub use k_quants::{unpack_q2_k, unpack_q3_k, unpack_q4_k, unpack_q5_k, unpack_q6_k, unpack_q8_k};
pub use simple::{unpack_q4_0, unpack_q4_1, unpack_q5_0, unpack_q5_1, unpack_q8_0};
pub use ternary::{unpack_tq1_0, unpack_tq2_0};

use crate::BlockType;

/// Values of an [`Unpacked`].
pub const UNPACKED_VALUES: usize = 256;

/// Values that share a scale and an offset.
pub const GROUP: usize = 16;

/// The offset of a group that has none. Negative zero, because adding it
/// changes no value: not even a negative zero.
pub(crate) const NO_OFFSET: f32 = -0.0;

/// Up to 256 values in the common form: `scale[i / 16] * q[i] + offset[i / 16]`.
///
/// The multiplication and the addition are rounded each (not fused).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Unpacked {
    /// The integers.
    pub q: [i8; UNPACKED_VALUES],
    /// The scale of each group.
    pub scale: [f32; UNPACKED_VALUES / GROUP],
    /// The offset of each group; negative zero where the type has none.
    pub offset: [f32; UNPACKED_VALUES / GROUP],
}

impl Unpacked {
    /// Zeros.
    #[must_use]
    pub const fn new() -> Self {
        Self { q: [0; 256], scale: [0.0; 16], offset: [NO_OFFSET; 16] }
    }

    /// Writes the first values over all of `out`, at most 256.
    #[inline(always)]
    pub fn write(&self, out: &mut [f32]) {
        let (q, _) = self.q.as_chunks::<GROUP>();
        let groups = q.iter().zip(&self.scale).zip(&self.offset);
        for (out, ((q, scale), offset)) in out.chunks_mut(GROUP).zip(groups) {
            for (out, q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(*q) + offset;
            }
        }
    }
}

impl Default for Unpacked {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockType {
    /// Unpacks whole blocks of at most 256 values in all; what `out` holds
    /// behind them is left as it is.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) where `bytes` are not the
    /// blocks of `values` values or those are more than 256,
    /// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for a
    /// dense type.
    #[inline]
    pub fn unpack(self, bytes: &[u8], values: usize, out: &mut Unpacked) -> Result<()> {
        if values > UNPACKED_VALUES || self.row_bytes(values) != Some(bytes.len()) {
            let bytes = bytes.len();
            return Err(Error::engine_message(format!(
                "unpacking {values} of {self} in {bytes} bytes"
            )));
        }
        match self {
            Self::Q4_0 => each(bytes, out, unpack_q4_0),
            Self::Q4_1 => each(bytes, out, unpack_q4_1),
            Self::Q5_0 => each(bytes, out, unpack_q5_0),
            Self::Q5_1 => each(bytes, out, unpack_q5_1),
            Self::Q8_0 => each(bytes, out, unpack_q8_0),
            Self::Iq4Nl => each(bytes, out, unpack_iq4_nl),
            Self::Mxfp4 => each(bytes, out, unpack_mxfp4),
            Self::Nvfp4 => nvfp4(bytes, out),
            Self::Q2K => one(bytes, out, unpack_q2_k),
            Self::Q3K => one(bytes, out, unpack_q3_k),
            Self::Q4K => one(bytes, out, unpack_q4_k),
            Self::Q5K => one(bytes, out, unpack_q5_k),
            Self::Q6K => one(bytes, out, unpack_q6_k),
            Self::Q8K => one(bytes, out, unpack_q8_k),
            Self::Iq1S => one(bytes, out, unpack_iq1_s),
            Self::Iq1M => one(bytes, out, unpack_iq1_m),
            Self::Iq2Xxs => one(bytes, out, unpack_iq2_xxs),
            Self::Iq2Xs => one(bytes, out, unpack_iq2_xs),
            Self::Iq2S => one(bytes, out, unpack_iq2_s),
            Self::Iq3Xxs => one(bytes, out, unpack_iq3_xxs),
            Self::Iq3S => one(bytes, out, unpack_iq3_s),
            Self::Iq4Xs => one(bytes, out, unpack_iq4_xs),
            Self::Tq1_0 => one(bytes, out, unpack_tq1_0),
            Self::Tq2_0 => one(bytes, out, unpack_tq2_0),
            Self::F32 | Self::F16 | Self::Bf16 | Self::F64 => return Err(self.dense()),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => return Err(self.dense()),
        }
        Ok(())
    }

    fn dense(self) -> Error {
        Error::unsupported_model("weights", "type", self.as_str(), "a type of blocks")
    }
}

/// Unpacks a block of 256 values.
#[inline(always)]
fn one<const N: usize>(bytes: &[u8], out: &mut Unpacked, unpack: fn(&[u8; N], &mut Unpacked)) {
    if let Some(block) = bytes.first_chunk::<N>() {
        unpack(block, out);
    }
}

/// Unpacks blocks of 32 values, which have a scale and an offset.
#[inline(always)]
fn each<const N: usize>(
    bytes: &[u8],
    out: &mut Unpacked,
    unpack: impl Fn(&[u8; N], &mut [i8; 32]) -> (f32, f32),
) {
    let (blocks, _) = bytes.as_chunks::<N>();
    let (q, _) = out.q.as_chunks_mut::<32>();
    let (scale, _) = out.scale.as_chunks_mut::<2>();
    let (offset, _) = out.offset.as_chunks_mut::<2>();
    for (((block, q), scale), offset) in blocks.iter().zip(q).zip(scale).zip(offset) {
        let (one_scale, one_offset) = unpack(block, q);
        (*scale, *offset) = ([one_scale; 2], [one_offset; 2]);
    }
}

/// Unpacks blocks of 64 values, which have four scales.
#[inline(always)]
fn nvfp4(bytes: &[u8], out: &mut Unpacked) {
    let (blocks, _) = bytes.as_chunks::<36>();
    let (q, _) = out.q.as_chunks_mut::<64>();
    let (scale, _) = out.scale.as_chunks_mut::<4>();
    let (offset, _) = out.offset.as_chunks_mut::<4>();
    for (((block, q), scale), offset) in blocks.iter().zip(q).zip(scale).zip(offset) {
        *scale = unpack_nvfp4(block, q);
        *offset = [NO_OFFSET; 4];
    }
}

/// The 16-bit float at `at`.
#[inline(always)]
pub(crate) fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16_value(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The value of a 16-bit float, without a call and without asking for the
/// CPU's instructions.
#[inline(always)]
pub(crate) fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    // In the place of f32's exponent and mantissa, a number is too small by
    // 2^112, subnormal or not.
    let number = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let quiet = if bits & 0x3ff == 0 { 0 } else { 0x40_0000 };
    let special = 0x7f80_0000 | magnitude | quiet;
    f32::from_bits(sign | if bits & 0x7c00 == 0x7c00 { special } else { number })
}

/// The `N` bytes from `at` on, which are there.
#[inline(always)]
pub(crate) fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    const { assert!(N > 0) };
    // The bounds are known where the caller is compiled.
    block[at..].first_chunk().unwrap_or(&[0; N])
}

#[cfg(test)]
mod tests {
    use half::f16;

    #[test]
    fn every_half_widens_as_it_should() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let widened = super::f16_value(bits);
            if expected.is_nan() {
                assert!(widened.is_nan(), "{bits:#x}");
            } else {
                assert_eq!(widened.to_bits(), expected.to_bits(), "{bits:#x}");
            }
        }
    }
}
