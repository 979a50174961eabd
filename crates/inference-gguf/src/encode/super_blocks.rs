//! Superblocks of 256 values: Q2_K to Q6_K. Groups of 16 or 32 have small
//! integer scales (and minima), which have a 16-bit float scale in common.

use super::fit::{
    Search, affine, largest, nearest, sum_of_squares, symmetric, symmetric_by_moves, unsigned,
};
use super::{Block, half_bytes, through_half};

/// Values per superblock.
const N: usize = 256;

type Super<'a> = Block<'a, N>;

/// The search for scale and minimum where there is an importance.
const WEIGHTED: Search = Search { first: -0.9, step: 0.05, count: 36, absolute: false };

/// Groups of `G` values with scale and minimum, both stored as integers up to
/// `scale_top`: what Q2_K, Q4_K and Q5_K are made of.
struct Affine<const G: usize> {
    /// The largest level.
    top: i32,
    scale_top: i32,
    search: Search,
    /// Multiplies the mean square that small values are lifted by.
    lift: f32,
}

/// The parts of a superblock; at most 16 groups.
struct Parts {
    scale: f32,
    minimum: f32,
    group_scales: [u8; 16],
    group_minima: [u8; 16],
    levels: [u8; N],
}

impl<const G: usize> Affine<G> {
    fn fit(&self, block: Super<'_>, plain_weights: impl Fn(&[f32; G]) -> [f32; G]) -> Parts {
        let groups = N / G;
        let (values, _) = block.values.as_chunks::<G>();
        let mut levels = [0; N];
        let (mut scales, mut minima, mut sums) = ([0.0; 16], [0.0; 16], [0.0; 16]);
        let lift = self.lift * sum_of_squares(block.values) / N as f32;
        let search = if block.importance.is_some() { &WEIGHTED } else { &self.search };
        for (index, (x, levels)) in values.iter().zip(levels.chunks_exact_mut(G)).enumerate() {
            let weights = match block.importance {
                Some(importance) => std::array::from_fn(|i| {
                    importance.columns[index * G + i] * (lift + x[i] * x[i]).sqrt()
                }),
                None => plain_weights(x),
            };
            sums[index] = weights.iter().sum();
            (scales[index], minima[index]) = affine(x, &weights, self.top, search, levels);
        }
        let (mut group_scales, mut group_minima) = ([0; 16], [0; 16]);
        let common = |x: &[f32; 16], out: &mut [u8; 16]| match block.importance {
            Some(_) => unsigned(&x[..groups], &sums[..groups], self.scale_top, &mut out[..groups]),
            None => spread(&x[..groups], self.scale_top, out),
        };
        let scale = common(&scales, &mut group_scales);
        let minimum = common(&minima, &mut group_minima);
        // Levels once more, with scales as they are read back.
        let (d, m) = (through_half(scale), through_half(minimum));
        for (index, (x, levels)) in values.iter().zip(levels.chunks_exact_mut(G)).enumerate() {
            let d = d * f32::from(group_scales[index]);
            let m = m * f32::from(group_minima[index]);
            requantize(x, d, m, (0, self.top), 0, levels);
        }
        Parts { scale, minimum, group_scales, group_minima, levels }
    }
}

/// The common scale that puts the largest of `x` on `top`.
fn spread(x: &[f32], top: i32, levels: &mut [u8]) -> f32 {
    let max = x.iter().copied().fold(0.0, f32::max);
    if max <= 0.0 {
        levels.fill(0);
        return 0.0;
    }
    let inverse = top as f32 / max;
    for (x, level) in x.iter().zip(levels) {
        *level = nearest(inverse * x, 0, top) as u8;
    }
    max / top as f32
}

/// `levels` of `(x + minimum) / scale`, stored with `offset` added; as they
/// are where the scale is zero.
fn requantize(
    x: &[f32],
    scale: f32,
    minimum: f32,
    (low, high): (i32, i32),
    offset: i32,
    levels: &mut [u8],
) {
    if scale == 0.0 {
        return;
    }
    for (x, level) in x.iter().zip(levels) {
        *level = (nearest((x + minimum) / scale, low, high) + offset) as u8;
    }
}

