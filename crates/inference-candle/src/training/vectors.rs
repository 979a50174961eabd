//! Sums and functions over slices, in loops that the compiler turns into
//! vectors.

/// Lanes of a sum.
const LANES: usize = 8;

/// `Σ f(a, b)`, in an order that depends on the length alone.
fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| f(*a, *b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `a · b`.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| a * b)
}

/// `Σ a`.
pub(super) fn total(a: &[f32]) -> f32 {
    sum(a, a, |a, _| a)
}

/// The greatest; minus infinity of none.
pub(super) fn greatest(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |all, value| greater(all, *value))
}

/// `e^x` within 3e-7 of the exact value, relatively, for `x` between -87 and 88;
/// beyond, that of the nearest of them. Cephes' `expf`: `e^x = 2^n · e^r` with
/// `|r| <= ln(2)/2` and a polynomial of degree 6 for `e^r`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Added, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln(2) in two parts; the first has few enough bits for exact products.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut y = 1.987_569_1e-4;
    y = y * r + 1.398_199_9e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 0.5;
    y = y * (r * r) + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    y * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_library() {
        for i in -870..880 {
            let x = i as f32 / 10.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "{x}: {}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((exp(-1e9), exp(1e9)), (exp(-87.0), exp(88.0)));
    }

    #[test]
    fn sums_are_those_one_by_one() {
        for len in [0, 1, 7, 8, 9, 40, 101] {
            let values: Vec<f32> = (0..len).map(|i| (i * 37 % 23) as f32 - 11.0).collect();
            assert_eq!(total(&values), values.iter().sum::<f32>());
            assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>());
            let wanted = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(greatest(&values), wanted);
        }
    }
}
