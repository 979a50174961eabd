//! How keys and values are stored.
//!
//! Values lie row by row: the elements of a head at one position follow each
//! other. Keys lie in tiles of as many positions ("slots"), transposed: element
//! by element, each for all slots, so that scores are computed with a lane per
//! key and nothing is added across lanes.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::part::{Element, LANES, Part};
use super::{Kernels, KvKernels};

/// What values and tiles of keys consist of: elements, or blocks of elements.
pub(crate) trait Stored: Pod + Send + Sync {
    /// Elements in one item.
    const VALUES: usize;

    /// Elements that follow each other with one scale for each slot.
    const SCALED: usize;

    /// Rows from which on a chunk is widened to f32 once instead of for each
    /// register tile.
    const WIDEN_ROWS: usize;

    /// Loads one register of a row of values, widened.
    ///
    /// # Safety
    ///
    /// As [`Part`]: the row has all of the elements `at..at + P::WIDTH`, of
    /// which the first is a multiple of the width.
    unsafe fn load_at<P: Part>(row: *const Self, at: usize) -> P;

    /// One element of a row, exactly.
    ///
    /// # Safety
    ///
    /// The row has it.
    unsafe fn value_at(row: *const Self, at: usize) -> f32;

    /// Stores a row of `len` values.
    ///
    /// # Safety
    ///
    /// As [`Part`]; both rows have `len` elements.
    unsafe fn store_row<P: Part>(values: *const f32, len: usize, to: *mut Self);

    /// The scales of an element's [`SCALED`](Self::SCALED) group, for the slots
    /// from `slot` on; a tile has `width` slots.
    ///
    /// # Safety
    ///
    /// As [`Part`]: the tile has the element and `P::WIDTH` slots from `slot`.
    unsafe fn load_scales<P: Part>(
        tile: *const Self,
        width: usize,
        slot: usize,
        element: usize,
    ) -> P;

    /// One element of the keys from `slot` on, widened; `scales` are those of
    /// its group.
    ///
    /// # Safety
    ///
    /// As [`load_scales`](Self::load_scales).
    unsafe fn load_keys<P: Part>(
        tile: *const Self,
        width: usize,
        slot: usize,
        element: usize,
        scales: P,
    ) -> P;

    /// One element of one key, exactly.
    ///
    /// # Safety
    ///
    /// The tile has it.
    unsafe fn key_at(tile: *const Self, width: usize, slot: usize, element: usize) -> f32;

    /// Stores `count` keys that are `stride` apart in the slots from `slot` on.
    ///
    /// # Safety
    ///
    /// As [`Part`]; the keys and the tile's slots have `head_dim` elements.
    unsafe fn store_keys<P: Part>(
        keys: KeyRows,
        head_dim: usize,
        tile: *mut Self,
        width: usize,
        slot: usize,
    );

    /// Copies one key out of a tile, as a row; both are of whole heads.
    fn read_key(tile: &[Self], width: usize, slot: usize, row: &mut [Self]);

    /// Copies a row into a tile, as one key; both are of whole heads.
    fn write_key(row: &[Self], tile: &mut [Self], width: usize, slot: usize);

    /// The kernels for this storage.
    fn kernels(table: &Kernels) -> &KvKernels<Self>;
}