/// Weights of a group of 32 without importance.
fn root_mean_square_and_magnitude(x: &[f32; 32]) -> [f32; 32] {
    let average = (sum_of_squares(x) / 32.0).sqrt();
    x.map(|x| average + x.abs())
}

pub(super) fn q2_k(block: Super<'_>, out: &mut [u8; 84]) {
    let search = Search { first: -0.5, step: 0.1, count: 15, absolute: true };
    let kind = Affine::<16> { top: 3, scale_top: 15, search, lift: 1.0 };
    let parts = kind.fit(block, |x| x.map(f32::abs));
    for (out, (scale, minimum)) in
        out.iter_mut().zip(parts.group_scales.iter().zip(parts.group_minima))
    {
        *out = scale | minimum << 4;
    }
    pack_pairs(&parts.levels, &mut out[16..80]);
    out[80..82].copy_from_slice(&half_bytes(parts.scale));
    out[82..84].copy_from_slice(&half_bytes(parts.minimum));
}

pub(super) fn q4_k(block: Super<'_>, out: &mut [u8; 144]) {
    let search = Search { first: -1.0, step: 0.1, count: 20, absolute: false };
    let kind = Affine::<32> { top: 15, scale_top: 63, search, lift: 2.0 };
    let parts = kind.fit(block, root_mean_square_and_magnitude);
    write_head(&parts, out);
    pack_halves(&parts.levels, &mut out[16..]);
}

pub(super) fn q5_k(block: Super<'_>, out: &mut [u8; 176]) {
    let search = Search { first: -0.5, step: 0.1, count: 15, absolute: false };
    let kind = Affine::<32> { top: 31, scale_top: 63, search, lift: 2.0 };
    let parts = kind.fit(block, root_mean_square_and_magnitude);
    write_head(&parts, out);
    let fifth = &mut out[16..48];
    fifth.fill(0);
    for (group, levels) in parts.levels.chunks_exact(32).enumerate() {
        for (bits, level) in fifth.iter_mut().zip(levels) {
            *bits |= (level >> 4) << group;
        }
    }
    pack_halves(&parts.levels, &mut out[48..]);
}

pub(super) fn q3_k(block: Super<'_>, out: &mut [u8; 110]) {
    let (groups, _) = block.values.as_chunks::<16>();
    let mut levels = [0; N];
    let (mut scales, mut sums) = ([0.0; 16], [0.0; 16]);
    let lift = 2.0 * sum_of_squares(block.values) / N as f32;
    for (index, (x, levels)) in groups.iter().zip(levels.chunks_exact_mut(16)).enumerate() {
        scales[index] = match block.importance {
            Some(importance) => {
                let weights: [f32; 16] = std::array::from_fn(|i| {
                    importance.columns[index * 16 + i] * (lift + x[i] * x[i]).sqrt()
                });
                sums[index] = weights.iter().sum();
                symmetric(x, &weights, 4, levels)
            }
            None => symmetric_by_moves(x, 4, levels),
        };
    }
    // Six bits, 32 standing for zero.
    let mut group_scales = [32; 16];
    let scale = match block.importance {
        Some(_) => symmetric(&scales, &sums, 32, &mut group_scales),
        None => centred_scales(&scales, 32, &mut group_scales),
    };
    let d = through_half(scale);
    for (index, (x, levels)) in groups.iter().zip(levels.chunks_exact_mut(16)).enumerate() {
        let d = d * (i32::from(group_scales[index]) - 32) as f32;
        requantize(x, d, 0.0, (-4, 3), 4, levels);
    }
    let (high_bits, rest) = out.split_at_mut(32);
    high_bits.fill(0);
    for (group, levels) in levels.chunks_exact(32).enumerate() {
        for (bits, level) in high_bits.iter_mut().zip(levels) {
            *bits |= (level >> 2) << group;
        }
    }
    pack_pairs(&levels, &mut rest[..64]);
    let packed = &mut rest[64..76];
    packed.fill(0);
    for (index, scale) in group_scales.iter().enumerate() {
        packed[index % 8] |= (scale & 15) << (index / 8 * 4);
        packed[8 + index % 4] |= (scale >> 4) << (index / 4 * 2);
    }
    rest[76..78].copy_from_slice(&half_bytes(scale));
}

