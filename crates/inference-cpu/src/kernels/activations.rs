//! Activations as 8-bit integers.

use super::part::{GROUP, LANES};

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
    /// The scale of each [`GROUP`].
    pub(crate) scales: &'a mut [f32],
}

/// `k` values filled up to whole spans of [`LANES`] groups.
pub(crate) fn padded(k: usize) -> usize {
    k.next_multiple_of(LANES * GROUP)
}

/// Quantizes a row of whole groups: the scale of a group is `max |x| / 127`,
/// values are rounded to the nearest integer, ties to even. The scale of a
/// group with a value that is not finite is NaN.
#[inline(always)]
pub(super) fn quantize(x: &[f32], row: &mut QuantizedRow<'_>) {
    let (groups, _) = x.as_chunks::<GROUP>();
    let (q_groups, _) = row.q.as_chunks_mut::<GROUP>();
    for ((group, q), scale) in groups.iter().zip(q_groups).zip(row.scales.iter_mut()) {
        let mut largest = 0;
        for value in group {
            // As integers, magnitudes are in order, and NaN is the largest.
            largest = u32::max(largest, value.to_bits() & 0x7FFF_FFFF);
        }
        let largest = f32::from_bits(largest);
        let usable = largest.is_finite() && largest >= SMALLEST;
        if usable {
            let inverse = 127.0 / largest;
            for (q, value) in q.iter_mut().zip(group) {
                *q = (value * inverse + ROUND).to_bits() as i8;
            }
        } else {
            q.fill(0);
        }
        *scale = match usable {
            true => largest / 127.0,
            false if largest.is_finite() => 0.0,
            false => f32::NAN,
        };
    }
}
