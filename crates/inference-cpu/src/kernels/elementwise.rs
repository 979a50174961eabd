//! Norms, activations and the functions they are made of.

use candle_core::cpu::erf::erf_f32;
use inference_candle::Activation;

use super::part::{LANES, Part, sum_parts};

/// `e^x`, at most 2 units in the last place from the exact value; 0 below
/// -87.33 (where the result would be subnormal) and `e^88.37` above 88.37.
///
/// Cephes' `expf`: `e^x = 2^n * e^r` with `|r| <= ln(2)/2` and a polynomial of
/// degree 6 for `e^r`.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn exp<P: Part>(x: P) -> P {
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.37;
    // ln(2) in two parts; the first has few enough bits for exact products.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Constants come first: a NaN goes through.
    let clamped = P::splat(LOWEST).greater_of(P::splat(HIGHEST).less_of(x));
    let n = clamped.mul(P::splat(std::f32::consts::LOG2_E)).round();
    let r = n.fma(P::splat(-LN2_LOW), n.fma(P::splat(-LN2_HIGH), clamped));
    let mut y = P::splat(1.987_569_1e-4);
    y = y.fma(r, P::splat(1.398_199_9e-3));
    y = y.fma(r, P::splat(8.333_452e-3));
    y = y.fma(r, P::splat(4.166_579_6e-2));
    y = y.fma(r, P::splat(1.666_666_5e-1));
    y = y.fma(r, P::splat(0.5));
    y = y.fma(r.mul(r), r).add(P::splat(1.0));
    let result = y.mul(n.exp2_integer());
    P::select_less(x, P::splat(LOWEST), P::splat(0.0), result)
}

/// `2^x` for `x` up to 0, within 1.5e-7 of the exact value, relatively; 0
/// below -126, 1 at 0.
///
/// `2^x = 2^n * 2^f` with `|f| <= 1/2` and a minimax polynomial of degree 6 for
/// `2^f` (Remez, relative error 2.6e-9 before rounding).
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn exp2<P: Part>(x: P) -> P {
    const LOWEST: f32 = -126.0;
    // The constant comes first: a NaN goes through.
    let clamped = P::splat(LOWEST).greater_of(x);
    let n = clamped.round();
    let f = clamped.sub(n);
    let mut y = P::splat(1.559_467_5e-4);
    y = y.fma(f, P::splat(1.340_664_3e-3));
    y = y.fma(f, P::splat(9.617_693e-3));
    y = y.fma(f, P::splat(5.550_310_4e-2));
    y = y.fma(f, P::splat(2.402_265_2e-1));
    y = y.fma(f, P::splat(6.931_472_4e-1));
    y = y.fma(f, P::splat(1.0));
    P::select_less(x, P::splat(LOWEST), P::splat(0.0), y.mul(n.exp2_integer()))
}

/// `tanh(x)`, within 3e-7.
///
/// Cephes' `tanhf`: an odd polynomial near 0, elsewhere by way of [`exp`].
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn tanh<P: Part>(x: P) -> P {
    let zero = P::splat(0.0);
    let one = P::splat(1.0);
    let magnitude = P::select_less(x, zero, zero.sub(x), x);
    let square = x.mul(x);
    let mut small = P::splat(-5.704_988_7e-3);
    small = small.fma(square, P::splat(2.063_909e-2));
    small = small.fma(square, P::splat(-5.373_971_5e-2));
    small = small.fma(square, P::splat(1.333_144_2e-1));
    small = small.fma(square, P::splat(-3.333_328e-1));
    small = small.mul(square).fma(x, x);
    let doubled = exp(magnitude.add(magnitude));
    let large = one.sub(P::splat(2.0).div(doubled.add(one)));
    let large = P::select_less(x, zero, zero.sub(large), large);
    P::select_less(magnitude, P::splat(0.625), small, large)
}

/// `x * sigmoid(y)`.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
unsafe fn times_sigmoid<P: Part>(x: P, y: P) -> P {
    x.div(P::splat(1.0).add(exp(P::splat(0.0).sub(y))))
}

/// One activation.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
unsafe fn activate<P: Part, const KIND: u8>(x: P) -> P {
    match KIND {
        SILU => times_sigmoid(x, x),
        GELU_TANH => {
            // (1 + tanh(u)) / 2 = sigmoid(2u), which cancels nothing.
            let cubic = x.mul(x).mul(P::splat(0.044_715)).fma(x, x);
            // 2 * sqrt(2 / pi)
            times_sigmoid(x, cubic.mul(P::splat(1.595_769)))
        }
        _ => P::splat(0.0).greater_of(x),
    }
}

const SILU: u8 = 0;
const GELU_TANH: u8 = 1;
const RELU: u8 = 2;