/// The common scale that puts the largest of `x` on `-half`; levels are
/// `half` where nothing is to be said.
fn centred_scales(x: &[f32; 16], half: i32, levels: &mut [u8; 16]) -> f32 {
    let max = largest(x);
    if max == 0.0 {
        levels.fill(0);
        return 0.0;
    }
    let inverse = -(half as f32) / max;
    for (x, level) in x.iter().zip(levels) {
        *level = (nearest(inverse * x, -half, half - 1) + half) as u8;
    }
    1.0 / inverse
}

pub(super) fn q6_k(block: Super<'_>, out: &mut [u8; 210]) {
    let (groups, _) = block.values.as_chunks::<16>();
    let mut levels = [0; N];
    let mut scales = [0.0; 16];
    for (index, (x, levels)) in groups.iter().zip(levels.chunks_exact_mut(16)).enumerate() {
        let squares = x.map(|x| x * x);
        let weights = match block.importance {
            Some(importance) => &importance.columns[index * 16..index * 16 + 16],
            None => &squares,
        };
        scales[index] = symmetric(x, weights, 32, levels);
    }
    let max = largest(&scales);
    if max.abs() < 1e-15 {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / max;
    let scale = 1.0 / inverse;
    let d = through_half(scale);
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let (group_scales, common) = rest.split_at_mut(16);
    common.copy_from_slice(&half_bytes(scale));
    for (index, (x, levels)) in groups.iter().zip(levels.chunks_exact_mut(16)).enumerate() {
        let group = nearest(inverse * scales[index], -128, 127);
        group_scales[index] = group as i8 as u8;
        requantize(x, d * group as f32, 0.0, (-32, 31), 32, levels);
    }
    let halves = levels.chunks_exact(128).zip(low.chunks_exact_mut(64));
    for ((levels, low), high) in halves.zip(high.chunks_exact_mut(32)) {
        for i in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|offset| levels[offset + i]);
            low[i] = a & 15 | c << 4;
            low[i + 32] = b & 15 | d << 4;
            high[i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
        }
    }
}

/// Scale, minimum, and eight pairs of six bits in twelve bytes.
fn write_head(parts: &Parts, out: &mut [u8]) {
    out[..2].copy_from_slice(&half_bytes(parts.scale));
    out[2..4].copy_from_slice(&half_bytes(parts.minimum));
    let packed = &mut out[4..16];
    packed.fill(0);
    for index in 0..4 {
        let scale = (parts.group_scales[index], parts.group_scales[index + 4]);
        let minimum = (parts.group_minima[index], parts.group_minima[index + 4]);
        packed[index] = scale.0 | (scale.1 >> 4) << 6;
        packed[index + 4] = minimum.0 | (minimum.1 >> 4) << 6;
        packed[index + 8] = scale.1 & 15 | (minimum.1 & 15) << 4;
    }
}

/// The low two bits of 256 levels.
fn pack_pairs(levels: &[u8; N], out: &mut [u8]) {
    for (levels, out) in levels.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            let [a, b, c, d] = [0, 32, 64, 96].map(|offset| levels[offset + i] & 3);
            *out = a | b << 2 | c << 4 | d << 6;
        }
    }
}

/// The low four bits of 256 levels: 32 low, the next 32 high.
fn pack_halves(levels: &[u8; N], out: &mut [u8]) {
    for (levels, out) in levels.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        let (low, high) = levels.split_at(32);
        for ((low, high), out) in low.iter().zip(high).zip(out) {
            *out = low & 15 | high << 4;
        }
    }
}
