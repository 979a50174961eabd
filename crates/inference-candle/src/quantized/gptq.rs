//! GPTQ, 4 bits. Frantar et al., 2022; the layout is AutoGPTQ's.
//!
//! `qweight` i32 `[in / 8, out]`, eight inputs to a word from the lowest bits
//! up; `scales` `[groups, out]`; `qzeros` i32 `[groups, out / 8]`, eight
//! outputs to a word; `g_idx` i32 `[in]`, the group of each input.

use inference_core::{Error, Result};
use rayon::prelude::*;

use super::affine::{AffineRows, Offset};
use super::scheme::GptqSettings;
use super::tensors::{Bytes, FloatType, matrix, misfit, required, shaped};
use crate::SafetensorsFiles;
use crate::weights::{ElementType, RawTensor};

const I32: &[ElementType] = &[ElementType::I32, ElementType::U32];

/// Rows that one task rearranges: a cache line of words.
const TILE: usize = 16;

pub(super) fn read(
    files: &SafetensorsFiles,
    settings: &GptqSettings,
    module: &str,
) -> Result<Option<AffineRows>> {
    let name = format!("{module}.qweight");
    let Some(weight) = files.raw(&name) else { return Ok(None) };
    let [words, rows] = matrix(&weight, &name, I32)?;
    let columns = words.saturating_mul(8);
    let group = settings.group.unwrap_or(columns);
    if !columns.is_multiple_of(group) || !rows.is_multiple_of(8) {
        let expected = format!("8 inputs to a word in whole groups of {group}, outputs by 8");
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
    shaped(&zeros, &zeros_name, &[groups, rows / 8])?;
    let group_of = group_indices(files, module, columns, group)?;
    // Version 1 stores zeros less 1, modulo 16.
    let correction = if settings.zeros_less_one { 1 } else { 0 };
    let zeros = unpacked_zeros(&zeros, [groups, rows], |i| i, correction);
    let codes = transposed_words(weight.bytes(), [words, rows]);
    weight.release();
    Ok(Some(AffineRows {
        name: "gptq-int4",
        shape: [rows, columns],
        bits: 4,
        group,
        codes: Bytes::owned(codes),
        scales: Bytes::owned(transposed(scales.bytes(), [groups, rows], float.width())),
        float,
        offset: Offset::Zero(Bytes::owned(zeros)),
        group_of,
    }))
}

/// The group of each input where they are not consecutive (`desc_act`).
fn group_indices(
    files: &SafetensorsFiles,
    module: &str,
    columns: usize,
    group: usize,
) -> Result<Option<Vec<u32>>> {
    let name = format!("{module}.g_idx");
    let Some(tensor) = files.raw(&name) else { return Ok(None) };
    shaped(&tensor, &name, &[columns])?;
    if !I32.contains(&tensor.kind) {
        return Err(misfit(&tensor, &name, "I32"));
    }
    let (words, _) = tensor.bytes().as_chunks::<4>();
    let indices: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let groups = columns / group;
    if let Some(index) = indices.iter().find(|index| **index as usize >= groups) {
        let what = format!("tensor `{name}`");
        let (expected, found) = (format!("groups below {groups}"), index.to_string());
        return Err(Error::invalid_model(&*tensor.file, what, expected, found));
    }
    let consecutive = indices.iter().enumerate().all(|(i, index)| *index as usize == i / group);
    Ok((!consecutive).then_some(indices))
}

/// Zeros `[groups, out]`, eight to a word at the outputs that `order` gives,
/// as bytes `[out, groups]`; `correction` is added to each, modulo 16.
pub(super) fn unpacked_zeros(
    zeros: &RawTensor,
    [groups, rows]: [usize; 2],
    order: impl Fn(usize) -> usize,
    correction: u32,
) -> Vec<u8> {
    let mut out = vec![0; groups * rows];
    let (words, _) = zeros.bytes().as_chunks::<4>();
    for (group, words) in words.chunks_exact(rows / 8).enumerate() {
        for (first, word) in words.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            for nibble in 0..8 {
                let zero = ((word >> (4 * nibble)) + correction) & 15;
                let row = 8 * first + order(nibble);
                if let Some(out) = out.get_mut(row * groups + group) {
                    *out = zero as u8;
                }
            }
        }
    }
    out
}

/// A matrix of elements of `width` bytes, `[rows, columns]` to
/// `[columns, rows]`.
pub(super) fn transposed(bytes: &[u8], [rows, columns]: [usize; 2], width: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    for (row, bytes) in bytes.chunks_exact(columns * width).enumerate() {
        for (column, element) in bytes.chunks_exact(width).enumerate() {
            let at = (column * rows + row) * width;
            if let Some(out) = out.get_mut(at..at + width) {
                out.copy_from_slice(element);
            }
        }
    }
    out
}

/// As [`transposed`] for words, in parallel: a word holds eight consecutive
/// inputs of one output, so that the transposed words are rows of codes.
fn transposed_words(bytes: &[u8], [words, rows]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    out.par_chunks_mut(TILE * words * 4).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        let count = TILE.min(rows - first);
        for (i, source) in bytes.chunks_exact(rows * 4).enumerate() {
            let source = source.get(first * 4..(first + count) * 4).unwrap_or_default();
            for (row, word) in source.chunks_exact(4).enumerate() {
                let at = (row * words + i) * 4;
                if let Some(out) = out.get_mut(at..at + 4) {
                    out.copy_from_slice(word);
                }
            }
        }
    });
    out
}