/// Keys as they were computed: rows of consecutive positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRows {
    pub(crate) first: *const f32,
    /// From one key to the next.
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl<T: Element> Stored for T {
    const VALUES: usize = 1;
    const SCALED: usize = usize::MAX;
    // One instruction, which hides behind multiply-adds.
    const WIDEN_ROWS: usize = usize::MAX;

    #[inline(always)]
    unsafe fn load_at<P: Part>(row: *const Self, at: usize) -> P {
        T::load::<P>(row.add(at))
    }

    #[inline(always)]
    unsafe fn value_at(row: *const Self, at: usize) -> f32 {
        (*row.add(at)).widen()
    }

    #[inline(always)]
    unsafe fn store_row<P: Part>(values: *const f32, len: usize, to: *mut Self) {
        let whole = len / LANES * LANES;
        for at in (0..whole).step_by(P::WIDTH) {
            T::store(P::load(values.add(at)), to.add(at));
        }
        if whole < len {
            let tail = narrow_tail::<P, T>(values.add(whole), len - whole);
            std::ptr::copy_nonoverlapping(tail.as_ptr(), to.add(whole), len - whole);
        }
    }

    #[inline(always)]
    unsafe fn load_scales<P: Part>(_: *const Self, _: usize, _: usize, _: usize) -> P {
        P::splat(1.0)
    }

    #[inline(always)]
    unsafe fn load_keys<P: Part>(
        tile: *const Self,
        width: usize,
        slot: usize,
        element: usize,
        _: P,
    ) -> P {
        T::load::<P>(tile.add(element * width + slot))
    }

    #[inline(always)]
    unsafe fn key_at(tile: *const Self, width: usize, slot: usize, element: usize) -> f32 {
        (*tile.add(element * width + slot)).widen()
    }

    #[inline(always)]
    unsafe fn store_keys<P: Part>(
        keys: KeyRows,
        head_dim: usize,
        tile: *mut Self,
        width: usize,
        slot: usize,
    ) {
        let KeyRows { first, stride, count } = keys;
        if count == LANES {
            for element in 0..head_dim {
                let mut column = [0.0f32; LANES];
                for key in 0..LANES {
                    column[key] = *first.add(key * stride + element);
                }
                for at in (0..LANES).step_by(P::WIDTH) {
                    let keys = P::load(column.as_ptr().add(at));
                    T::store(keys, tile.add(element * width + slot + at));
                }
            }
            return;
        }
        for key in 0..count {
            for from in (0..head_dim).step_by(LANES) {
                let len = LANES.min(head_dim - from);
                let narrow = narrow_tail::<P, T>(first.add(key * stride + from), len);
                for i in 0..len {
                    *tile.add((from + i) * width + slot + key) = narrow[i];
                }
            }
        }
    }

    fn read_key(tile: &[Self], width: usize, slot: usize, row: &mut [Self]) {
        for (to, column) in row.iter_mut().zip(tile.chunks_exact(width)) {
            *to = column[slot];
        }
    }

    fn write_key(row: &[Self], tile: &mut [Self], width: usize, slot: usize) {
        for (from, column) in row.iter().zip(tile.chunks_exact_mut(width)) {
            column[slot] = *from;
        }
    }

    fn kernels(table: &Kernels) -> &KvKernels<Self> {
        &T::kernels(table).kv
    }
}

/// Up to [`LANES`] values, narrowed; zeros follow.
///
/// # Safety
///
/// As [`Part`]; `len` values can be read.
#[inline(always)]
unsafe fn narrow_tail<P: Part, T: Element>(values: *const f32, len: usize) -> [T; LANES] {
    let mut wide = [0.0f32; LANES];
    std::ptr::copy_nonoverlapping(values, wide.as_mut_ptr(), len);
    let mut narrow = [T::zeroed(); LANES];
    for at in (0..LANES).step_by(P::WIDTH) {
        T::store(P::load(wide.as_ptr().add(at)), narrow.as_mut_ptr().add(at));
    }
    narrow
}

/// 32 values as ggml's Q8_0: each is `scale` times its byte. The product has
/// at most 19 significant bits, so it is exact in f32.
///
/// In a tile of keys as many bytes hold 32 elements of every slot: the scales
/// of all slots, then each element's bytes.
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
    #[inline(always)]
    fn nearest(values: &[f32; 32]) -> Self {
        let mut finite = true;
        let mut greatest = 0.0f32;
        for value in values {
            finite &= value.is_finite();
            greatest = greatest.max(value.abs());
        }
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

    /// The block of 32 values at `values`.
    ///
    /// # Safety
    ///
    /// They can be read.
    #[inline(always)]
    unsafe fn of(values: *const f32) -> Self {
        Self::nearest(&values.cast::<[f32; 32]>().read_unaligned())
    }

    /// Where in a tile the bytes of an element's group begin, and the element's
    /// own row of bytes after the scales.
    #[inline(always)]
    unsafe fn in_tile(tile: *const Self, width: usize, element: usize) -> (*const u8, usize) {
        let group = tile.add(element / 32 * width).cast::<u8>();
        (group, (2 + element % 32) * width)
    }
}

