//! [`Quads`] of AVX-512: one register of sixteen lanes. Sums have 16 bits, or
//! 32 with VNNI.

use std::arch::x86_64::*;

#[cfg(miri)]
use super::super::interpreted::{
    _mm512_dpwssd_epi32, _mm512_sll_epi16, _mm512_sll_epi32, _mm512_srl_epi16,
};
use super::quads::{Quads, Shuffles};

#[derive(Clone, Copy)]
pub(crate) struct Avx512Quads<const VNNI: bool>(__m512i);

impl<const VNNI: bool> Avx512Quads<VNNI> {
    #[inline(always)]
    unsafe fn shuffled(self, control: &'static [u8; 16]) -> Self {
        let control = _mm512_broadcast_i32x4(_mm_loadu_si128(control.as_ptr().cast()));
        Self(_mm512_shuffle_epi8(self.0, control))
    }

    /// Upper halves, as signed 16-bit integers.
    #[inline(always)]
    unsafe fn signed16(self) -> Self {
        Self(_mm512_srai_epi16::<8>(self.0))
    }

    /// Uppermost bytes, as signed 32-bit integers.
    #[inline(always)]
    unsafe fn signed32(self) -> Self {
        Self(_mm512_srai_epi32::<24>(self.0))
    }
}

/// Activations with the signs of codes, whose magnitudes they are multiplied
/// with.
///
/// # Safety
///
/// The CPU has AVX-512BW.
#[inline(always)]
pub(super) unsafe fn with_signs(activations: __m512i, codes: __m512i) -> __m512i {
    let negative = _mm512_movepi8_mask(codes);
    _mm512_mask_sub_epi8(activations, negative, _mm512_setzero_si512(), activations)
}

impl<const VNNI: bool> Quads for Avx512Quads<VNNI> {
    type Floats = __m512;
    const WIDE: bool = VNNI;
    const SIGNED: bool = !VNNI;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self(_mm512_loadu_si512(from.cast()))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        _mm512_storeu_si512(to.cast(), self.0);
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self(_mm512_set1_epi32(word.cast_signed()))
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Self(_mm512_and_si512(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Self(_mm512_or_si512(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> Self {
        Self(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn shl_lanes<const N: i32>(self) -> Self {
        Self(_mm512_sll_epi32(self.0, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    unsafe fn shl<const N: i32>(self) -> Self {
        Self(_mm512_sll_epi16(self.0, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    unsafe fn shr<const N: i32>(self) -> Self {
        Self(_mm512_srl_epi16(self.0, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    unsafe fn look_up(self, table: &[i8; 16]) -> Self {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        Self(_mm512_shuffle_epi8(table, self.0))
    }

    #[inline(always)]
    unsafe fn sub_bytes(self, other: Self) -> Self {
        Self(_mm512_sub_epi8(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn dot(sums: Self, codes: Self, activations: Self) -> Self {
        if VNNI {
            return Self(_mm512_dpbusd_epi32(sums.0, codes.0, activations.0));
        }
        Self(_mm512_add_epi16(sums.0, _mm512_maddubs_epi16(codes.0, activations.0)))
    }

    #[inline(always)]
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self {
        // The instructions want one factor unsigned: the sign moves over.
        let x = with_signs(activations.0, codes.0);
        Self::dot(sums, Self(_mm512_abs_epi8(codes.0)), Self(x))
    }

    #[inline(always)]
    unsafe fn scale_of_unsigned<const N: usize>(self) -> Self {
        match VNNI {
            true => self.shuffled(const { &Shuffles::ONCE_UNSIGNED[N] }),
            false => self.shuffled(const { &Shuffles::TWICE_UNSIGNED[N] }),
        }
    }

    #[inline(always)]
    unsafe fn scale_of_signed<const N: usize>(self) -> Self {
        match VNNI {
            true => self.shuffled(const { &Shuffles::ONCE_SIGNED[N] }).signed32(),
            false => self.shuffled(const { &Shuffles::TWICE_SIGNED[N] }).signed16(),
        }
    }

    #[inline(always)]
    unsafe fn scaled(total: Self, sums: Self, scale: Self) -> Self {
        if VNNI {
            return Self(_mm512_add_epi32(total.0, _mm512_mullo_epi32(sums.0, scale.0)));
        }
        // Both halves of a lane hold the scale: this multiplies and widens.
        Self::dot_pairs(total, sums, scale)
    }

    #[inline(always)]
    unsafe fn pair_of_unsigned<const N: usize>(self) -> Self {
        self.shuffled(const { &Shuffles::PAIR_UNSIGNED[N] })
    }

    #[inline(always)]
    unsafe fn pair_of_signed<const N: usize>(self) -> Self {
        self.shuffled(const { &Shuffles::PAIR_SIGNED[N] }).signed16()
    }

    #[inline(always)]
    unsafe fn dot_pairs(total: Self, a: Self, b: Self) -> Self {
        if VNNI {
            return Self(_mm512_dpwssd_epi32(total.0, a.0, b.0));
        }
        Self(_mm512_add_epi32(total.0, _mm512_madd_epi16(a.0, b.0)))
    }

    #[inline(always)]
    unsafe fn sub_shifted<const N: i32>(self, other: Self) -> Self {
        Self(_mm512_sub_epi32(self.0, other.shl_lanes::<N>().0))
    }

    #[inline(always)]
    unsafe fn floats(self) -> __m512 {
        _mm512_cvtepi32_ps(self.0)
    }
}
