//! Products with types of 32 values.

use std::marker::PhantomData;

use super::drivers::prefetch;
use super::layout32::Layout32;
use super::{Chunk32, Codes, FEATURES, Lanes, Packed};

/// Values of a block.
const VALUES: usize = 32;

/// Bytes of a block's codes at 8 bits.
const CODES: usize = VALUES * FEATURES;

/// Bytes of a float of each feature.
const FLOATS: usize = 4 * FEATURES;

/// How far ahead of their use weights are asked for.
const AHEAD: usize = 1536;

/// A type of 32 values, packed.
pub(crate) struct Blocks32<T>(PhantomData<T>);

/// An unpacked block: codes, scales, minimums where there are any.
struct Tile<T>(PhantomData<T>);

impl<T: Codes> Codes for Tile<T> {
    const BITS: u32 = T::BITS;
    const OFFSET: i32 = T::OFFSET;

    #[inline(always)]
    unsafe fn pair<L: Lanes>(tile: *const u8, pair: usize) -> [L::Codes; 2] {
        let codes = tile.add(4 * FEATURES * pair);
        [L::load_codes(codes), L::load_codes(codes.add(16 * FEATURES))]
    }
}

impl<T: Layout32> Packed for Blocks32<T> {
    const VALUES: usize = VALUES;
    const SOURCE_BYTES: usize = T::SOURCE_BYTES;
    const TILE_BYTES: usize = CODES + FLOATS * (1 + T::MINIMUMS as usize);
    type Chunk = Chunk32;

    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]) {
        T::pack(source, to);
    }

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(block: *const u8, tile: *mut u8) {
        for pair in 0..4 {
            let [a, b] = T::pair::<L>(block, pair);
            let to = tile.add(4 * FEATURES * pair);
            L::store_codes(a, to);
            L::store_codes(b, to.add(16 * FEATURES));
        }
        let floats = tile.add(CODES).cast::<f32>();
        L::store(T::scales::<L>(block), floats);
        if T::MINIMUMS {
            L::store(T::minimums::<L>(block), floats.add(FEATURES));
        }
    }

    #[inline(always)]
    unsafe fn decode<L: Lanes>(tile: *const u8, out: *mut f32) {
        let words = tile.cast::<[u32; FEATURES]>();
        let floats = tile.add(CODES).cast::<[f32; FEATURES]>();
        let scales = floats.read();
        let minimums = if T::MINIMUMS { floats.add(1).read() } else { [0.0; FEATURES] };
        for value in 0..VALUES {
            let quad = words.add(value / 4).read();
            let mut values = [0.0; FEATURES];
            for lane in 0..FEATURES {
                let code = quad[lane] >> (8 * (value % 4));
                let code = match T::BITS {
                    0 => i32::from(code as i8),
                    _ => i32::from(code as u8) - T::OFFSET,
                };
                values[lane] = code as f32 * scales[lane] + minimums[lane];
            }
            out.cast::<[f32; FEATURES]>().add(value).write(values);
        }
    }

    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const TILED: bool>(
        weights: *const u8,
        x: [*const Chunk32; R],
        index: usize,
        sums: &mut [L::Floats; R],
    ) {
        let mut q = [std::ptr::null(); R];
        let mut totals = [std::ptr::null(); R];
        for r in 0..R {
            q[r] = (&raw const (*x[r]).q).cast::<i8>().add(VALUES * index);
            totals[r] = (&raw const (*x[r]).sums).cast::<i32>().add(index);
        }
        let (dots, scales);
        if !TILED {
            prefetch::<L>(weights.wrapping_add(AHEAD), Self::BYTES);
        }
        if TILED {
            dots = L::dots::<Tile<T>, R>(weights, q, totals);
            scales = L::load(weights.add(CODES).cast());
        } else {
            dots = L::dots::<T, R>(weights, q, totals);
            scales = T::scales::<L>(weights);
        }
        for r in 0..R {
            let scale = *(&raw const (*x[r]).scales).cast::<f32>().add(index);
            let scale = L::mul(scales, L::splat(scale));
            sums[r] = L::fma(L::floats(dots[r]), scale, sums[r]);
        }
        if T::MINIMUMS {
            let minimums = match TILED {
                true => L::load(weights.add(CODES + FLOATS).cast()),
                false => T::minimums::<L>(weights),
            };
            for r in 0..R {
                let total = *(&raw const (*x[r]).scaled_sums).cast::<f32>().add(index);
                sums[r] = L::fma(minimums, L::splat(total), sums[r]);
            }
        }
    }
}
