//! Portable lanes: the definition that the vector instruction sets are tested
//! against.

use half::f16;

use super::super::scalar::Scalar;
use super::quads_scalar::ScalarQuads;
use super::{Codes, FEATURES, Lanes};

/// Bytes of a quad of all features.
const QUAD: usize = 4 * FEATURES;

impl Lanes for Scalar {
    type Floats = [f32; FEATURES];
    type Ints = [i32; FEATURES];
    type Codes = [u8; QUAD];
    type Quads = ScalarQuads;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [value; FEATURES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        from.cast::<Self::Floats>().read_unaligned()
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self::Floats {
        from.cast::<[f16; FEATURES]>().read_unaligned().map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_exponents(from: *const u8) -> Self::Floats {
        from.cast::<[u8; FEATURES]>().read().map(|exponent| {
            // The smallest two are subnormal.
            let exponent = u32::from(exponent);
            let normal = exponent.wrapping_sub(1) << 23;
            f32::from_bits(if exponent < 2 { 0x20_0000 << exponent } else { normal })
        })
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        to.cast::<Self::Floats>().write_unaligned(floats);
    }

    #[inline(always)]
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn floats(ints: Self::Ints) -> Self::Floats {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const u8) -> Self::Codes {
        from.cast::<Self::Codes>().read()
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, to: *mut u8) {
        to.cast::<Self::Codes>().write(codes);
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Codes) -> Self::Codes {
        bytes.map(|byte| byte & 15)
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Codes) -> Self::Codes {
        bytes.map(|byte| byte >> 4)
    }

    #[inline(always)]
    unsafe fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes {
        std::array::from_fn(|i| codes[i] | (((bits[i] >> bit) & 1) << 4))
    }

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes {
        codes.map(|code| table[usize::from(code & 15)] as u8)
    }

    #[inline(always)]
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        _: [*const i32; R],
    ) -> [Self::Ints; R] {
        let mut dots = [[0; FEATURES]; R];
        for pair in 0..4 {
            let codes = C::pair::<Self>(block, pair);
            for (quad, codes) in [pair, pair + 4].into_iter().zip(codes) {
                for r in 0..R {
                    for (i, code) in codes.into_iter().enumerate() {
                        let code = match C::BITS {
                            0 => i32::from(code as i8),
                            _ => i32::from(code) - C::OFFSET,
                        };
                        dots[r][i / 4] += code * i32::from(*q[r].add(4 * quad + i % 4));
                    }
                }
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn greatest(x: *const f32) -> u32 {
        let x = x.cast::<[f32; FEATURES]>().read_unaligned();
        x.iter().fold(0, |greatest, x| greatest.max(x.to_bits() & 0x7FFF_FFFF))
    }

    #[inline(always)]
    unsafe fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32 {
        /// `1.5 * 2^23 + x` holds `x`, rounded, in its lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let x = x.cast::<[f32; FEATURES]>().read_unaligned();
        let rounded = x.map(|x| (x / scale + ROUND).to_bits() as i8);
        q.cast::<[i8; FEATURES]>().write(rounded);
        rounded.into_iter().map(i32::from).sum()
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
