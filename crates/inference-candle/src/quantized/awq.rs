//! AWQ, 4 bits, in the order of its `gemm` kernels. Lin et al., 2023; the
//! layout is AutoAWQ's.
//!
//! `qweight` i32 `[in, out / 8]`, eight outputs to a word, interleaved;
//! `scales` `[groups, out]`; `qzeros` i32 `[groups, out / 8]`, in the same
//! order.

use inference_core::Result;
use rayon::prelude::*;

use super::affine::{AffineRows, Offset};
use super::gptq::{transposed, unpacked_zeros};
use super::scheme::AwqSettings;
use super::tensors::{Bytes, FloatType, matrix, misfit, required, shaped};
use crate::SafetensorsFiles;
use crate::weights::ElementType;

const I32: &[ElementType] = &[ElementType::I32, ElementType::U32];

/// The output, of eight, that each nibble of a word belongs to.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Words of eight outputs that one task rearranges: a cache line.
const TILE: usize = 16;

pub(super) fn read(
    files: &SafetensorsFiles,
    settings: &AwqSettings,
    module: &str,
) -> Result<Option<AffineRows>> {
    let name = format!("{module}.qweight");
    let Some(weight) = files.raw(&name) else { return Ok(None) };
    let [columns, words] = matrix(&weight, &name, I32)?;
    let rows = words.saturating_mul(8);
    let group = settings.group.unwrap_or(columns);
    if !columns.is_multiple_of(group) || !columns.is_multiple_of(2) {
        let expected = format!("inputs in whole groups of {group}");
        return Err(misfit(&weight, &name, expected));
    }
    let groups = columns / group;
    let scales_name = format!("{module}.scales");
    let scales = required(files, &scales_name)?;
    shaped(&scales, &scales_name, &[groups, rows])?;
    let float = FloatType::of(&scales, &scales_name)?;
    let zeros_name = format!("{module}.qzeros");
    let zeros = required(files, &zeros_name)?;
    matrix(&zeros, &zeros_name, I32)?;
    shaped(&zeros, &zeros_name, &[groups, words])?;
    let zeros = unpacked_zeros(&zeros, [groups, rows], ordered, 0);
    let codes = rearranged(weight.bytes(), [columns, words]);
    weight.release();
    Ok(Some(AffineRows {
        name: "awq-int4",
        shape: [rows, columns],
        bits: 4,
        group,
        codes: Bytes::owned(codes),
        scales: Bytes::owned(transposed(scales.bytes(), [groups, rows], float.width())),
        float,
        offset: Offset::Zero(Bytes::owned(zeros)),
        group_of: None,
    }))
}

fn ordered(nibble: usize) -> usize {
    ORDER.get(nibble).copied().unwrap_or_default()
}

/// Words `[in, out / 8]` as rows of codes `[out, in / 2]`, in parallel.
fn rearranged(bytes: &[u8], [columns, words]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    let row_bytes = columns / 2;
    out.par_chunks_mut(TILE * 8 * row_bytes).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let count = TILE.min(words - first);
        // Two inputs at a time make a byte of each output.
        for (pair, source) in bytes.chunks_exact(2 * words * 4).enumerate() {
            let (low, high) = source.split_at(words * 4);
            let range = first * 4..(first + count) * 4;
            let (low, _) = low.get(range.clone()).unwrap_or_default().as_chunks::<4>();
            let (high, _) = high.get(range).unwrap_or_default().as_chunks::<4>();
            for (word, (low, high)) in low.iter().zip(high).enumerate() {
                let (low, high) = (u32::from_le_bytes(*low), u32::from_le_bytes(*high));
                for (nibble, output) in ORDER.iter().enumerate() {
                    let shift = 4 * nibble;
                    let byte = (low >> shift & 15) | (high >> shift & 15) << 4;
                    if let Some(out) = out.get_mut((8 * word + output) * row_bytes + pair) {
                        *out = byte as u8;
                    }
                }
            }
        }
    });
    out
}
