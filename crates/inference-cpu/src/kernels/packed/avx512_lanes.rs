//! x86-64 with AVX-512: one register of sixteen lanes. With VNNI, four products
//! of bytes are added to 32 bits at once; signed codes are then taken as
//! `code + 128`, and the activations' sum corrects that.

use std::arch::x86_64::*;

use super::super::avx2::Avx2;
#[cfg(miri)]
use super::super::interpreted::{_mm512_cvtph_ps, _mm512_sll_epi16, _mm512_srl_epi16};
use super::avx2_lanes::room;
use super::quads_avx512::{Avx512Quads, with_signs};
use super::{Codes, Lanes};

#[derive(Clone, Copy)]
pub(crate) struct Avx512Lanes<const VNNI: bool>;

impl<const VNNI: bool> Lanes for Avx512Lanes<VNNI> {
    type Floats = __m512;
    type Ints = __m512i;
    type Codes = __m512i;
    type Quads = Avx512Quads<VNNI>;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        _mm512_set1_ps(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        _mm512_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self::Floats {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }

    #[inline(always)]
    unsafe fn load_exponents(from: *const u8) -> Self::Floats {
        let [low, high] = Avx2::load_exponents(from);
        let low = _mm512_castps_pd(_mm512_castps256_ps512(low));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        _mm512_storeu_ps(to, floats);
    }

    #[inline(always)]
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        _mm512_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        _mm512_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn floats(ints: Self::Ints) -> Self::Floats {
        _mm512_cvtepi32_ps(ints)
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const u8) -> Self::Codes {
        _mm512_loadu_si512(from.cast())
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, to: *mut u8) {
        _mm512_storeu_si512(to.cast(), codes);
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Codes) -> Self::Codes {
        _mm512_and_si512(bytes, _mm512_set1_epi8(15))
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Codes) -> Self::Codes {
        Self::low(_mm512_srli_epi16::<4>(bytes))
    }

    #[inline(always)]
    unsafe fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes {
        let there = match bit {
            0..4 => _mm512_sll_epi16(bits, _mm_cvtsi64_si128(4 - bit as i64)),
            _ => _mm512_srl_epi16(bits, _mm_cvtsi64_si128(bit as i64 - 4)),
        };
        _mm512_or_si512(codes, _mm512_and_si512(there, _mm512_set1_epi8(16)))
    }

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, codes)
    }

    #[inline(always)]
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        sums: [*const i32; R],
    ) -> [Self::Ints; R] {
        let zero = _mm512_setzero_si512();
        let ones = _mm512_set1_epi16(1);
        let signed = C::BITS == 0;
        let (mut dots, mut pairs) = ([zero; R], [zero; R]);
        for pair in 0..4 {
            let codes = C::pair::<Self>(block, pair);
            for high in 0..2 {
                let mut codes = codes[high];
                if VNNI && signed {
                    codes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
                }
                for r in 0..R {
                    let x = q[r].add(4 * pair + 16 * high).cast::<i32>().read_unaligned();
                    let x = _mm512_set1_epi32(x);
                    if VNNI {
                        dots[r] = _mm512_dpbusd_epi32(dots[r], codes, x);
                    } else if signed {
                        let x = with_signs(x, codes);
                        let products = _mm512_maddubs_epi16(_mm512_abs_epi8(codes), x);
                        let fours = _mm512_madd_epi16(products, ones);
                        dots[r] = _mm512_add_epi32(dots[r], fours);
                    } else {
                        let products = _mm512_maddubs_epi16(codes, x);
                        pairs[r] = _mm512_add_epi16(pairs[r], products);
                    }
                }
            }
            let narrow = !VNNI && !signed;
            if narrow && (pair == 3 || (2 * pair + 2).is_multiple_of(room(C::BITS))) {
                for r in 0..R {
                    let fours = _mm512_madd_epi16(pairs[r], ones);
                    dots[r] = _mm512_add_epi32(dots[r], fours);
                    pairs[r] = zero;
                }
            }
        }
        let offset = if VNNI && signed { 128 } else { C::OFFSET };
        if offset != 0 {
            for r in 0..R {
                // At most 32 * 127 * 128.
                dots[r] = _mm512_sub_epi32(dots[r], _mm512_set1_epi32(*sums[r] * offset));
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn greatest(x: *const f32) -> u32 {
        Avx2::greatest(x)
    }

    #[inline(always)]
    unsafe fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32 {
        Avx2::quantize(x, scale, q)
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        Avx2::prefetch(from);
    }
}
