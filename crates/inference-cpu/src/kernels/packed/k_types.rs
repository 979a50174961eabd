//! The 256-value types as panels: how 16 output features are interleaved, and
//! how a kernel gets codes and sub-scales out of that.
//!
//! A panel's superblock is as long as 16 blocks of the source and consists of
//! rows of 16 lanes, one per feature:
//!
//! | type | f16 lanes | sub-scales | codes |
//! |---|---|---|---|
//! | Q4_K | d, dmin | 3 words | 32 rows of nibbles |
//! | Q5_K | d, dmin | 3 words | 32 rows of nibbles, 8 of fifth bits |
//! | Q6_K | d | 4 words | 32 rows of nibbles, 16 of upper pairs |
//! | Q3_K | d | 3 words | 16 rows of pairs, 8 of third bits |
//! | Q2_K | d, dmin | 4 words | 16 rows of pairs |
//! | IQ4_XS | d, high pairs | 1 word | 32 rows of nibbles |
//!
//! A word is 32 bits per lane: four sub-scales, packed as in the source. A row
//! of codes is four bytes per lane, a quad: a byte of row `4 g + i` of nibbles
//! holds k of the quads `2 i` (low) and `2 i + 1` of group `g` of 32, one of
//! row `2 g + h` of pairs the quads `4 h` to `4 h + 3` from its lowest bits up,
//! and one of row `g` of single bits all eight quads.

use super::quads::Quads;
use super::{FEATURES, k_pack};

/// Bytes of a row of codes or words.
pub(crate) const ROW: usize = 4 * FEATURES;
/// Bytes of a row of f16.
pub(crate) const HALVES: usize = 2 * FEATURES;
/// Values of a superblock.
pub(crate) const SUPER: usize = 256;
/// Values of a group: what [`KType::quads`] is indexed by.
pub(crate) const GROUP: usize = 32;

/// A 256-value type in panels.
pub(crate) trait KType {
    /// Bytes per superblock and feature: those of a block of the source.
    const BYTES: usize;
    /// Values that share a sub-scale: 16 or 32.
    const SUB: usize;
    /// Quads whose dots may be added in 16 bits; 4, 2 or 1 of a sub-block of
    /// 16, or all of one of 32.
    const QUADS_IN_16_BITS: usize;
    /// Whether there are minimums.
    const MINIMUMS: bool;
    /// What codes are greater than signed ones by.
    const OFFSET: Option<i32> = None;
    /// Whether codes can be had as signed ones, without the offset.
    const SIGNED: bool = false;

    /// Packs a block of each feature, `BYTES`, over all of `to`.
    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]);

    /// Quads `4 * HALF` to `4 * HALF + 3` of a group.
    ///
    /// # Safety
    ///
    /// As [`Quads`]; `at` is a superblock plus the offset of a lane.
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4];

    /// Writes the sub-scales, as [`Quads::scaled`] takes them, and pairs of
    /// what is multiplied with sums of activations: minimums or, for an
    /// offset, sub-scales.
    ///
    /// # Safety
    ///
    /// As [`quads`](Self::quads).
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]);

    /// Dots of codes less the offset times their activations' sums.
    ///
    /// # Safety
    ///
    /// As [`Quads`].
    #[inline(always)]
    unsafe fn without_offset<V: Quads>(dots: V, sums: V) -> V {
        match Self::OFFSET {
            Some(4) => dots.sub_shifted::<2>(sums),
            Some(32) => dots.sub_shifted::<5>(sums),
            Some(128) => dots.sub_shifted::<7>(sums),
            _ => dots,
        }
    }
}

/// The number of sub-blocks.
pub(crate) const fn subs<K: KType + ?Sized>() -> usize {
    SUPER / K::SUB
}

#[inline(always)]
unsafe fn bytes<V: Quads>(byte: u8) -> V {
    V::splat(u32::from_ne_bytes([byte; 4]))
}

/// Half a group of a row of nibbles.
#[inline(always)]
unsafe fn nibbles<V: Quads, const HALF: usize>(rows: *const u8, group: usize) -> [V; 4] {
    let mask = bytes::<V>(0x0f);
    let first = V::load(rows.add((4 * group + 2 * HALF) * ROW));
    let second = V::load(rows.add((4 * group + 2 * HALF + 1) * ROW));
    [first.and(mask), first.shr::<4>().and(mask), second.and(mask), second.shr::<4>().and(mask)]
}

/// Half a group of a row of pairs.
#[inline(always)]
unsafe fn pairs<V: Quads, const HALF: usize>(rows: *const u8, group: usize) -> [V; 4] {
    let mask = bytes::<V>(0x03);
    let row = V::load(rows.add((2 * group + HALF) * ROW));
    [row.and(mask), row.shr::<2>().and(mask), row.shr::<4>().and(mask), row.shr::<6>().and(mask)]
}

