//! Products with types of 256 values.

use std::marker::PhantomData;

use super::drivers::prefetch;
use super::k_types::{GROUP, HALVES, KType, ROW, SUPER, subs};
use super::quads::Quads;
use super::{Chunk256, FEATURES, Lanes, Packed};

/// Bytes of a superblock's codes at 8 bits.
const CODES: usize = SUPER * FEATURES;

/// How far ahead of their use weights are asked for. Half as much leaves the
/// types with most operations per byte a fifth below the speed of memory.
const AHEAD: usize = 4096;

/// Most sub-scales of a superblock.
const MOST_SUBS: usize = 16;

/// A type of 256 values, packed.
///
/// An unpacked superblock: codes, sub-scales, pairs of what is multiplied with
/// sums of activations, scales, and minimums where there are any.
pub(crate) struct Blocks256<K>(PhantomData<K>);

impl<K: KType> Blocks256<K> {
    const SUBS: usize = subs::<K>();
    const SCALES: usize = CODES;
    const PAIRS: usize = Self::SCALES + Self::SUBS * ROW;
    const FLOATS: usize = Self::PAIRS + Self::SUBS / 2 * ROW;

    /// Whether codes are taken as signed ones, so that no offset is left.
    const fn signed<V: Quads>() -> bool {
        K::SIGNED && V::SIGNED
    }

    /// Quads whose dots are summed before they are scaled.
    const fn together<V: Quads>() -> usize {
        let quads = K::SUB / 4;
        if V::WIDE || K::QUADS_IN_16_BITS > quads { quads } else { K::QUADS_IN_16_BITS }
    }
}

/// The dots of `R` rows: those of the running sub-block, those scaled.
struct Dots<V, const R: usize> {
    sums: [V; R],
    total: [V; R],
}

/// Adds half a group to the dots: quads `4 * HALF` on.
///
/// # Safety
///
/// As [`Packed::add`]; `q` is where the group's activations are.
#[inline(always)]
unsafe fn add_half<K: KType, V: Quads, const R: usize, const HALF: usize, const TILED: bool>(
    weights: *const u8,
    group: usize,
    scales: *const u8,
    q: [*const i8; R],
    dots: &mut Dots<V, R>,
) {
    // Past the end of what is not unpacked.
    let tile = weights.wrapping_add((group * GROUP + 16 * HALF) * FEATURES);
    if TILED && Blocks256::<K>::together::<V>() == 2 {
        // Too short to be worth registers of their own for all rows.
        for first in [0, 2] {
            let quad = 4 * HALF + first;
            let codes = [V::load(tile.add(first * ROW)), V::load(tile.add((first + 1) * ROW))];
            let scale = V::load(scales.add((group * GROUP + 4 * quad) / K::SUB * ROW));
            for r in 0..R {
                let x = |quad: usize| q[r].add(4 * quad).cast::<u32>().read_unaligned();
                let sums = V::dot(V::splat(0), codes[0], V::splat(x(quad)));
                let sums = V::dot(sums, codes[1], V::splat(x(quad + 1)));
                dots.total[r] = V::scaled(dots.total[r], sums, scale).pinned();
            }
        }
        return;
    }
    let codes = match TILED {
        // Read where they are used.
        true => [V::splat(0); 4],
        false => K::quads::<V, HALF>(weights, group),
    };
    for i in 0..4 {
        let quad = 4 * HALF + i;
        let codes = if TILED { V::load(tile.add(i * ROW)) } else { codes[i] };
        for r in 0..R {
            let x = V::splat(q[r].add(4 * quad).cast::<u32>().read_unaligned());
            let sums = match Blocks256::<K>::signed::<V>() {
                true => V::dot_signed(dots.sums[r], codes, x),
                false => V::dot(dots.sums[r], codes, x),
            };
            dots.sums[r] = if TILED { sums.pinned() } else { sums };
        }
        if (quad + 1).is_multiple_of(Blocks256::<K>::together::<V>()) {
            let sub = (group * GROUP + 4 * quad) / K::SUB;
            let scale = V::load(scales.add(sub * ROW));
            for r in 0..R {
                dots.total[r] = V::scaled(dots.total[r], dots.sums[r], scale);
                dots.sums[r] = V::splat(0);
            }
        }
    }
}

