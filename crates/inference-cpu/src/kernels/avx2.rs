//! x86-64 with AVX2, FMA and F16C: two registers of eight lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

#[cfg(miri)]
use super::interpreted::_mm256_cvtps_ph;
use super::kernel_table;
use super::part::Part;

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(__m256);

impl Part for Avx2 {
    const WIDTH: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(_mm256_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm256_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))))
    }

    #[inline(always)]
    unsafe fn splat_f16(value: f16) -> Self {
        Self(_mm256_cvtph_ps(_mm_set1_epi16(value.to_bits().cast_signed())))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm256_div_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, factor.0, addend.0))
    }

    #[inline(always)]
    unsafe fn less_of(self, other: Self) -> Self {
        Self(_mm256_min_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn greater_of(self, other: Self) -> Self {
        Self(_mm256_max_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self, b: Self, then: Self, otherwise: Self) -> Self {
        let less = _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0);
        Self(_mm256_blendv_ps(otherwise.0, then.0, less))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn group_dots(weights: *const i8, activations: *const i8) -> Self {
        Self(_mm256_cvtepi32_ps(group_sums(weights, activations)))
    }
}

/// The sums of [`Part::group_dots`] for eight groups.
///
/// # Safety
///
/// As [`Part::group_dots`].
#[inline(always)]
pub(super) unsafe fn group_sums(weights: *const i8, activations: *const i8) -> __m256i {
    let a = quads(weights, activations);
    let b = quads(weights.add(32), activations.add(32));
    let c = quads(weights.add(64), activations.add(64));
    let d = quads(weights.add(96), activations.add(96));
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    // Even groups are in the lower half, odd ones in the upper.
    _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The sums of four products each, of 32.
///
/// # Safety
///
/// As [`Part::group_dots`], for 32 values.
#[inline(always)]
unsafe fn quads(weights: *const i8, activations: *const i8) -> __m256i {
    let weights = _mm256_loadu_si256(weights.cast());
    let activations = _mm256_loadu_si256(activations.cast());
    // The instruction wants one factor unsigned: the sign moves over. Two
    // products are at most 2 * 128 * 127, so nothing saturates.
    let activations = _mm256_sign_epi8(activations, weights);
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), activations);
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

kernel_table!(super::Tier::Avx2, Avx2, parts: 2, tile: 6 x 1, lanes: Avx2, packed_rows: 4, "avx2,fma,f16c");
