//! Blocks of 32 values: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

use super::fit::{Search, affine, largest, symmetric};
use super::{Block, Importance, half_bytes};

/// Values per block.
const N: usize = 32;

type Small<'a> = Block<'a, N>;

/// The search for scale and minimum where errors are weighted.
const SEARCH: Search = Search { first: -0.9, step: 0.05, count: 36, absolute: false };

impl Importance<'_, N> {
    /// Important columns count more, and large values more than small ones.
    fn weights(&self, values: &[f32; N]) -> [f32; N] {
        std::array::from_fn(|i| {
            self.columns[i] * (self.row_mean_square + values[i] * values[i]).sqrt()
        })
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

pub(super) fn q8_0(block: Small<'_>, out: &mut [u8; 34]) {
    let scale = largest(block.values).abs() / 127.0;
    let inverse = inverse(scale);
    let (head, quants) = out.split_at_mut(2);
    head.copy_from_slice(&half_bytes(scale));
    for (quant, x) in quants.iter_mut().zip(block.values) {
        *quant = (x * inverse).round() as i8 as u8;
    }
}

/// A scale, and levels from 0 to `2 * half - 1` around `half`.
fn centred(block: Small<'_>, half: i32) -> (f32, [u8; N]) {
    let mut levels = [0; N];
    if let Some(importance) = block.importance {
        let weights = importance.weights(block.values);
        let scale = symmetric(block.values, &weights, half, &mut levels);
        return (scale, levels);
    }
    let scale = largest(block.values) / -(half as f32);
    let inverse = f64::from(inverse(scale));
    // Rounded once, as a fused multiplication and addition does.
    let shift = f64::from(half) + 0.5;
    let level = |x: f32| (f64::from(x) * inverse + shift) as f32 as u8;
    (scale, block.values.map(|x| level(x).min(2 * half as u8 - 1)))
}

/// A scale, a minimum, and levels from 0 to `top`.
fn shifted(block: Small<'_>, top: i32) -> (f32, f32, [u8; N]) {
    if let Some(importance) = block.importance {
        let mut levels = [0; N];
        let weights = importance.weights(block.values);
        let (scale, minimum) = affine(block.values, &weights, top, &SEARCH, &mut levels);
        return (scale, -minimum, levels);
    }
    let low = block.values.iter().copied().fold(f32::MAX, f32::min);
    let high = block.values.iter().copied().fold(f32::MIN, f32::max);
    let scale = (high - low) / top as f32;
    let inverse = inverse(scale);
    let level = |x: f32| ((x - low) * inverse + 0.5) as u8;
    (scale, low, block.values.map(|x| level(x).min(top as u8)))
}

pub(super) fn q4_0(block: Small<'_>, out: &mut [u8; 18]) {
    let (scale, levels) = centred(block, 8);
    let (head, quants) = out.split_at_mut(2);
    head.copy_from_slice(&half_bytes(scale));
    pack_nibbles(&levels, quants);
}

pub(super) fn q4_1(block: Small<'_>, out: &mut [u8; 20]) {
    let (scale, minimum, levels) = shifted(block, 15);
    out[..2].copy_from_slice(&half_bytes(scale));
    out[2..4].copy_from_slice(&half_bytes(minimum));
    pack_nibbles(&levels, &mut out[4..]);
}

pub(super) fn q5_0(block: Small<'_>, out: &mut [u8; 22]) {
    let (scale, levels) = centred(block, 16);
    out[..2].copy_from_slice(&half_bytes(scale));
    out[2..6].copy_from_slice(&fifth_bits(&levels));
    pack_nibbles(&levels, &mut out[6..]);
}

pub(super) fn q5_1(block: Small<'_>, out: &mut [u8; 24]) {
    let (scale, minimum, levels) = shifted(block, 31);
    out[..2].copy_from_slice(&half_bytes(scale));
    out[2..4].copy_from_slice(&half_bytes(minimum));
    out[4..8].copy_from_slice(&fifth_bits(&levels));
    pack_nibbles(&levels, &mut out[8..]);
}

/// The low four bits of 32 levels: the first half low, the second high.
pub(super) fn pack_nibbles(levels: &[u8], out: &mut [u8]) {
    let (low, high) = levels.split_at(N / 2);
    for ((low, high), out) in low.iter().zip(high).zip(out) {
        *out = low & 15 | high << 4;
    }
}

fn fifth_bits(levels: &[u8; N]) -> [u8; 4] {
    let bits = levels.iter().rev().fold(0_u32, |bits, l| bits << 1 | u32::from(l >> 4));
    bits.to_le_bytes()
}