impl<K: KType> Packed for Blocks256<K> {
    const VALUES: usize = SUPER;
    const SOURCE_BYTES: usize = K::BYTES;
    const TILE_BYTES: usize = Self::FLOATS + ROW * (1 + K::MINIMUMS as usize);
    type Chunk = Chunk256;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        K::pack(source, to);
    }

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(block: *const u8, tile: *mut u8) {
        for group in 0..SUPER / GROUP {
            let to = tile.add(group * GROUP * FEATURES);
            let codes = K::quads::<L::Quads, 0>(block, group);
            for i in 0..4 {
                codes[i].store(to.add(i * ROW));
            }
            let codes = K::quads::<L::Quads, 1>(block, group);
            for i in 0..4 {
                codes[i].store(to.add((4 + i) * ROW));
            }
        }
        let scales = Scales::<L::Quads>::of::<K>(block);
        for sub in 0..Self::SUBS {
            scales.scales[sub].store(tile.add(Self::SCALES + sub * ROW));
        }
        for pair in 0..Self::SUBS / 2 {
            scales.pairs[pair].store(tile.add(Self::PAIRS + pair * ROW));
        }
        let floats = tile.add(Self::FLOATS).cast::<f32>();
        L::store(L::load_f16(block), floats);
        if K::MINIMUMS {
            L::store(L::load_f16(block.add(HALVES)), floats.add(FEATURES));
        }
    }

    #[inline(always)]
    unsafe fn decode<L: Lanes>(tile: *const u8, out: *mut f32) {
        type Words = [u32; FEATURES];
        let floats = tile.add(Self::FLOATS).cast::<[f32; FEATURES]>();
        let d = floats.read();
        let d_minimum = if K::MINIMUMS { floats.add(1).read() } else { [0.0; FEATURES] };
        let signed = Self::signed::<L::Quads>();
        let offset = K::OFFSET.unwrap_or(0);
        for sub in 0..Self::SUBS {
            // The low half of a lane is the sub-scale, whatever its width.
            let words = tile.add(Self::SCALES + sub * ROW).cast::<Words>().read();
            let pairs = tile.add(Self::PAIRS + sub / 2 * ROW).cast::<Words>().read();
            let (mut scales, mut minimums) = ([0.0; FEATURES], [0.0; FEATURES]);
            for lane in 0..FEATURES {
                scales[lane] = d[lane] * f32::from(words[lane] as i16);
                if K::MINIMUMS {
                    let minimum = (pairs[lane] >> (16 * (sub % 2))) as i16;
                    minimums[lane] = d_minimum[lane] * f32::from(minimum);
                }
            }
            for value in sub * K::SUB..(sub + 1) * K::SUB {
                let quad = tile.add(value / 4 * ROW).cast::<Words>().read();
                let mut values = [0.0; FEATURES];
                for lane in 0..FEATURES {
                    let code = quad[lane] >> (8 * (value % 4));
                    let code = match signed {
                        true => i32::from(code as i8),
                        false => i32::from(code as u8) - offset,
                    };
                    values[lane] = scales[lane] * code as f32 - minimums[lane];
                }
                out.cast::<[f32; FEATURES]>().add(value).write(values);
            }
        }
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const TILED: bool>(
        weights: *const u8,
        x: [*const Chunk256; R],
        _: usize,
        sums: &mut [L::Floats; R],
    ) {
        let zero = L::Quads::splat(0);
        let unpacked;
        let (scales, pairs) = match TILED {
            true => (weights.add(Self::SCALES), weights.add(Self::PAIRS)),
            false => {
                unpacked = Scales::<L::Quads>::of::<K>(weights);
                (unpacked.scales.as_ptr().cast(), unpacked.pairs.as_ptr().cast())
            }
        };
        let mut dots = Dots { sums: [zero; R], total: [zero; R] };
        for group in 0..SUPER / GROUP {
            if !TILED {
                let part = K::BYTES * FEATURES / (SUPER / GROUP);
                prefetch::<L>(weights.wrapping_add(AHEAD + group * part), part);
            }
            let q = x.map(|x| (&raw const (*x).q).cast::<i8>().add(GROUP * group));
            add_half::<K, L::Quads, R, 0, TILED>(weights, group, scales, q, &mut dots);
            add_half::<K, L::Quads, R, 1, TILED>(weights, group, scales, q, &mut dots);
        }
        let offset = K::OFFSET.is_some() && !Self::signed::<L::Quads>();
        let mut corrections = [zero; R];
        if K::MINIMUMS || offset {
            for pair in 0..Self::SUBS / 2 {
                let factors = L::Quads::load(pairs.add(pair * ROW));
                for r in 0..R {
                    let totals = match K::SUB {
                        16 => (&raw const (*x[r]).sums).cast::<u32>().add(pair),
                        _ => (&raw const (*x[r]).sums_of_32).cast::<u32>().add(pair),
                    };
                    let totals = L::Quads::splat(totals.read());
                    corrections[r] = L::Quads::dot_pairs(corrections[r], factors, totals);
                }
            }
        }
        if offset {
            for r in 0..R {
                dots.total[r] = K::without_offset(dots.total[r], corrections[r]);
            }
        }
        // Past the end of what is not unpacked.
        let floats = weights.wrapping_add(Self::FLOATS).cast::<f32>();
        let d = if TILED { L::load(floats) } else { L::load_f16(weights) };
        for r in 0..R {
            let scale = L::mul(d, L::splat((*x[r]).scale));
            sums[r] = L::fma(dots.total[r].floats(), scale, sums[r]);
        }
        if K::MINIMUMS {
            let d = match TILED {
                true => L::load(floats.add(FEATURES)),
                false => L::load_f16(weights.add(HALVES)),
            };
            for r in 0..R {
                // Signs are exact: less the product is plus that of -scale.
                let scale = L::mul(d, L::splat(-(*x[r]).scale));
                sums[r] = L::fma(corrections[r].floats(), scale, sums[r]);
            }
        }
    }
}

/// Sub-scales and pairs of a superblock.
struct Scales<V> {
    scales: [V; MOST_SUBS],
    pairs: [V; MOST_SUBS / 2],
}

impl<V: Quads> Scales<V> {
    /// # Safety
    ///
    /// As [`KType::scales`].
    #[inline(always)]
    unsafe fn of<K: KType>(block: *const u8) -> Self {
        let zero = V::splat(0);
        let mut all = Self { scales: [zero; MOST_SUBS], pairs: [zero; MOST_SUBS / 2] };
        let count = subs::<K>();
        K::scales(block, &mut all.scales[..count], &mut all.pairs[..count / 2]);
        all
    }
}