impl Stored for Q8Block {
    const VALUES: usize = 32;
    const SCALED: usize = 32;
    const WIDEN_ROWS: usize = 24;

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

    #[inline(always)]
    unsafe fn store_row<P: Part>(values: *const f32, len: usize, to: *mut Self) {
        for group in 0..len / 32 {
            *to.add(group) = Self::of(values.add(group * 32));
        }
    }

    #[inline(always)]
    unsafe fn load_scales<P: Part>(
        tile: *const Self,
        width: usize,
        slot: usize,
        element: usize,
    ) -> P {
        let (group, _) = Self::in_tile(tile, width, element);
        P::load_f16(group.cast::<f16>().add(slot))
    }

    #[inline(always)]
    unsafe fn load_keys<P: Part>(
        tile: *const Self,
        width: usize,
        slot: usize,
        element: usize,
        scales: P,
    ) -> P {
        let (group, row) = Self::in_tile(tile, width, element);
        P::load_i8(group.add(row + slot).cast()).mul(scales)
    }

    #[inline(always)]
    unsafe fn key_at(tile: *const Self, width: usize, slot: usize, element: usize) -> f32 {
        let (group, row) = Self::in_tile(tile, width, element);
        let scale = *group.cast::<f16>().add(slot);
        f32::from(*group.add(row + slot).cast::<i8>()) * scale.to_f32()
    }

    #[inline(always)]
    unsafe fn store_keys<P: Part>(
        keys: KeyRows,
        head_dim: usize,
        tile: *mut Self,
        width: usize,
        slot: usize,
    ) {
        for key in 0..keys.count {
            for element in (0..head_dim).step_by(32) {
                let block = Self::of(keys.first.add(key * keys.stride + element));
                let (group, row) = Self::in_tile(tile, width, element);
                let group = group.cast_mut();
                *group.cast::<f16>().add(slot + key) = block.scale;
                for (i, value) in block.values.into_iter().enumerate() {
                    *group.add(row + i * width + slot + key) = value.cast_unsigned();
                }
            }
        }
    }

    fn read_key(tile: &[Self], width: usize, slot: usize, row: &mut [Self]) {
        for (to, group) in row.iter_mut().zip(tile.chunks_exact(width)) {
            let (scales, rows) = bytemuck::cast_slice::<_, u8>(group).split_at(2 * width);
            to.scale = f16::from_le_bytes([scales[2 * slot], scales[2 * slot + 1]]);
            for (to, row) in to.values.iter_mut().zip(rows.chunks_exact(width)) {
                *to = row[slot].cast_signed();
            }
        }
    }

    fn write_key(row: &[Self], tile: &mut [Self], width: usize, slot: usize) {
        for (from, group) in row.iter().zip(tile.chunks_exact_mut(width)) {
            let group = bytemuck::cast_slice_mut::<_, u8>(group);
            let (scales, rows) = group.split_at_mut(2 * width);
            scales[2 * slot..][..2].copy_from_slice(&from.scale.to_le_bytes());
            for (from, row) in from.values.iter().zip(rows.chunks_exact_mut(width)) {
                row[slot] = from.cast_unsigned();
            }
        }
    }

    fn kernels(table: &Kernels) -> &KvKernels<Self> {
        &table.q8
    }
}

/// What is to be stored where: consecutive positions of one key/value head in
/// one block.
#[derive(Debug)]
pub(crate) struct StoreArgs<T> {
    /// `[count, head_dim]`, rows `stride` apart; so are values.
    pub(crate) keys: KeyRows,
    pub(crate) values: *const f32,
    pub(crate) value_stride: usize,
    pub(crate) head_dim: usize,
    /// The head's keys in the block, tiles of `width` slots.
    pub(crate) to_keys: *mut T,
    pub(crate) width: usize,
    /// The head's values in the block, `[slots, head_dim]`.
    pub(crate) to_values: *mut T,
    /// The first position's slot in the block.
    pub(crate) slot: usize,
}

