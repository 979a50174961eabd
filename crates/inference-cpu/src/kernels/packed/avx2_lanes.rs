//! x86-64 with AVX2: two registers of eight lanes.
//!
//! `maddubs` multiplies bytes without a sign by bytes with one and adds pairs
//! to 16 bits. Codes of few bits leave room to add several such sums before
//! they are widened: 4 bits for a whole block (`8 * 2 * 15 * 127 = 30,480`).
//! Of codes with a sign the magnitudes are multiplied, and the sign moves over
//! to the activations: `2 * 128 * 127` fits once.

#[cfg(not(miri))]
use std::arch::asm;
use std::arch::x86_64::*;

use super::super::avx2::Avx2;
use super::quads_avx2::Avx2Quads;
use super::{Codes, Lanes};

/// How many sums of two products a lane of 16 bits holds: an even number.
pub(super) const fn room(bits: u32) -> usize {
    let room = 32_767 / (2 * 127 * ((1 << bits) - 1)) / 2 * 2;
    assert!(room > 0, "codes of so many bits are multiplied as ones with a sign");
    room
}

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Codes = [__m256i; 2];
    type Quads = Avx2Quads<false>;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [_mm256_set1_ps(value); 2]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self::Floats {
        [
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())),
        ]
    }

    #[inline(always)]
    unsafe fn load_exponents(from: *const u8) -> Self::Floats {
        [exponents(from), exponents(from.add(8))]
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        _mm256_storeu_ps(to, floats[0]);
        _mm256_storeu_ps(to.add(8), floats[1]);
    }

    #[inline(always)]
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }

    #[inline(always)]
    unsafe fn floats(ints: Self::Ints) -> Self::Floats {
        [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])]
    }

    #[inline(always)]
    unsafe fn load_codes(from: *const u8) -> Self::Codes {
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    }

    #[inline(always)]
    unsafe fn store_codes(codes: Self::Codes, to: *mut u8) {
        _mm256_storeu_si256(to.cast(), codes[0]);
        _mm256_storeu_si256(to.add(32).cast(), codes[1]);
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Codes) -> Self::Codes {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(bytes[0], mask), _mm256_and_si256(bytes[1], mask)]
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Codes) -> Self::Codes {
        Self::low([_mm256_srli_epi16::<4>(bytes[0]), _mm256_srli_epi16::<4>(bytes[1])])
    }

    #[inline(always)]
    unsafe fn with_fifth(codes: Self::Codes, bits: Self::Codes, bit: usize) -> Self::Codes {
        [fifth(codes[0], bits[0], bit), fifth(codes[1], bits[1], bit)]
    }

    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], codes: Self::Codes) -> Self::Codes {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        [_mm256_shuffle_epi8(table, codes[0]), _mm256_shuffle_epi8(table, codes[1])]
    }

    #[inline(always)]
    unsafe fn dots<C: Codes, const R: usize>(
        block: *const u8,
        q: [*const i8; R],
        sums: [*const i32; R],
    ) -> [Self::Ints; R] {
        let zero = _mm256_setzero_si256();
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[zero; 2]; R];
        if C::BITS == 0 {
            for pair in 0..4 {
                let codes = C::pair::<Self>(block, pair);
                for high in 0..2 {
                    let codes = codes[high];
                    let sizes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
                    for r in 0..R {
                        let x = quad(q[r].add(4 * pair + 16 * high));
                        for half in 0..2 {
                            let x = _mm256_sign_epi8(x, codes[half]);
                            let pairs = _mm256_maddubs_epi16(sizes[half], x);
                            let fours = _mm256_madd_epi16(pairs, ones);
                            dots[r][half] = pin(_mm256_add_epi32(dots[r][half], fours));
                        }
                    }
                }
            }
            return dots;
        }
        let mut pairs = [[zero; 2]; R];
        for pair in 0..4 {
            let codes = C::pair::<Self>(block, pair);
            for high in 0..2 {
                for r in 0..R {
                    let x = quad(q[r].add(4 * pair + 16 * high));
                    // Additions at a distance from the multiplications they wait for.
                    let products = [
                        pin(_mm256_maddubs_epi16(codes[high][0], x)),
                        pin(_mm256_maddubs_epi16(codes[high][1], x)),
                    ];
                    for half in 0..2 {
                        pairs[r][half] = pin(_mm256_add_epi16(pairs[r][half], products[half]));
                    }
                }
            }
            if pair == 3 || (2 * pair + 2).is_multiple_of(room(C::BITS)) {
                for r in 0..R {
                    for half in 0..2 {
                        let fours = _mm256_madd_epi16(pairs[r][half], ones);
                        dots[r][half] = _mm256_add_epi32(dots[r][half], fours);
                        pairs[r][half] = zero;
                    }
                }
            }
        }
        if C::OFFSET != 0 {
            for r in 0..R {
                let sum = pin(_mm256_set1_epi32(*sums[r]));
                let offset = _mm256_mullo_epi32(sum, _mm256_set1_epi32(C::OFFSET));
                for half in 0..2 {
                    dots[r][half] = _mm256_sub_epi32(dots[r][half], offset);
                }
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn greatest(x: *const f32) -> u32 {
        let mask = _mm256_set1_epi32(0x7FFF_FFFF);
        let a = _mm256_and_si256(_mm256_loadu_si256(x.cast()), mask);
        let b = _mm256_and_si256(_mm256_loadu_si256(x.add(8).cast()), mask);
        let eight = _mm256_max_epu32(a, b);
        let four =
            _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as u32
    }

    #[inline(always)]
    unsafe fn quantize(x: *const f32, scale: f32, q: *mut i8) -> i32 {
        let scale = _mm256_set1_ps(scale);
        // Rounds to the nearest, ties to even.
        let a = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x), scale));
        let b = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x.add(8)), scale));
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        _mm_storeu_si128(q.cast(), _mm_packs_epi16(low, high));
        let pairs = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
        let two = _mm_add_epi32(pairs, _mm_shuffle_epi32::<0b01_00_11_10>(pairs));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }
}

