//! Activation functions over registers.

#![allow(clippy::excessive_precision, reason = "coefficients as they were published")]

use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

use super::simd::Simd;
use crate::Activation;

/// `exp(x)`, to about two units in the last place; 0 and infinity beyond the
/// range of f32. The polynomial is that of the Cephes library's `expf`.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    /// Products with small integers are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const _: () = assert!((LN_2_HIGH + LN_2_LOW - LN_2).abs() < 1e-7);
    // SAFETY: as the caller promises.
    unsafe {
        // Beyond these the result is 0 or infinity; NaN is neither.
        let (low, high) = (S::splat(-104.0), S::splat(89.0));
        let x = S::if_less(x, low, low, x);
        let x = S::if_less(high, x, high, x);
        let n = S::round(S::mul(x, S::splat(LOG2_E)));
        let r = S::fma(n, S::splat(-LN_2_HIGH), x);
        let r = S::fma(n, S::splat(-LN_2_LOW), r);
        let mut p = S::splat(1.987_569_2e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5.000_000_1e-1] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::add(S::fma(S::mul(p, r), r, r), S::splat(1.0));
        // In two steps, for powers beyond those of a normal number.
        let half = S::round(S::mul(n, S::splat(0.5)));
        let rest = S::sub(n, half);
        S::mul(S::mul(p, S::power_of_two(half)), S::power_of_two(rest))
    }
}

/// `x / (1 + exp(-x * scale))`.
#[inline(always)]
unsafe fn gated<S: Simd>(x: S::V, argument: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), argument));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

/// Near 0 the odd polynomial of the Cephes library's `tanhf`, else
/// `1 - 2 / (exp(2 |x|) + 1)`.
#[inline(always)]
unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let z = S::mul(x, x);
        let mut p = S::splat(-5.704_988_7e-3);
        for c in [2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1] {
            p = S::fma(p, z, S::splat(c));
        }
        let near = S::fma(S::mul(p, z), x, x);
        let size = S::abs(x);
        let e = exp::<S>(S::add(size, size));
        let one = S::splat(1.0);
        let far = S::sub(one, S::div(S::splat(2.0), S::add(e, one)));
        let far = S::if_less(x, S::splat(0.0), S::sub(S::splat(0.0), far), far);
        S::if_less(size, S::splat(0.625), near, far)
    }
}

/// `x Φ(x)` by the complementary error function: Φ(x) is `erfc(-x / √2) / 2`,
/// and what is small stays exact in relation to itself. The approximation of
/// erfc has an error of 1.2e-7 of its value (Press et al., *Numerical
/// Recipes*, 1992, section 6.2).
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let one = S::splat(1.0);
        let z = S::mul(S::abs(x), S::splat(FRAC_1_SQRT_2));
        let t = S::div(one, S::fma(z, S::splat(0.5), one));
        let mut p = S::splat(0.170_872_77);
        for c in [
            -0.822_152_23,
            1.488_515_87,
            -1.135_203_98,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_68,
            -1.265_512_23,
        ] {
            p = S::fma(p, t, S::splat(c));
        }
        // -x² / 2, as exactly as it can be.
        let square = S::mul(S::mul(x, x), S::splat(-0.5));
        let tail = S::mul(t, exp::<S>(S::add(square, p)));
        let whole = S::if_less(x, S::splat(0.0), tail, S::sub(S::splat(2.0), tail));
        S::mul(S::mul(x, S::splat(0.5)), whole)
    }
}

/// `f` of `count` numbers in place, in whole registers.
#[inline(always)]
unsafe fn each<S: Simd>(y: *mut f32, count: usize, f: impl Fn(S::V) -> S::V) {
    let mut at = 0;
    // SAFETY: `count` numbers may be read and written.
    unsafe {
        while at + S::LANES <= count {
            S::store(f(S::load(y.wrapping_add(at))), y.wrapping_add(at));
            at += S::LANES;
        }
        if at < count {
            let mut rest = [0.0f32; 16];
            std::ptr::copy_nonoverlapping(y.wrapping_add(at), rest.as_mut_ptr(), count - at);
            S::store(f(S::load(rest.as_ptr())), rest.as_mut_ptr());
            std::ptr::copy_nonoverlapping(rest.as_ptr(), y.wrapping_add(at), count - at);
        }
    }
}

/// `activation` of `count` numbers in place.
///
/// # Safety
///
/// As [`Simd`]; `count` numbers may be read and written.
#[inline(always)]
pub(crate) unsafe fn apply<S: Simd>(activation: Activation, y: *mut f32, count: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match activation {
            Activation::None => {}
            Activation::Relu => {
                let zero = S::splat(0.0);
                each::<S>(y, count, |x| S::if_less(x, zero, zero, x));
            }
            Activation::LeakyRelu { slope } => {
                let (zero, slope) = (S::splat(0.0), S::splat(slope));
                each::<S>(y, count, |x| S::if_less(x, zero, S::mul(x, slope), x));
            }
            Activation::Tanh => each::<S>(y, count, |x| tanh::<S>(x)),
            Activation::Sigmoid => each::<S>(y, count, |x| gated::<S>(S::splat(1.0), x)),
            Activation::Silu => each::<S>(y, count, |x| gated::<S>(x, x)),
            Activation::Gelu => each::<S>(y, count, |x| gelu::<S>(x)),
            Activation::GeluTanh => each::<S>(y, count, |x| {
                // (1 + tanh(u)) / 2 is sigmoid(2 u).
                let cube = S::mul(S::mul(x, x), S::splat(0.044_715));
                let inner = S::fma(cube, x, x);
                gated::<S>(x, S::mul(inner, S::splat(2.0 * 0.797_884_6)))
            }),
        }
    }
}
