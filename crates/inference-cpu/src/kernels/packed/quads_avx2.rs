//! [`Quads`] of AVX2: two registers of eight lanes. Sums have 16 bits, or 32
//! with AVX-VNNI.

use std::arch::x86_64::*;

use super::avx2_lanes::pin;
use super::quads::{Quads, Shuffles};

#[derive(Clone, Copy)]
pub(crate) struct Avx2Quads<const VNNI: bool>([__m256i; 2]);

impl<const VNNI: bool> Avx2Quads<VNNI> {
    #[inline(always)]
    unsafe fn shuffled(self, control: &'static [u8; 16]) -> Self {
        let control = _mm256_broadcastsi128_si256(_mm_loadu_si128(control.as_ptr().cast()));
        Self([_mm256_shuffle_epi8(self.0[0], control), _mm256_shuffle_epi8(self.0[1], control)])
    }

    /// Upper halves, as signed 16-bit integers.
    #[inline(always)]
    unsafe fn signed16(self) -> Self {
        Self([_mm256_srai_epi16::<8>(self.0[0]), _mm256_srai_epi16::<8>(self.0[1])])
    }

    /// Uppermost bytes, as signed 32-bit integers.
    #[inline(always)]
    unsafe fn signed32(self) -> Self {
        Self([_mm256_srai_epi32::<24>(self.0[0]), _mm256_srai_epi32::<24>(self.0[1])])
    }
}

impl<const VNNI: bool> Quads for Avx2Quads<VNNI> {
    type Floats = [__m256; 2];
    const WIDE: bool = VNNI;
    const SIGNED: bool = !VNNI;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        Self([_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        _mm256_storeu_si256(to.cast(), self.0[0]);
        _mm256_storeu_si256(to.add(32).cast(), self.0[1]);
    }

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self([_mm256_set1_epi32(word.cast_signed()); 2])
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Self([_mm256_and_si256(self.0[0], other.0[0]), _mm256_and_si256(self.0[1], other.0[1])])
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Self([_mm256_or_si256(self.0[0], other.0[0]), _mm256_or_si256(self.0[1], other.0[1])])
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> Self {
        Self([
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(16).cast())),
        ])
    }

    #[inline(always)]
    unsafe fn shl_lanes<const N: i32>(self) -> Self {
        Self([_mm256_slli_epi32::<N>(self.0[0]), _mm256_slli_epi32::<N>(self.0[1])])
    }

    #[inline(always)]
    unsafe fn shl<const N: i32>(self) -> Self {
        Self([_mm256_slli_epi16::<N>(self.0[0]), _mm256_slli_epi16::<N>(self.0[1])])
    }

    #[inline(always)]
    unsafe fn shr<const N: i32>(self) -> Self {
        Self([_mm256_srli_epi16::<N>(self.0[0]), _mm256_srli_epi16::<N>(self.0[1])])
    }

    #[inline(always)]
    unsafe fn look_up(self, table: &[i8; 16]) -> Self {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        Self([_mm256_shuffle_epi8(table, self.0[0]), _mm256_shuffle_epi8(table, self.0[1])])
    }

    #[inline(always)]
    unsafe fn sub_bytes(self, other: Self) -> Self {
        Self([_mm256_sub_epi8(self.0[0], other.0[0]), _mm256_sub_epi8(self.0[1], other.0[1])])
    }

    #[inline(always)]
    unsafe fn dot(sums: Self, codes: Self, activations: Self) -> Self {
        let x = activations.0[0];
        if VNNI {
            return Self([
                _mm256_dpbusd_avx_epi32(sums.0[0], codes.0[0], x),
                _mm256_dpbusd_avx_epi32(sums.0[1], codes.0[1], x),
            ]);
        }
        Self([
            _mm256_add_epi16(sums.0[0], _mm256_maddubs_epi16(codes.0[0], x)),
            _mm256_add_epi16(sums.0[1], _mm256_maddubs_epi16(codes.0[1], x)),
        ])
    }

    #[inline(always)]
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self {
        // The instructions want one factor unsigned: the sign moves over.
        let x = activations.0[0];
        let x = [_mm256_sign_epi8(x, codes.0[0]), _mm256_sign_epi8(x, codes.0[1])];
        let sizes = [_mm256_abs_epi8(codes.0[0]), _mm256_abs_epi8(codes.0[1])];
        if VNNI {
            return Self([
                _mm256_dpbusd_avx_epi32(sums.0[0], sizes[0], x[0]),
                _mm256_dpbusd_avx_epi32(sums.0[1], sizes[1], x[1]),
            ]);
        }
        Self([
            _mm256_add_epi16(sums.0[0], _mm256_maddubs_epi16(sizes[0], x[0])),
            _mm256_add_epi16(sums.0[1], _mm256_maddubs_epi16(sizes[1], x[1])),
        ])
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
            return Self([
                _mm256_add_epi32(total.0[0], _mm256_mullo_epi32(sums.0[0], scale.0[0])),
                _mm256_add_epi32(total.0[1], _mm256_mullo_epi32(sums.0[1], scale.0[1])),
            ]);
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
        Self([
            _mm256_add_epi32(total.0[0], _mm256_madd_epi16(a.0[0], b.0[0])),
            _mm256_add_epi32(total.0[1], _mm256_madd_epi16(a.0[1], b.0[1])),
        ])
    }

    #[inline(always)]
    unsafe fn pinned(self) -> Self {
        Self([pin(self.0[0]), pin(self.0[1])])
    }

    #[inline(always)]
    unsafe fn sub_shifted<const N: i32>(self, other: Self) -> Self {
        Self([
            _mm256_sub_epi32(self.0[0], _mm256_slli_epi32::<N>(other.0[0])),
            _mm256_sub_epi32(self.0[1], _mm256_slli_epi32::<N>(other.0[1])),
        ])
    }

    #[inline(always)]
    unsafe fn floats(self) -> [__m256; 2] {
        [_mm256_cvtepi32_ps(self.0[0]), _mm256_cvtepi32_ps(self.0[1])]
    }
}
