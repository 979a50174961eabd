//! [`Quads`] of AVX2: two registers of eight lanes, sums in 16 bits.

use std::arch::x86_64::*;

use super::quads::Quads;

#[derive(Clone, Copy)]
pub(crate) struct Avx2Quads([__m256i; 2]);

/// What shuffles bytes `a` and `b` of every lane (0x80: zero) to its bytes 0
/// and 2 (`at` 0) or 1 and 3 (`at` 1).
const fn spread(a: u8, b: u8, at: usize) -> [u8; 32] {
    let mut control = [0x80; 32];
    let mut lane = 0;
    while lane < 8 {
        // Shuffles stay within 16 bytes.
        let base = (4 * (lane % 4)) as u8;
        control[4 * lane + at] = base + a;
        control[4 * lane + 2 + at] = base + b;
        lane += 1;
    }
    control
}

impl Avx2Quads {
    /// Bytes that a control puts into lower halves, zero-extended to 16 bits.
    #[inline(always)]
    unsafe fn spread_unsigned(self, control: &'static [u8; 32]) -> Self {
        let control = _mm256_loadu_si256(control.as_ptr().cast());
        Self([_mm256_shuffle_epi8(self.0[0], control), _mm256_shuffle_epi8(self.0[1], control)])
    }

    /// Bytes that a control puts into upper halves, sign-extended to 16 bits.
    #[inline(always)]
    unsafe fn spread_signed(self, control: &'static [u8; 32]) -> Self {
        let upper = self.spread_unsigned(control);
        Self([_mm256_srai_epi16::<8>(upper.0[0]), _mm256_srai_epi16::<8>(upper.0[1])])
    }
}

impl Quads for Avx2Quads {
    type Floats = [__m256; 2];
    const WIDE: bool = false;
    const SIGNED: bool = true;

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
        Self([
            _mm256_add_epi16(sums.0[0], _mm256_maddubs_epi16(codes.0[0], x)),
            _mm256_add_epi16(sums.0[1], _mm256_maddubs_epi16(codes.0[1], x)),
        ])
    }

    #[inline(always)]
    unsafe fn dot_signed(sums: Self, codes: Self, activations: Self) -> Self {
        // The instruction wants one factor unsigned: the sign moves over.
        let x = activations.0[0];
        let x = [_mm256_sign_epi8(x, codes.0[0]), _mm256_sign_epi8(x, codes.0[1])];
        Self([
            _mm256_add_epi16(sums.0[0], _mm256_maddubs_epi16(_mm256_abs_epi8(codes.0[0]), x[0])),
            _mm256_add_epi16(sums.0[1], _mm256_maddubs_epi16(_mm256_abs_epi8(codes.0[1]), x[1])),
        ])
    }

    #[inline(always)]
    unsafe fn scale_of_unsigned<const N: usize>(self) -> Self {
        const CONTROLS: [[u8; 32]; 4] =
            [spread(0, 0, 0), spread(1, 1, 0), spread(2, 2, 0), spread(3, 3, 0)];
        self.spread_unsigned(const { &CONTROLS[N] })
    }

    #[inline(always)]
    unsafe fn scale_of_signed<const N: usize>(self) -> Self {
        const CONTROLS: [[u8; 32]; 4] =
            [spread(0, 0, 1), spread(1, 1, 1), spread(2, 2, 1), spread(3, 3, 1)];
        self.spread_signed(const { &CONTROLS[N] })
    }

    #[inline(always)]
    unsafe fn scaled(total: Self, sums: Self, scale: Self) -> Self {
        // Both halves of a lane hold the scale: this multiplies and widens.
        Self::dot_pairs(total, sums, scale)
    }

    #[inline(always)]
    unsafe fn pair_of_unsigned<const N: usize>(self) -> Self {
        const CONTROLS: [[u8; 32]; 2] = [spread(0, 1, 0), spread(2, 3, 0)];
        self.spread_unsigned(const { &CONTROLS[N] })
    }

    #[inline(always)]
    unsafe fn pair_of_signed<const N: usize>(self) -> Self {
        const CONTROLS: [[u8; 32]; 2] = [spread(0, 1, 1), spread(2, 3, 1)];
        self.spread_signed(const { &CONTROLS[N] })
    }

    #[inline(always)]
    unsafe fn dot_pairs(total: Self, a: Self, b: Self) -> Self {
        Self([
            _mm256_add_epi32(total.0[0], _mm256_madd_epi16(a.0[0], b.0[0])),
            _mm256_add_epi32(total.0[1], _mm256_madd_epi16(a.0[1], b.0[1])),
        ])
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