/// `gate = activation(gate) * up`, elementwise; the slices are equally long.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn gated<P: Part>(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => gated_kind::<P, SILU>(gate, up),
        Activation::GeluTanh => gated_kind::<P, GELU_TANH>(gate, up),
        Activation::Relu => gated_kind::<P, RELU>(gate, up),
        _ => {
            // GELU proper is rare: no vector version of the error function.
            for (gate, up) in gate.iter_mut().zip(up) {
                let cdf = 0.5 * (1.0 + erf_f32(*gate * std::f32::consts::FRAC_1_SQRT_2));
                *gate = *gate * cdf * up;
            }
        }
    }
}

/// # Safety
///
/// As [`Part`].
#[inline(always)]
unsafe fn gated_kind<P: Part, const KIND: u8>(gate: &mut [f32], up: &[f32]) {
    let len = gate.len().min(up.len());
    let whole = len / P::WIDTH * P::WIDTH;
    for at in (0..whole).step_by(P::WIDTH) {
        let place = gate.as_mut_ptr().add(at);
        let value = activate::<P, KIND>(P::load(place));
        value.mul(P::load(up.as_ptr().add(at))).store(place);
    }
    if whole < len {
        let mut tail = [[0.0f32; LANES]; 2];
        tail[0][..len - whole].copy_from_slice(&gate[whole..len]);
        tail[1][..len - whole].copy_from_slice(&up[whole..len]);
        let value = activate::<P, KIND>(P::load(tail[0].as_ptr()));
        let mut result = [0.0f32; LANES];
        value.mul(P::load(tail[1].as_ptr())).store(result.as_mut_ptr());
        gate[whole..len].copy_from_slice(&result[..len - whole]);
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` of one row; the slices are equally long.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
pub(super) unsafe fn rms_norm<P: Part, const PARTS: usize>(
    x: &[f32],
    weight: &[f32],
    out: &mut [f32],
    eps: f32,
) {
    let len = out.len().min(x.len()).min(weight.len());
    let whole = len / LANES * LANES;
    let mut sums = [P::splat(0.0); PARTS];
    for at in (0..whole).step_by(LANES) {
        for part in 0..PARTS {
            let value = P::load(x.as_ptr().add(at + part * P::WIDTH));
            sums[part] = value.fma(value, sums[part]);
        }
    }
    if whole < len {
        let mut tail = [0.0f32; LANES];
        tail[..len - whole].copy_from_slice(&x[whole..len]);
        for part in 0..PARTS {
            let value = P::load(tail.as_ptr().add(part * P::WIDTH));
            sums[part] = value.fma(value, sums[part]);
        }
    }
    let mean = sum_parts::<P, PARTS>(sums) / len as f32;
    let inverse = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out[..len].iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::super::scalar::Scalar;
    use super::*;

    /// `f` of one number, by the portable kernels.
    fn apply(f: unsafe fn(Scalar) -> Scalar, x: f32) -> f32 {
        let mut out = [0.0; LANES];
        // SAFETY: the portable kernels run everywhere; `out` has all lanes.
        unsafe { f(Scalar::splat(x)).store(out.as_mut_ptr()) };
        out[LANES - 1]
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for step in 0..175_000 {
            let x = -87.3 + step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let unit = f64::from(f32::EPSILON) * exact.log2().floor().exp2();
            worst = worst.max((f64::from(apply(exp, x)) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
    }

    #[test]
    fn exp2_is_near_and_exact_at_integers() {
        let mut worst = 0.0f64;
        for step in 0..126_000 {
            let x = -125.9 + step as f32 * 1e-3;
            let exact = f64::from(x.min(0.0)).exp2();
            worst = worst.max((f64::from(apply(exp2, x.min(0.0))) / exact - 1.0).abs());
        }
        assert!(worst <= 1.5e-7, "{worst}");
        for n in 0..=126 {
            assert_eq!(apply(exp2, -n as f32), (-n as f32).exp2());
        }
        assert_eq!(apply(exp2, -126.5), 0.0);
        assert_eq!(apply(exp2, f32::NEG_INFINITY), 0.0);
        assert!(apply(exp2, f32::NAN).is_nan());
    }

    #[test]
    fn exp_saturates_and_keeps_nan() {
        assert_eq!(apply(exp, -100.0), 0.0);
        assert_eq!(apply(exp, f32::NEG_INFINITY), 0.0);
        assert!(apply(exp, f32::INFINITY) > 2e38 && apply(exp, f32::INFINITY).is_finite());
        assert!(apply(exp, f32::NAN).is_nan());
        assert_eq!(apply(exp, 0.0), 1.0);
    }

    #[test]
    fn tanh_is_within_its_bound() {
        for step in 0..40_000 {
            let x = -20.0 + step as f32 * 1e-3;
            let error = (f64::from(apply(tanh, x)) - f64::from(x).tanh()).abs();
            assert!(error < 3e-7, "tanh({x}): {error}");
        }
        assert!(apply(tanh, f32::NAN).is_nan());
    }
}
