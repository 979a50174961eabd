//! FP8 e4m3 with a scale per tensor, per output or per block.
//!
//! `weight` F8_E4M3 `[out, in]`; `weight_scale` or `weight_scale_inv` of one
//! element, one per output or one per block. A value is code times scale, for
//! `weight_scale_inv` too. Micikevicius et
//! al., *FP8 Formats for Deep Learning*, 2022.
//!
//! The scales of activations (`input_scale`) are for engines that compute in
//! FP8; activations here are f32.

use std::fmt;

use inference_core::{Quantization, Result};

use super::scheme::Fp8Settings;
use super::tensors::{Bytes, FloatType, matrix, misfit, required};
use crate::weights::{ElementType, WeightSource};
use crate::{RowCodec, SafetensorsFiles};

/// The values of the 256 codes.
static VALUES: [f32; 256] = values();

/// 1 bit of sign, 4 of exponent (bias 7), 3 of mantissa; no infinities, NaN
/// where exponent and mantissa are all ones.
const fn values() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, code & 7);
        let magnitude = if exponent == 15 && mantissa == 7 {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            f32::from_bits(((exponent + 120) << 23 | mantissa << 20) as u32)
        };
        values[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    values
}

/// Rows of codes with their scales.
pub(super) struct Fp8Rows {
    shape: [usize; 2],
    codes: Bytes,
    scales: Bytes,
    float: FloatType,
    /// Rows and columns that share a scale; scales are
    /// `[rows / block rows, columns / block columns]`, rounded up.
    block: [usize; 2],
}

pub(super) fn read(
    files: &SafetensorsFiles,
    settings: &Fp8Settings,
    module: &str,
) -> Result<Option<Fp8Rows>> {
    let name = format!("{module}.weight");
    let Some(weight) = files.raw(&name) else { return Ok(None) };
    if weight.kind != ElementType::F8E4m3 {
        return Ok(None);
    }
    let shape @ [rows, columns] = matrix(&weight, &name, &[ElementType::F8E4m3])?;
    let inverse = format!("{module}.weight_scale_inv");
    let direct = format!("{module}.weight_scale");
    let scales_name = match settings.block {
        _ if files.contains(&direct) => direct,
        None if !files.contains(&inverse) => direct,
        _ => inverse,
    };
    let scales = required(files, &scales_name)?;
    let float = FloatType::of(&scales, &scales_name)?;
    let block = match (scales.shape.as_slice(), settings.block) {
        (&[r, c], Some([height, width]))
            if [r, c] == [rows.div_ceil(height), columns.div_ceil(width)] =>
        {
            [height, width]
        }
        (_, Some(block)) => {
            let [height, width] = block;
            let expected = [rows.div_ceil(height), columns.div_ceil(width)];
            return Err(misfit(&scales, &scales_name, format!("shape {expected:?}")));
        }
        ([] | [1] | [1, 1], None) => [rows, columns],
        (&[n] | &[n, 1], None) if n == rows => [1, columns],
        (_, None) => {
            let expected = format!("one scale, or {rows}");
            return Err(misfit(&scales, &scales_name, expected));
        }
    };
    let (codes, scales) = (Bytes::of(&weight), Bytes::of(&scales));
    Ok(Some(Fp8Rows { shape, codes, scales, float, block }))
}

impl RowCodec for Fp8Rows {
    fn name(&self) -> &'static str {
        "fp8-e4m3"
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn stored_bytes(&self) -> u64 {
        (self.codes.len() + self.scales.len()) as u64
    }

    fn quantization(&self) -> Quantization {
        let [rows, columns] = self.block;
        Quantization::new(8, u32::try_from(rows.saturating_mul(columns)).unwrap_or(u32::MAX))
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) {
        let [_, columns] = self.shape;
        let [height, width] = self.block;
        let blocks = columns.div_ceil(width);
        let mut scales = vec![0.0; blocks];
        for (row, out) in (first..).zip(out.chunks_exact_mut(columns)) {
            let stored = self.scales.row(row / height, blocks * self.float.width());
            self.float.widen(stored, &mut scales);
            let codes = self.codes.row(row, columns);
            let parts = out.chunks_mut(width).zip(codes.chunks(width));
            for ((out, codes), scale) in parts.zip(&scales) {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = VALUES[usize::from(*code)] * scale;
                }
            }
        }
    }
}

impl fmt::Debug for Fp8Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fp8-e4m3 {:?}, blocks of {:?}", self.shape, self.block)
    }
}