/// The four sub-scales of each word.
#[inline(always)]
unsafe fn unsigned_scales<V: Quads>(words: &[V], scales: &mut [V]) {
    for (word, scales) in words.iter().zip(scales.chunks_exact_mut(4)) {
        scales[0] = word.scale_of_unsigned::<0>();
        scales[1] = word.scale_of_unsigned::<1>();
        scales[2] = word.scale_of_unsigned::<2>();
        scales[3] = word.scale_of_unsigned::<3>();
    }
}

#[inline(always)]
unsafe fn signed_scales<V: Quads>(words: &[V], scales: &mut [V], pairs: &mut [V]) {
    for (word, scales) in words.iter().zip(scales.chunks_exact_mut(4)) {
        scales[0] = word.scale_of_signed::<0>();
        scales[1] = word.scale_of_signed::<1>();
        scales[2] = word.scale_of_signed::<2>();
        scales[3] = word.scale_of_signed::<3>();
    }
    for (word, pairs) in words.iter().zip(pairs.chunks_exact_mut(2)) {
        pairs[0] = word.pair_of_signed::<0>();
        pairs[1] = word.pair_of_signed::<1>();
    }
}

#[inline(always)]
unsafe fn unsigned_pairs<V: Quads>(words: &[V], pairs: &mut [V]) {
    for (word, pairs) in words.iter().zip(pairs.chunks_exact_mut(2)) {
        pairs[0] = word.pair_of_unsigned::<0>();
        pairs[1] = word.pair_of_unsigned::<1>();
    }
}

/// The three words of Q4_K and Q5_K: six bits of scales 0 to 3 and of minimums
/// 0 to 3, then nibbles of scales and of minimums 4 to 7, whose upper pairs are
/// those of the first two words.
#[inline(always)]
unsafe fn scales_and_minimums<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
    let (six, four, two) = (bytes::<V>(0x3f), bytes::<V>(0x0f), bytes::<V>(0x30));
    let (first, second) = (V::load(at), V::load(at.add(ROW)));
    let third = V::load(at.add(2 * ROW));
    let upper_scales = third.and(four).or(first.shr::<2>().and(two));
    let upper_minimums = third.shr::<4>().and(four).or(second.shr::<2>().and(two));
    unsigned_scales(&[first.and(six), upper_scales], scales);
    unsigned_pairs(&[second.and(six), upper_minimums], pairs);
}

/// 4 bits, 8 sub-blocks with scale and minimum.
pub(crate) struct Q4K;

impl KType for Q4K {
    const BYTES: usize = 144;
    const SUB: usize = 32;
    const QUADS_IN_16_BITS: usize = 8;
    const MINIMUMS: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::q4_k(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        nibbles::<V, HALF>(at.add(2 * HALVES + 3 * ROW), group)
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        scales_and_minimums(at.add(2 * HALVES), scales, pairs);
    }
}

/// 5 bits, 8 sub-blocks with scale and minimum.
pub(crate) struct Q5K;

impl KType for Q5K {
    const BYTES: usize = 176;
    const SUB: usize = 32;
    const QUADS_IN_16_BITS: usize = 4;
    const MINIMUMS: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::q5_k(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        let rows = at.add(2 * HALVES + 3 * ROW);
        let [a, b, c, d] = nibbles::<V, HALF>(rows, group);
        let (fifth, mask) = (V::load(rows.add((32 + group) * ROW)), bytes::<V>(0x10));
        let bits = if HALF == 0 {
            [fifth.shl::<4>(), fifth.shl::<3>(), fifth.shl::<2>(), fifth.shl::<1>()]
        } else {
            [fifth, fifth.shr::<1>(), fifth.shr::<2>(), fifth.shr::<3>()]
        };
        let [e, f, g, h] = bits;
        [a.or(e.and(mask)), b.or(f.and(mask)), c.or(g.and(mask)), d.or(h.and(mask))]
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        scales_and_minimums(at.add(2 * HALVES), scales, pairs);
    }
}

/// 6 bits, 16 sub-blocks with a signed scale.
pub(crate) struct Q6K;

impl KType for Q6K {
    const BYTES: usize = 210;
    const SUB: usize = 16;
    const QUADS_IN_16_BITS: usize = 2;
    const MINIMUMS: bool = false;
    const OFFSET: Option<i32> = Some(32);

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::q6_k(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        let rows = at.add(HALVES + 4 * ROW);
        let [a, b, c, d] = nibbles::<V, HALF>(rows, group);
        let upper = V::load(rows.add((32 + 2 * group + HALF) * ROW));
        let mask = bytes::<V>(0x30);
        [
            a.or(upper.shl::<4>().and(mask)),
            b.or(upper.shl::<2>().and(mask)),
            c.or(upper.and(mask)),
            d.or(upper.shr::<2>().and(mask)),
        ]
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        let at = at.add(HALVES);
        let [a, b] = [V::load(at), V::load(at.add(ROW))];
        let [c, d] = [V::load(at.add(2 * ROW)), V::load(at.add(3 * ROW))];
        signed_scales(&[a, b, c, d], scales, pairs);
    }
}

/// 3 bits, 16 sub-blocks with a scale of 6 bits less 32.
pub(crate) struct Q3K;

