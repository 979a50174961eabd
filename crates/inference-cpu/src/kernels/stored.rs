//! How keys and values are stored.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::Kernels;
use super::attention::AttentionArgs;
use super::part::{Element, Part};

/// What a row of weights, keys or values consists of: elements, or blocks of
/// values. Values are counted from the first item of a row.
pub(crate) trait Stored: Pod + Send + Sync {
    /// Values in one item.
    const VALUES: usize;

    /// Loads one register of values, widened.
    ///
    /// # Safety
    ///
    /// As [`Part`]: the row has all of the values `at..at + P::WIDTH`, of which
    /// the first is a multiple of the width.
    unsafe fn load_at<P: Part>(row: *const Self, at: usize) -> P;

    /// One value, exactly.
    ///
    /// # Safety
    ///
    /// The row has it.
    unsafe fn value_at(row: *const Self, at: usize) -> f32;

    /// Stores values; `to` has the items of as many.
    fn store(values: &[f32], to: &mut [Self]);

    /// The kernel that attends to them.
    fn attention(table: &Kernels) -> unsafe fn(&AttentionArgs<'_, Self>);
}

impl<T: Element> Stored for T {
    const VALUES: usize = 1;

    #[inline(always)]
    unsafe fn load_at<P: Part>(row: *const Self, at: usize) -> P {
        T::load::<P>(row.add(at))
    }

    #[inline(always)]
    unsafe fn value_at(row: *const Self, at: usize) -> f32 {
        (*row.add(at)).widen()
    }

    fn store(values: &[f32], to: &mut [Self]) {
        for (to, value) in to.iter_mut().zip(values) {
            *to = T::narrow(*value);
        }
    }

    fn attention(table: &Kernels) -> unsafe fn(&AttentionArgs<'_, Self>) {
        T::kernels(table).attention
    }
}

/// 32 values as ggml's Q8_0: each is `scale` times its byte. The product has
/// at most 19 significant bits, so it is exact in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Q8Block {
    pub(crate) scale: f16,
    pub(crate) values: [i8; 32],
}

// SAFETY: all bytes zero are a scale and values of zero.
unsafe impl Zeroable for Q8Block {}

// SAFETY: two bytes of which any is an f16, then 32 that may be anything: no
// padding, 34 bytes in all, which is a multiple of the alignment.
unsafe impl Pod for Q8Block {}

impl Q8Block {
    /// The nearest block: the largest magnitude is 127 steps of the scale,
    /// which is rounded to f16 first. A value that is not finite makes the
    /// scale NaN, and so all values.
    fn nearest(values: &[f32]) -> Self {
        let finite = values.iter().all(|value| value.is_finite());
        let greatest = values.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
        let scale = if finite { f16::from_f32(greatest / 127.0) } else { f16::NAN };
        let step = scale.to_f32();
        let mut block = Self { scale, values: [0; 32] };
        if step > 0.0 {
            for (to, value) in block.values.iter_mut().zip(values) {
                // In range: saturating casts of numbers from -127 to 127.
                *to = (value / step).round().clamp(-127.0, 127.0) as i8;
            }
        }
        block
    }
}

impl Stored for Q8Block {
    const VALUES: usize = 32;

    #[inline(always)]
    unsafe fn load_at<P: Part>(row: *const Self, at: usize) -> P {
        let block = row.add(at / 32);
        let values = (&raw const (*block).values).cast::<i8>().add(at % 32);
        P::load_i8(values).mul(P::splat_f16((*block).scale))
    }

    #[inline(always)]
    unsafe fn value_at(row: *const Self, at: usize) -> f32 {
        let block = &*row.add(at / 32);
        f32::from(block.values[at % 32]) * block.scale.to_f32()
    }

    fn store(values: &[f32], to: &mut [Self]) {
        for (to, values) in to.iter_mut().zip(values.chunks(32)) {
            *to = Self::nearest(values);
        }
    }

    fn attention(table: &Kernels) -> unsafe fn(&AttentionArgs<'_, Self>) {
        table.q8_attention
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_block_is_within_half_a_step(
            values in prop::collection::vec(-1.0f32..1.0, 32),
            exponent in -30i32..15,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(exponent)).collect();
            let mut block = [Q8Block::zeroed()];
            Q8Block::store(&values, &mut block);
            let greatest = values.iter().fold(0.0f32, |greatest, v| greatest.max(v.abs()));
            // Half a step of the rounded scale; and what subnormal scales,
            // which are 2^-24 apart, miss of 127 steps.
            let bound = greatest / 127.0 * 0.5005 + 127.0 * 2f32.powi(-25);
            for (i, value) in values.iter().enumerate() {
                // SAFETY: the block has 32 values.
                let found = unsafe { Q8Block::value_at(block.as_ptr(), i) };
                prop_assert!((found - value).abs() <= bound, "{value} became {found}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9] {
            let mut values = [1.0; 32];
            values[7] = bad;
            let mut block = [Q8Block::zeroed()];
            Q8Block::store(&values, &mut block);
            // SAFETY: the block has 32 values.
            let found = (0..32).map(|i| unsafe { Q8Block::value_at(block.as_ptr(), i) });
            assert!(found.clone().any(|value| !value.is_finite()), "{bad}");
        }
        let mut block = [Q8Block { scale: f16::ONE, values: [3; 32] }];
        Q8Block::store(&[0.0; 32], &mut block);
        assert_eq!(block, [Q8Block::zeroed()]);
    }
}
