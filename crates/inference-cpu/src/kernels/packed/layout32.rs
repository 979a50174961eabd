//! Types of 32 values with a scale, packed.
//!
//! The 16 bytes of 4-bit codes hold value `i` in the low and value `i + 16` in
//! the high half of byte `i`, so bytes `4j..4j + 4` of a feature are its quads
//! `j` and `j + 4`: they are moved as they are.

use super::{Codes, FEATURES, Lanes};

/// A type of 32 values with a scale each feature, and maybe a minimum.
pub(crate) trait Layout32: Codes {
    /// Bytes of one feature's block in the source.
    const SOURCE_BYTES: usize;
    /// Whether there are minimums.
    const MINIMUMS: bool = false;

    /// As [`Packed::pack`](super::Packed::pack).
    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]);

    /// The scales of the features.
    ///
    /// # Safety
    ///
    /// As [`Codes::pair`].
    unsafe fn scales<L: Lanes>(block: *const u8) -> L::Floats {
        L::load_f16(block)
    }

    /// The minimums of the features, where there are any.
    ///
    /// # Safety
    ///
    /// As [`Codes::pair`].
    unsafe fn minimums<L: Lanes>(block: *const u8) -> L::Floats {
        L::load_f16(block.add(HALVES))
    }
}

/// Bytes of a half float of each feature.
const HALVES: usize = 2 * FEATURES;

/// Bytes of a quad of each feature.
const QUAD: usize = 4 * FEATURES;

/// Moves `N` bytes of each feature, from `from` on, side by side.
fn gather<const N: usize>(source: &[&[u8]; FEATURES], from: usize, to: &mut [u8]) {
    for (source, to) in source.iter().zip(to.as_chunks_mut::<N>().0) {
        if let Some(part) = source.get(from..).and_then(<[u8]>::first_chunk::<N>) {
            *to = *part;
        }
    }
}

/// Moves `quads` quads of each feature.
fn gather_quads(source: &[&[u8]; FEATURES], from: usize, to: &mut [u8], quads: usize) {
    for (quad, to) in to.chunks_exact_mut(QUAD).take(quads).enumerate() {
        gather::<4>(source, from + 4 * quad, to);
    }
}

/// Fifth bits: byte `4f + i` holds value `4j + i` of feature `f` in bit `j`.
fn gather_fifths(source: &[&[u8]; FEATURES], from: usize, to: &mut [u8]) {
    for (source, to) in source.iter().zip(to.as_chunks_mut::<4>().0) {
        let bits = source.get(from..).and_then(<[u8]>::first_chunk::<4>);
        let bits = u32::from_le_bytes(*bits.unwrap_or(&[0; 4]));
        for (i, to) in to.iter_mut().enumerate() {
            // Every fourth bit, pushed together in three steps.
            let mut every = (bits >> i) & 0x1111_1111;
            every = (every | (every >> 3)) & 0x0303_0303;
            every = (every | (every >> 6)) & 0x000F_000F;
            *to = (every | (every >> 12)) as u8;
        }
    }
}

/// 4-bit codes: quads `pair` and `pair + 4` are in the same bytes.
///
/// # Safety
///
/// As [`Codes::pair`].
#[inline(always)]
unsafe fn nibbles<L: Lanes>(codes: *const u8, pair: usize) -> [L::Codes; 2] {
    let both = L::load_codes(codes.add(QUAD * pair));
    [L::low(both), L::high(both)]
}

/// 5-bit codes: fifth bits, 4-bit codes.
///
/// # Safety
///
/// As [`Codes::pair`].
#[inline(always)]
unsafe fn fives<L: Lanes>(codes: *const u8, pair: usize) -> [L::Codes; 2] {
    let fifths = L::load_codes(codes);
    let [low, high] = nibbles::<L>(codes.add(QUAD), pair);
    [L::with_fifth(low, fifths, pair), L::with_fifth(high, fifths, pair + 4)]
}

/// Scales and 4-bit codes less 8.
pub(crate) struct Q4_0;

impl Codes for Q4_0 {
    const BITS: u32 = 4;
    const OFFSET: i32 = 8;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        nibbles::<L>(block.add(HALVES), pair)
    }
}

