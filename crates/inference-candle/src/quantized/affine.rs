//! Rows of 4- or 8-bit codes with a scale and an offset per group.

use std::fmt;

use inference_core::Quantization;

use super::tensors::{Bytes, FloatType};
use crate::RowCodec;

/// A matrix `[rows, columns]` of codes in row-major order; two 4-bit codes to
/// a byte, the lower half first. Scales and offsets are `[rows, groups]`.
pub(super) struct AffineRows {
    pub(super) name: &'static str,
    pub(super) shape: [usize; 2],
    /// 4 or 8.
    pub(super) bits: u32,
    /// Consecutive columns that share a scale; divides the columns.
    pub(super) group: usize,
    pub(super) codes: Bytes,
    pub(super) scales: Bytes,
    /// Of scales and biases.
    pub(super) float: FloatType,
    pub(super) offset: Offset,
    /// The group of each column, where columns of a group are not
    /// consecutive; every one below `columns / group`.
    pub(super) group_of: Option<Vec<u32>>,
}

/// What takes codes to both signs.
pub(super) enum Offset {
    /// `scale * code + bias`.
    Bias(Bytes),
    /// `scale * (code - zero)`, a byte per zero.
    Zero(Bytes),
}

impl AffineRows {
    fn groups(&self) -> usize {
        self.shape[1] / self.group
    }

    /// Scale and bias of each group of a row, so that a value is
    /// `scale * (code - zero) + bias`.
    fn parameters(&self, row: usize, out: &mut [Parameters]) {
        let (groups, width) = (self.groups(), self.float.width());
        self.float.for_each(self.scales.row(row, groups * width), |group, scale| {
            if let Some(out) = out.get_mut(group) {
                *out = Parameters { scale, zero: 0.0, bias: 0.0 };
            }
        });
        match &self.offset {
            Offset::Bias(biases) => {
                self.float.for_each(biases.row(row, groups * width), |group, bias| {
                    if let Some(out) = out.get_mut(group) {
                        out.bias = bias;
                    }
                });
            }
            Offset::Zero(zeros) => {
                for (out, zero) in out.iter_mut().zip(zeros.row(row, groups)) {
                    out.zero = f32::from(*zero);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Parameters {
    scale: f32,
    zero: f32,
    bias: f32,
}

impl Parameters {
    fn value(self, code: u8) -> f32 {
        self.scale * (f32::from(code) - self.zero) + self.bias
    }
}

/// Widens codes, whose number `out` says.
fn unpack(bits: u32, codes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    if bits == 8 {
        for (i, (out, code)) in out.iter_mut().zip(codes).enumerate() {
            *out = value(i, *code);
        }
        return;
    }
    for (i, (out, pair)) in out.chunks_exact_mut(2).zip(codes).enumerate() {
        if let [low, high] = out {
            *low = value(2 * i, pair & 15);
            *high = value(2 * i + 1, pair >> 4);
        }
    }
}

impl RowCodec for AffineRows {
    fn name(&self) -> &'static str {
        self.name
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn stored_bytes(&self) -> u64 {
        let (Offset::Bias(offset) | Offset::Zero(offset)) = &self.offset;
        (self.codes.len() + self.scales.len() + offset.len()) as u64
    }

    fn quantization(&self) -> Quantization {
        Quantization::new(self.bits, self.group as u32)
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) {
        let [_, columns] = self.shape;
        let bytes = |columns: usize| columns * self.bits as usize / 8;
        let mut parameters = vec![Parameters::default(); self.groups()];
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            let codes = self.codes.row(first + row, bytes(columns));
            self.parameters(first + row, &mut parameters);
            if let Some(group_of) = &self.group_of {
                unpack(self.bits, codes, out, |column, code| {
                    let group = group_of.get(column).copied().unwrap_or_default();
                    parameters.get(group as usize).copied().unwrap_or_default().value(code)
                });
                continue;
            }
            let groups =
                out.chunks_exact_mut(self.group).zip(codes.chunks_exact(bytes(self.group)));
            for ((out, codes), parameters) in groups.zip(&parameters) {
                let parameters = *parameters;
                unpack(self.bits, codes, out, |_, code| parameters.value(code));
            }
        }
    }
}

impl fmt::Debug for AffineRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}, groups of {}", self.name, self.shape, self.group)
    }
}