/// Stores keys and values, narrowed.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and nothing else reads or writes what is stored meanwhile.
#[inline(always)]
pub(super) unsafe fn store<P: Part, T: Stored>(args: &StoreArgs<T>) {
    let &StoreArgs { keys, head_dim, width, slot, .. } = args;
    let items = head_dim / T::VALUES;
    for i in 0..keys.count {
        let to = args.to_values.add((slot + i) * items);
        T::store_row::<P>(args.values.add(i * args.value_stride), head_dim, to);
    }
    let mut done = 0;
    while done < keys.count {
        let at = slot + done;
        let count = (width - at % width).min(keys.count - done).min(LANES);
        let first = keys.first.add(done * keys.stride);
        let tile = args.to_keys.add(at / width * width * items);
        let keys = KeyRows { first, stride: keys.stride, count };
        T::store_keys::<P>(keys, head_dim, tile, width, at % width);
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scalar::Scalar;
    use super::*;

    fn block_of(values: &[f32; 32]) -> Q8Block {
        let mut block = Q8Block::zeroed();
        // SAFETY: portable, and both have 32 values.
        unsafe { Q8Block::store_row::<Scalar>(values.as_ptr(), 32, &raw mut block) };
        block
    }

    proptest! {
        #[test]
        fn a_block_is_within_half_a_step(
            values in prop::array::uniform32(-1.0f32..1.0),
            exponent in -30i32..15,
        ) {
            let values = values.map(|v| v * 2f32.powi(exponent));
            let block = block_of(&values);
            let greatest = values.iter().fold(0.0f32, |greatest, v| greatest.max(v.abs()));
            // Half a step of the rounded scale; and what subnormal scales,
            // which are 2^-24 apart, miss of 127 steps.
            let bound = greatest / 127.0 * 0.5005 + 127.0 * 2f32.powi(-25);
            for (i, value) in values.iter().enumerate() {
                // SAFETY: the block has 32 values.
                let found = unsafe { Q8Block::value_at(&raw const block, i) };
                prop_assert!((found - value).abs() <= bound, "{value} became {found}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9] {
            let mut values = [1.0; 32];
            values[7] = bad;
            let block = block_of(&values);
            // SAFETY: the block has 32 values.
            let found = (0..32).map(|i| unsafe { Q8Block::value_at(&raw const block, i) });
            assert!(found.clone().any(|value| !value.is_finite()), "{bad}");
        }
        assert_eq!(block_of(&[0.0; 32]), Q8Block::zeroed());
    }

    #[test]
    fn a_key_goes_into_a_tile_and_out_again() {
        for width in [1, 3, 16] {
            let numbers = |seed: usize| -> [f32; 64] {
                std::array::from_fn(|i| ((i * 31 + seed * 17) % 101) as f32 - 50.0)
            };
            let mut tile = vec![Q8Block::zeroed(); 2 * width];
            for slot in 0..width {
                let values = numbers(slot);
                let keys = KeyRows { first: values.as_ptr(), stride: 64, count: 1 };
                // SAFETY: portable; a key and the tile have 64 elements.
                unsafe {
                    Q8Block::store_keys::<Scalar>(keys, 64, tile.as_mut_ptr(), width, slot);
                }
            }
            for slot in 0..width {
                let values = numbers(slot);
                let mut row = [Q8Block::zeroed(); 2];
                Q8Block::read_key(&tile, width, slot, &mut row);
                for (block, values) in row.iter().zip(values.chunks_exact(32)) {
                    assert_eq!(*block, block_of(values.try_into().unwrap()));
                }
                for i in 0..64 {
                    // SAFETY: the tile and the row have 64 elements.
                    let (a, b) = unsafe {
                        let a = Q8Block::key_at(tile.as_ptr(), width, slot, i);
                        (a, Q8Block::value_at(row.as_ptr(), i))
                    };
                    assert_eq!(a, b);
                }
                let mut other = tile.clone();
                Q8Block::write_key(&[Q8Block::zeroed(); 2], &mut other, width, slot);
                assert_ne!(other, tile);
                Q8Block::write_key(&row, &mut other, width, slot);
                assert_eq!(other, tile);
            }
        }
    }
}
