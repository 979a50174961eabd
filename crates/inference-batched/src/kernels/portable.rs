//! Arrays in place of registers, for any CPU and as the oracle of the others.

use half::f16;

use super::simd::Simd;

/// Eight numbers. With `FUSED`, multiply-adds round once, in software where
/// the CPU cannot: the bits of the instruction sets that have them.
pub(crate) struct Portable<const FUSED: bool>;

/// Floats of this size are integers; adding and taking it off rounds.
const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; 8] {
    std::array::from_fn(f)
}

impl<const FUSED: bool> Simd for Portable<FUSED> {
    const LANES: usize = 8;
    const MANY: bool = false;
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller promises eight elements; alignment is not needed.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }

    // Long, and not worth a copy in every kernel.
    #[inline(never)]
    unsafe fn load_f16(from: *const u16) -> Self::V {
        // SAFETY: as above.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        map(|i| f16::from_bits(bits[i]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        // SAFETY: as above.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        map(|i| f32::from_bits(u32::from(bits[i]) << 16))
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        map(|i| if FUSED { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }

    #[inline(always)]
    unsafe fn if_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        map(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    unsafe fn abs(a: Self::V) -> Self::V {
        map(|i| a[i].abs())
    }

    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Arguments are small; what is not stays NaN or becomes something.
        map(|i| a[i] + ROUNDER - ROUNDER)
    }

    #[inline(always)]
    unsafe fn power_of_two(a: Self::V) -> Self::V {
        map(|i| f32::from_bits(((a[i] as i32 + 127) as u32) << 23))
    }
}
