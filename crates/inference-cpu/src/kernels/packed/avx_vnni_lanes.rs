//! x86-64 with AVX-VNNI: as AVX2, but four products of bytes are added to 32
//! bits at once. Signed codes are taken as `code + 128`, and the activations'
//! sum corrects that.

use std::arch::x86_64::*;

use super::super::avx2::Avx2;
use super::quads_avx2::Avx2Quads;
use super::{Codes, Lanes};

#[derive(Clone, Copy)]
pub(crate) struct AvxVnniLanes;

/// Methods as those of [`Avx2`].
macro_rules! as_avx2 {
    ($(fn $name:ident($($arg:ident: $kind:ty),*) $(-> $out:ty)?;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($arg: $kind),*) $(-> $out)? {
                <Avx2 as Lanes>::$name($($arg),*)
            }
        )*
    };
}

impl Lanes for AvxVnniLanes {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Codes = [__m256i; 2];
    type Quads = Avx2Quads<true>;

    as_avx2! {
        fn splat(value: f32) -> Self::Floats;
        fn load(from: *const f32) -> Self::Floats;
        fn load_f16(from: *const u8) -> Self::Floats;
        fn load_exponents(from: *const u8) -> Self::Floats;
        fn store(floats: Self::Floats, to: *mut f32);
        fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
        fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
        fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
        fn floats(ints: Self::Ints) -> Self::Floats;
        fn load_codes(from: *const u8) -> Self::Codes;
        fn store_codes(codes: Self::Codes, to: *mut u8);
        fn low(bytes: Self::Codes) -> Self::Codes;
        fn high(bytes: Self::Codes) -> Self::Codes;
        fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes;
        fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes;
        fn greatest(x: *const f32) -> u32;
        fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32;
        fn prefetch(from: *const u8);
    }

    #[inline(always)]
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        sums: [*const i32; R],
    ) -> [Self::Ints; R] {
        let signed = C::BITS == 0;
        let mut dots = [[_mm256_setzero_si256(); 2]; R];
        for pair in 0..4 {
            let codes = C::pair::<Self>(block, pair);
            for high in 0..2 {
                let mut codes = codes[high];
                if signed {
                    let sign = _mm256_set1_epi8(-128);
                    codes = [_mm256_xor_si256(codes[0], sign), _mm256_xor_si256(codes[1], sign)];
                }
                for r in 0..R {
                    let x = q[r].add(4 * pair + 16 * high).cast::<i32>().read_unaligned();
                    let x = _mm256_set1_epi32(x);
                    dots[r][0] = _mm256_dpbusd_avx_epi32(dots[r][0], codes[0], x);
                    dots[r][1] = _mm256_dpbusd_avx_epi32(dots[r][1], codes[1], x);
                }
            }
        }
        let offset = if signed { 128 } else { C::OFFSET };
        if offset != 0 {
            for r in 0..R {
                // At most 32 * 127 * 128.
                let offset = _mm256_set1_epi32(*sums[r] * offset);
                dots[r][0] = _mm256_sub_epi32(dots[r][0], offset);
                dots[r][1] = _mm256_sub_epi32(dots[r][1], offset);
            }
        }
        dots
    }
}
