//! Activations as 8-bit integers.

use super::part::{GROUP, LANES};

/// Consecutive activations that share a scale.
pub(super) const SCALED: usize = 32;

/// What makes `1.5 * 2^23 + x` hold `x`, rounded to the nearest integer (ties
/// to even), in its lowest bits; exact for |x| below 2^22.
const ROUND: f32 = 12_582_912.0;

/// Magnitudes below which a group counts as zeros: the reciprocal of a smaller
/// scale would overflow.
const SMALLEST: f32 = 1.0e-36;

/// One row of activations in the form that kernels for blocks of weights take:
/// a value is about `scale * q`.
///
/// A row is filled up with zeros to [`padded`] values.
#[derive(Debug)]
pub(crate) struct QuantizedRow<'a> {
    /// From -127 to 127.
    pub(crate) q: &'a mut [i8],
    /// The scale of each [`GROUP`]; two neighbours have the same.
    pub(crate) scales: &'a mut [f32],
    /// `scale` times the sum of a group's `q`.
    pub(crate) sums: &'a mut [f32],
}

/// `k` values filled up to whole spans of [`LANES`] groups.
pub(crate) fn padded(k: usize) -> usize {
    k.next_multiple_of(LANES * GROUP)
}

/// Quantizes a row of whole runs of [`SCALED`] values: the scale of a run is
/// `max |x| / 127`, values are rounded to the nearest integer, ties to even.
/// The scale of a run with a value that is not finite is NaN.
#[inline(always)]
pub(super) fn quantize(x: &[f32], row: &mut QuantizedRow<'_>) {
    let (runs, _) = x.as_chunks::<SCALED>();
    let (q_runs, _) = row.q.as_chunks_mut::<SCALED>();
    let (scales, _) = row.scales.as_chunks_mut::<{ SCALED / GROUP }>();
    let (sums, _) = row.sums.as_chunks_mut::<{ SCALED / GROUP }>();
    let scales = scales.iter_mut().zip(sums);
    for ((run, q), (scales, sums)) in runs.iter().zip(q_runs).zip(scales) {
        let mut largest = 0;
        for value in run {
            // As integers, magnitudes are in order, and NaN is the largest.
            largest = u32::max(largest, value.to_bits() & 0x7FFF_FFFF);
        }
        let largest = f32::from_bits(largest);
        let usable = largest.is_finite() && largest >= SMALLEST;
        if usable {
            let inverse = 127.0 / largest;
            for (q, value) in q.iter_mut().zip(run) {
                *q = (value * inverse + ROUND).to_bits() as i8;
            }
        } else {
            q.fill(0);
        }
        let scale = match usable {
            true => largest / 127.0,
            false if largest.is_finite() => 0.0,
            false => f32::NAN,
        };
        *scales = [scale; SCALED / GROUP];
        let (groups, _) = q.as_chunks::<GROUP>();
        for (sum, group) in sums.iter_mut().zip(groups) {
            let mut total = 0i32;
            for q in group {
                total = total.wrapping_add(i32::from(*q));
            }
            *sum = scale * total as f32;
        }
    }
}
