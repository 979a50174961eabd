//! Packing of the 256-value types: see [`k_types`](super::k_types) for where
//! things go.

use inference_gguf::blocks::{
    Unpacked, unpack_q2_k, unpack_q3_k, unpack_q4_k, unpack_q5_k, unpack_q6_k,
};

use super::FEATURES;
use super::k_types::{HALVES, ROW};

type Block<'a> = &'a [u8];

/// Moves `N` bytes of each feature, from `from` on, side by side.
fn gather<const N: usize>(source: &[Block<'_>; FEATURES], from: usize, to: &mut [u8]) {
    for (source, to) in source.iter().zip(to.as_chunks_mut::<N>().0) {
        if let Some(part) = source.get(from..).and_then(<[u8]>::first_chunk::<N>) {
            *to = *part;
        }
    }
}

/// Moves `words` words of each feature.
fn gather_words(source: &[Block<'_>; FEATURES], from: usize, to: &mut [u8], words: usize) {
    for (word, to) in to.chunks_exact_mut(ROW).take(words).enumerate() {
        gather::<4>(source, from + 4 * word, to);
    }
}

/// A feature's lane in a row.
fn put(rows: &mut [u8], row: usize, feature: usize, quad: u32) {
    if let Some(to) = rows.get_mut(row * ROW + 4 * feature..).and_then(<[u8]>::first_chunk_mut) {
        *to = quad.to_le_bytes();
    }
}

/// Writes a feature's codes: rows of their low nibbles (`LOW` 4) or pairs
/// (`LOW` 2), then rows of the `HIGH` bits above.
fn put_codes<const LOW: u32, const HIGH: u32>(codes: &[u8; 256], feature: usize, rows: &mut [u8]) {
    let mut quads = [0u32; 64];
    for (quad, codes) in quads.iter_mut().zip(codes.as_chunks::<4>().0) {
        *quad = u32::from_le_bytes(*codes);
    }
    // Rows of as many quads as fit bytes, each shifted behind those before.
    let mut first = 0;
    for (bits, shift) in [(LOW, 0), (HIGH, LOW)] {
        if bits == 0 {
            continue;
        }
        let mask = u32::from_le_bytes([(1u8 << bits) - 1; 4]);
        let together = 8 / bits as usize;
        for (row, quads) in quads.chunks_exact(together).enumerate() {
            let mut joined = 0;
            for (i, quad) in quads.iter().enumerate() {
                joined |= ((quad >> shift) & mask) << (bits * i as u32);
            }
            put(rows, first + row, feature, joined);
        }
        first += 64 / together;
    }
}

/// Packs the codes of all features, which are `OFFSET` less than stored ones.
fn put_unpacked<const N: usize, const LOW: u32, const HIGH: u32>(
    source: &[Block<'_>; FEATURES],
    rows: &mut [u8],
    offset: u8,
    unpack: impl Fn(&[u8; N], &mut Unpacked),
) {
    let mut unpacked = Unpacked::new();
    for (feature, source) in source.iter().enumerate() {
        if let Some(block) = source.first_chunk::<N>() {
            unpack(block, &mut unpacked);
            let codes = unpacked.q.map(|q| q.cast_unsigned().wrapping_add(offset));
            put_codes::<LOW, HIGH>(&codes, feature, rows);
        }
    }
}

/// d, dmin, 12 bytes, nibbles.
pub(super) fn q4_k(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (head, rows) = to.split_at_mut(2 * HALVES + 3 * ROW);
    scales_and_minimums(source, head);
    put_unpacked::<144, 4, 0>(source, rows, 0, unpack_q4_k);
}

/// As Q4_K, with fifth bits before the nibbles.
pub(super) fn q5_k(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (head, rows) = to.split_at_mut(2 * HALVES + 3 * ROW);
    scales_and_minimums(source, head);
    put_unpacked::<176, 4, 1>(source, rows, 0, unpack_q5_k);
}

/// The head of Q4_K and Q5_K, whose 12 bytes are three words as they are.
fn scales_and_minimums(source: &[Block<'_>; FEATURES], head: &mut [u8]) {
    let (d, rest) = head.split_at_mut(HALVES);
    let (dmin, words) = rest.split_at_mut(HALVES);
    gather::<2>(source, 0, d);
    gather::<2>(source, 2, dmin);
    gather_words(source, 4, words, 3);
}

/// Nibbles, pairs, 16 scales, d.
pub(super) fn q6_k(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (d, rest) = to.split_at_mut(HALVES);
    let (words, rows) = rest.split_at_mut(4 * ROW);
    gather::<2>(source, 208, d);
    gather_words(source, 192, words, 4);
    put_unpacked::<210, 4, 2>(source, rows, 32, unpack_q6_k);
}

/// Third bits, pairs, 12 bytes of scales, d.
pub(super) fn q3_k(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (d, rest) = to.split_at_mut(HALVES);
    let (words, rows) = rest.split_at_mut(3 * ROW);
    gather::<2>(source, 108, d);
    gather_words(source, 96, words, 3);
    put_unpacked::<110, 2, 1>(source, rows, 4, unpack_q3_k);
}

/// 16 scales and minimums, pairs, d, dmin.
pub(super) fn q2_k(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (d, rest) = to.split_at_mut(HALVES);
    let (dmin, rest) = rest.split_at_mut(HALVES);
    let (words, rows) = rest.split_at_mut(4 * ROW);
    gather::<2>(source, 80, d);
    gather::<2>(source, 82, dmin);
    gather_words(source, 0, words, 4);
    put_unpacked::<84, 2, 0>(source, rows, 0, unpack_q2_k);
}

/// d, upper pairs of scales, their nibbles, indices.
pub(super) fn iq4_xs(source: &[Block<'_>; FEATURES], to: &mut [u8]) {
    let (d, rest) = to.split_at_mut(HALVES);
    let (upper, rest) = rest.split_at_mut(HALVES);
    let (words, rows) = rest.split_at_mut(ROW);
    gather::<2>(source, 0, d);
    for (feature, source) in source.iter().enumerate() {
        let Some(block) = source.first_chunk::<136>() else {
            continue;
        };
        let pairs = u16::from_le_bytes([block[2], block[3]]);
        let nibbles = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        // What one mask and one shift get out: see the type's scales.
        let mut moved = 0u16;
        let mut word = 0u32;
        for group in 0..8 {
            let pair = (pairs >> (2 * group)) & 3;
            let base = if group < 4 { 4 } else { 0 };
            moved |= pair << (8 * (group % 2) + base + 2 * (group % 4 / 2));
            let nibble = (nibbles >> (4 * group)) & 15;
            word |= nibble << (8 * (group % 4) + 4 * (group / 4));
        }
        if let Some(to) = upper.as_chunks_mut::<2>().0.get_mut(feature) {
            *to = moved.to_le_bytes();
        }
        put(words, 0, feature, word);
        let mut codes = [0; 256];
        for (codes, bytes) in
            codes.as_chunks_mut::<32>().0.iter_mut().zip(block[8..].as_chunks::<16>().0)
        {
            for (i, byte) in bytes.iter().enumerate() {
                (codes[i], codes[i + 16]) = (byte & 15, byte >> 4);
            }
        }
        put_codes::<4, 0>(&codes, feature, rows);
    }
}
