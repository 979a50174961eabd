//! Four bits that number the values of a table: IQ4_NL and IQ4_XS.

use super::fit::{largest, nearest, sum_of_squares};
use super::small_blocks::pack_nibbles;
use super::{Block, half_bytes};

/// The table of both types (`kvalues_iq4nl` in `ggml/src/ggml-common.h`).
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The index of the value next to `x`.
fn index_of(x: f32) -> usize {
    let middle = |i: usize| (f32::from(VALUES[i]) + f32::from(VALUES[i + 1])) * 0.5;
    (0..15).filter(|i| x >= middle(*i)).count()
}

fn value(index: usize) -> f32 {
    f32::from(VALUES[index])
}

/// The scale of a group of 32; 0 where all of it is.
fn fit(x: &[f32], weights: &[f32; 32]) -> f32 {
    let max = largest(x);
    if max.abs() < 1e-15 {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut qx, mut qq) = (0.0, 0.0);
        for (x, w) in x.iter().zip(weights) {
            let q = value(index_of(inverse * x));
            qx += w * q * x;
            qq += w * q * q;
        }
        (qx, qq)
    };
    let first = value(0);
    let (qx, qq) = sums(-first / max);
    let (mut scale, mut best) = if qq > 0.0 { (qx / qq, qx / qq * qx) } else { (0.0, 0.0) };
    for step in -7..=7 {
        let (qx, qq) = sums((step as f32 + first) / max);
        if qq > 0.0 && qx * qx > best * qq {
            scale = qx / qq;
            best = scale * qx;
        }
    }
    scale
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The weights of group `index`: by importance, else the squares.
fn weights<const V: usize>(block: Block<'_, V>, index: usize, mean_square: f32) -> [f32; 32] {
    std::array::from_fn(|i| {
        let i = index * 32 + i;
        let square = block.values[i] * block.values[i];
        match block.importance {
            Some(importance) => importance.columns[i] * (2.0 * mean_square + square).sqrt(),
            None => square,
        }
    })
}

pub(super) fn iq4_nl(block: Block<'_, 32>, out: &mut [u8; 18]) {
    let mean_square = sum_of_squares(block.values) / 32.0;
    let scale = fit(block.values, &weights(block, 0, mean_square));
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&half_bytes(scale));
    pack_nibbles(&block.values.map(|x| index_of(inverse * x) as u8), &mut out[2..]);
}

pub(super) fn iq4_xs(block: Block<'_, 256>, out: &mut [u8; 136]) {
    let mean_square = sum_of_squares(block.values) / 256.0;
    let (groups, _) = block.values.as_chunks::<32>();
    let mut scales = [0.0; 8];
    for (index, (x, scale)) in groups.iter().zip(&mut scales).enumerate() {
        *scale = fit(x, &weights(block, index, mean_square));
    }
    let common = -largest(&scales) / 32.0;
    let common_inverse = inverse(common);
    let (head, quants) = out.split_at_mut(8);
    head[..2].copy_from_slice(&half_bytes(common));
    head[4..].fill(0);
    let mut high = 0_u16;
    for (index, (x, scale)) in groups.iter().zip(scales).enumerate() {
        let level = nearest(common_inverse * scale, -32, 31);
        let inverse = inverse(common * level as f32);
        let stored = (level + 32) as u8;
        head[4 + index / 2] |= (stored & 15) << (index % 2 * 4);
        high |= u16::from(stored >> 4) << (2 * index);
        let levels = x.map(|x| index_of(inverse * x) as u8);
        pack_nibbles(&levels, &mut quants[index * 16..index * 16 + 16]);
    }
    head[2..4].copy_from_slice(&high.to_le_bytes());
}
