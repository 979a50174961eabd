//! Bytes at an address that suits their elements.

use std::ops::Range;
use std::sync::Arc;

use crate::WeightBytes;

/// The bytes, copied where their address is no multiple of `align`, which is
/// at most 8.
pub(crate) fn aligned(
    bytes: &WeightBytes,
    range: Range<usize>,
    align: usize,
) -> (WeightBytes, Range<usize>) {
    let slice = (**bytes).as_ref().get(range.clone()).unwrap_or_default();
    if slice.as_ptr().align_offset(align) == 0 {
        return (Arc::clone(bytes), range);
    }
    let mut copy = AlignedBytes::zeroed(slice.len());
    copy.as_mut().copy_from_slice(slice);
    (Arc::new(copy), 0..slice.len())
}

/// Bytes at an address that is a multiple of 8.
pub(crate) struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(8)], len }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words).get(..self.len).unwrap_or_default()
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words).get_mut(..self.len).unwrap_or_default()
    }
}
