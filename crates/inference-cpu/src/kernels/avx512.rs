//! x86-64 with AVX-512 (F, BW and VL): one register of sixteen lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx2::group_sums;
#[cfg(miri)]
use super::interpreted::{
    _mm512_cmp_ps_mask, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_cvtps_ph, _mm512_max_ps,
    _mm512_min_ps, _mm512_roundscale_ps,
};
use super::kernel_table;
use super::part::{GROUP, Part};

#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Avx512 {
    /// The lower and the upper eight lanes.
    ///
    /// # Safety
    ///
    /// As [`Part`].
    #[inline(always)]
    unsafe fn halves(self) -> (__m256, __m256) {
        let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
        (_mm512_castps512_ps256(self.0), _mm256_castpd_ps(upper))
    }
}

impl Part for Avx512 {
    const WIDTH: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }

    #[inline(always)]
    unsafe fn splat_f16(value: f16) -> Self {
        Self(_mm512_cvtph_ps(_mm256_set1_epi16(value.to_bits().cast_signed())))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm512_div_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, factor.0, addend.0))
    }

    #[inline(always)]
    unsafe fn less_of(self, other: Self) -> Self {
        Self(_mm512_min_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn greater_of(self, other: Self) -> Self {
        Self(_mm512_max_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self, b: Self, then: Self, otherwise: Self) -> Self {
        let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0);
        Self(_mm512_mask_blend_ps(less, otherwise.0, then.0))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let (lower, upper) = self.halves();
        let eight = _mm256_add_ps(lower, upper);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        let (lower, upper) = self.halves();
        let eight = _mm256_max_ps(lower, upper);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }

    #[inline(always)]
    unsafe fn group_dots(weights: *const i8, activations: *const i8) -> Self {
        // AVX-512F has no products of bytes: two halves with AVX2.
        let lower = group_sums(weights, activations);
        let upper = 8 * GROUP;
        let upper = group_sums(weights.add(upper), activations.add(upper));
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lower), upper);
        Self(_mm512_cvtepi32_ps(both))
    }
}

kernel_table!(
    super::Tier::Avx512, Avx512, parts: 1, tile: 12 x 2,
    lanes: super::packed::avx512_lanes::Avx512Lanes<false>, packed_rows: 8,
    "avx512f,avx512bw,avx512vl,avx2,fma,f16c"
);
