//! The x86 instructions that kernels use and Miri does not know, by their
//! description in Intel's manual. Under Miri alone, in the places of
//! [`std::arch`]'s functions of the same names. They are unsafe because those
//! are, and safe to call.

use std::arch::x86_64::{__m128i, __m256, __m256i, __m512, __m512i, __mmask16, _CMP_LT_OQ};

use half::f16;

/// Bits as something else of the same size.
///
/// # Safety
///
/// Both are numbers, or arrays or vectors of them.
unsafe fn cast<A: Copy, B: Copy>(from: A) -> B {
    assert_eq!(size_of::<A>(), size_of::<B>());
    std::mem::transmute_copy(&from)
}

unsafe fn floats(from: __m512) -> [f32; 16] {
    cast(from)
}

pub(in crate::kernels) unsafe fn _mm256_cvtps_ph<const ROUNDING: i32>(from: __m256) -> __m128i {
    assert_eq!(ROUNDING, 0, "to nearest");
    cast(cast::<_, [f32; 8]>(from).map(|x| f16::from_f32(x).to_bits()))
}

pub(in crate::kernels) unsafe fn _mm512_cvtps_ph<const ROUNDING: i32>(from: __m512) -> __m256i {
    assert_eq!(ROUNDING, 0, "to nearest");
    cast(floats(from).map(|x| f16::from_f32(x).to_bits()))
}

pub(in crate::kernels) unsafe fn _mm512_cvtph_ps(from: __m256i) -> __m512 {
    cast(cast::<_, [u16; 16]>(from).map(|x| f16::from_bits(x).to_f32()))
}

pub(in crate::kernels) unsafe fn _mm512_cvtps_epi32(from: __m512) -> __m512i {
    cast(floats(from).map(|x| {
        let whole = x.round_ties_even();
        // What does not fit, NaN included, is the smallest.
        if (-2147483648.0..2147483648.0).contains(&whole) { whole as i32 } else { i32::MIN }
    }))
}

pub(in crate::kernels) unsafe fn _mm512_roundscale_ps<const CONTROL: i32>(from: __m512) -> __m512 {
    assert_eq!(CONTROL & !8, 0, "to nearest, no fraction");
    cast(floats(from).map(f32::round_ties_even))
}

pub(in crate::kernels) unsafe fn _mm512_cmp_ps_mask<const PREDICATE: i32>(
    a: __m512,
    b: __m512,
) -> __mmask16 {
    assert_eq!(PREDICATE, _CMP_LT_OQ);
    let (a, b) = (floats(a), floats(b));
    (0..16).fold(0, |mask, lane| mask | __mmask16::from(a[lane] < b[lane]) << lane)
}

pub(in crate::kernels) unsafe fn _mm512_min_ps(a: __m512, b: __m512) -> __m512 {
    let (a, b) = (floats(a), floats(b));
    cast::<[f32; 16], _>(std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] }))
}

pub(in crate::kernels) unsafe fn _mm512_max_ps(a: __m512, b: __m512) -> __m512 {
    let (a, b) = (floats(a), floats(b));
    cast::<[f32; 16], _>(std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] }))
}

pub(in crate::kernels) unsafe fn _mm512_dpwssd_epi32(
    sums: __m512i,
    a: __m512i,
    b: __m512i,
) -> __m512i {
    let sums: [i32; 16] = cast(sums);
    let (a, b): ([i16; 32], [i16; 32]) = (cast(a), cast(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    cast::<[i32; 16], _>(std::array::from_fn(|i| {
        sums[i].wrapping_add(product(2 * i)).wrapping_add(product(2 * i + 1))
    }))
}

/// The number of bits of a shift, which all lanes share.
unsafe fn count(count: __m128i) -> u32 {
    u32::try_from(cast::<_, [u64; 2]>(count)[0]).unwrap_or(u32::MAX)
}

pub(in crate::kernels) unsafe fn _mm512_sll_epi16(from: __m512i, by: __m128i) -> __m512i {
    let by = count(by);
    cast(cast::<_, [u16; 32]>(from).map(|x| x.checked_shl(by).unwrap_or(0)))
}

pub(in crate::kernels) unsafe fn _mm512_srl_epi16(from: __m512i, by: __m128i) -> __m512i {
    let by = count(by);
    cast(cast::<_, [u16; 32]>(from).map(|x| x.checked_shr(by).unwrap_or(0)))
}

pub(in crate::kernels) unsafe fn _mm512_sll_epi32(from: __m512i, by: __m128i) -> __m512i {
    let by = count(by);
    cast(cast::<_, [u32; 16]>(from).map(|x| x.checked_shl(by).unwrap_or(0)))
}