/// Four activations, in every lane.
///
/// # Safety
///
/// As [`Lanes`].
#[inline(always)]
unsafe fn quad(q: *const i8) -> __m256i {
    _mm256_set1_epi32(q.cast::<i32>().read_unaligned())
}

/// [`Lanes::with_fifth`] of a register.
///
/// # Safety
///
/// As [`Lanes`].
#[inline(always)]
unsafe fn fifth(codes: __m256i, bits: __m256i, bit: usize) -> __m256i {
    let there = match bit {
        0 => _mm256_slli_epi16::<4>(bits),
        1 => _mm256_slli_epi16::<3>(bits),
        2 => _mm256_slli_epi16::<2>(bits),
        3 => _mm256_slli_epi16::<1>(bits),
        4 => bits,
        5 => _mm256_srli_epi16::<1>(bits),
        6 => _mm256_srli_epi16::<2>(bits),
        _ => _mm256_srli_epi16::<3>(bits),
    };
    _mm256_or_si256(codes, _mm256_and_si256(there, _mm256_set1_epi8(16)))
}

/// The value itself. The compiler may not look through it: left alone, it
/// makes trees of sums and rows of columns until registers run out.
///
/// # Safety
///
/// As [`Lanes`].
#[inline]
#[target_feature(enable = "avx2")]
#[cfg_attr(miri, expect(unused_mut, reason = "Miri knows no assembly"))]
pub(super) unsafe fn pin(mut value: __m256i) -> __m256i {
    // SAFETY: there are no instructions.
    #[cfg(not(miri))]
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// [`Lanes::load_exponents`] of a register.
///
/// # Safety
///
/// As [`Lanes`], for 8 bytes.
#[inline(always)]
unsafe fn exponents(from: *const u8) -> __m256 {
    let exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, one));
    // The smallest two are subnormal.
    let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x20_0000), exponents);
    let is_normal = _mm256_cmpgt_epi32(exponents, one);
    _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal))
}