impl Layout32 for Q4_0 {
    const SOURCE_BYTES: usize = 18;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (scales, codes) = to.split_at_mut(HALVES);
        gather::<2>(source, 0, scales);
        gather_quads(source, 2, codes, 4);
    }
}

/// Scales, minimums and 4-bit codes.
pub(crate) struct Q4_1;

impl Codes for Q4_1 {
    const BITS: u32 = 4;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        nibbles::<L>(block.add(2 * HALVES), pair)
    }
}

impl Layout32 for Q4_1 {
    const SOURCE_BYTES: usize = 20;
    const MINIMUMS: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (halves, codes) = to.split_at_mut(2 * HALVES);
        let (scales, minimums) = halves.split_at_mut(HALVES);
        gather::<2>(source, 0, scales);
        gather::<2>(source, 2, minimums);
        gather_quads(source, 4, codes, 4);
    }
}

/// Scales, fifth bits and 4-bit codes; together less 16.
pub(crate) struct Q5_0;

impl Codes for Q5_0 {
    const BITS: u32 = 5;
    const OFFSET: i32 = 16;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        fives::<L>(block.add(HALVES), pair)
    }
}

impl Layout32 for Q5_0 {
    const SOURCE_BYTES: usize = 22;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (scales, codes) = to.split_at_mut(HALVES);
        let (fifths, codes) = codes.split_at_mut(QUAD);
        gather::<2>(source, 0, scales);
        gather_fifths(source, 2, fifths);
        gather_quads(source, 6, codes, 4);
    }
}

/// Scales, minimums, fifth bits and 4-bit codes.
pub(crate) struct Q5_1;

impl Codes for Q5_1 {
    const BITS: u32 = 5;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        fives::<L>(block.add(2 * HALVES), pair)
    }
}

impl Layout32 for Q5_1 {
    const SOURCE_BYTES: usize = 24;
    const MINIMUMS: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (halves, codes) = to.split_at_mut(2 * HALVES);
        let (scales, minimums) = halves.split_at_mut(HALVES);
        let (fifths, codes) = codes.split_at_mut(QUAD);
        gather::<2>(source, 0, scales);
        gather::<2>(source, 2, minimums);
        gather_fifths(source, 4, fifths);
        gather_quads(source, 8, codes, 4);
    }
}

/// Scales and signed bytes.
pub(crate) struct Q8_0;

impl Codes for Q8_0 {
    const BITS: u32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        let codes = block.add(HALVES + QUAD * pair);
        [L::load_codes(codes), L::load_codes(codes.add(4 * QUAD))]
    }
}

impl Layout32 for Q8_0 {
    const SOURCE_BYTES: usize = 34;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (scales, codes) = to.split_at_mut(HALVES);
        gather::<2>(source, 0, scales);
        gather_quads(source, 2, codes, 8);
    }
}

/// Scales and 4-bit indices of unevenly spaced values.
pub(crate) struct Iq4Nl;

impl Iq4Nl {
    const VALUES: [i8; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
}

impl Codes for Iq4Nl {
    const BITS: u32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        let [low, high] = nibbles::<L>(block.add(HALVES), pair);
        [L::look_up(&Self::VALUES, low), L::look_up(&Self::VALUES, high)]
    }
}

impl Layout32 for Iq4Nl {
    const SOURCE_BYTES: usize = 18;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        Q4_0::pack(source, to);
    }
}

/// Exponents and 4-bit floats, which are doubled so that they are whole.
pub(crate) struct Mxfp4;

impl Mxfp4 {
    /// The values, plus 12 so that none is negative.
    const VALUES: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
}

impl Codes for Mxfp4 {
    const BITS: u32 = 5;
    const OFFSET: i32 = 12;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(block: *const u8, pair: usize) -> [L::Codes; 2] {
        let [low, high] = nibbles::<L>(block.add(FEATURES), pair);
        [L::look_up(&Self::VALUES, low), L::look_up(&Self::VALUES, high)]
    }
}

impl Layout32 for Mxfp4 {
    const SOURCE_BYTES: usize = 17;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        let (scales, codes) = to.split_at_mut(FEATURES);
        gather::<1>(source, 0, scales);
        gather_quads(source, 1, codes, 4);
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(block: *const u8) -> L::Floats {
        L::load_exponents(block)
    }
}