impl KType for Q3K {
    const BYTES: usize = 110;
    const SUB: usize = 16;
    const QUADS_IN_16_BITS: usize = 4;
    const MINIMUMS: bool = false;
    const OFFSET: Option<i32> = Some(4);

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::q3_k(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        let rows = at.add(HALVES + 3 * ROW);
        let [a, b, c, d] = pairs::<V, HALF>(rows, group);
        let (third, mask) = (V::load(rows.add((16 + group) * ROW)), bytes::<V>(0x04));
        let bits = if HALF == 0 {
            [third.shl::<2>(), third.shl::<1>(), third, third.shr::<1>()]
        } else {
            [third.shr::<2>(), third.shr::<3>(), third.shr::<4>(), third.shr::<5>()]
        };
        let [e, f, g, h] = bits;
        [a.or(e.and(mask)), b.or(f.and(mask)), c.or(g.and(mask)), d.or(h.and(mask))]
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        let at = at.add(HALVES);
        let (four, two, half) = (bytes::<V>(0x0f), bytes::<V>(0x30), bytes::<V>(32));
        let (first, second) = (V::load(at), V::load(at.add(ROW)));
        let third = V::load(at.add(2 * ROW));
        // Nibbles of scales 0 to 3 and 8 to 11, of 4 to 7 and 12 to 15, and
        // the upper pairs of all.
        let words = [
            first.and(four).or(third.shl::<4>().and(two)),
            second.and(four).or(third.shl::<2>().and(two)),
            first.shr::<4>().and(four).or(third.and(two)),
            second.shr::<4>().and(four).or(third.shr::<2>().and(two)),
        ];
        let words = [
            words[0].sub_bytes(half),
            words[1].sub_bytes(half),
            words[2].sub_bytes(half),
            words[3].sub_bytes(half),
        ];
        signed_scales(&words, scales, pairs);
    }
}

/// 2 bits, 16 sub-blocks with scale and minimum.
pub(crate) struct Q2K;

impl KType for Q2K {
    const BYTES: usize = 84;
    const SUB: usize = 16;
    const QUADS_IN_16_BITS: usize = 4;
    const MINIMUMS: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::q2_k(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        pairs::<V, HALF>(at.add(2 * HALVES + 4 * ROW), group)
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        let (at, mask) = (at.add(2 * HALVES), bytes::<V>(0x0f));
        let parts = scales.chunks_exact_mut(4).zip(pairs.chunks_exact_mut(2));
        for (word, (scales, pairs)) in parts.enumerate() {
            // Scales in the low nibbles, minimums in the upper ones.
            let word = V::load(at.add(word * ROW));
            unsigned_scales(&[word.and(mask)], scales);
            unsigned_pairs(&[word.shr::<4>().and(mask)], pairs);
        }
    }
}

/// 4-bit indices into a table, 8 sub-blocks with a scale of 6 bits less 32.
pub(crate) struct Iq4Xs;

/// The values less -128: what instructions that want unsigned codes get.
const IQ4_BIASED: [i8; 16] = {
    let mut biased = [0; 16];
    let mut i = 0;
    while i < 16 {
        biased[i] = IQ4_VALUES[i] ^ -128;
        i += 1;
    }
    biased
};

/// The values of ggml's `kvalues_iq4nl`.
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl KType for Iq4Xs {
    const BYTES: usize = 136;
    const SUB: usize = 32;
    const QUADS_IN_16_BITS: usize = 1;
    const MINIMUMS: bool = false;
    const OFFSET: Option<i32> = Some(128);
    const SIGNED: bool = true;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        k_pack::iq4_xs(source, to);
    }

    #[inline(always)]
    unsafe fn quads<V: Quads, const HALF: usize>(at: *const u8, group: usize) -> [V; 4] {
        let table = if V::SIGNED { &IQ4_VALUES } else { &IQ4_BIASED };
        let [a, b, c, d] = nibbles::<V, HALF>(at.add(2 * HALVES + ROW), group);
        [a.look_up(table), b.look_up(table), c.look_up(table), d.look_up(table)]
    }

    #[inline(always)]
    unsafe fn scales<V: Quads>(at: *const u8, scales: &mut [V], pairs: &mut [V]) {
        let (four, two, half) = (bytes::<V>(0x0f), bytes::<V>(0x30), bytes::<V>(32));
        let nibbles = V::load(at.add(2 * HALVES));
        // Bytes 0 and 1 hold the pairs 0 and 1 in bits 4 and 5, the pairs 2
        // and 3 in bits 6 and 7, and 4 to 7 below: shifted by 14, the latter
        // become those of bytes 2 and 3.
        let upper = V::widen(at.add(HALVES));
        let upper = upper.or(upper.shl_lanes::<14>());
        let words = [
            nibbles.and(four).or(upper.and(two)).sub_bytes(half),
            nibbles.shr::<4>().and(four).or(upper.shl::<4>().and(two)).sub_bytes(half),
        ];
        signed_scales(&words, scales, pairs);
    }
}
