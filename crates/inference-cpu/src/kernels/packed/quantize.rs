//! Activations as 8-bit integers, for packed weights.

use bytemuck::{Pod, Zeroable};

use super::{ChunkKind, FEATURES, Lanes};

/// Values of a chunk of activations.
pub(crate) const CHUNK: usize = 256;

/// Magnitudes below which a block counts as zeros.
const SMALLEST: f32 = 1.0e-36;

/// [`CHUNK`] activations of a row: a value is about `scale * q`. The scale is
/// `max |x| / 127`, `q` is `x / scale`, rounded to the nearest integer, ties to
/// even. A block with a value that is not finite has the scale NaN, one below
/// 1e-36 the scale 0. A row is filled up with zeros.
pub(crate) trait Chunk: Pod + Send + Sync {
    /// Which one it is.
    const KIND: ChunkKind;

    /// Quantizes [`CHUNK`] values over all of it.
    ///
    /// # Safety
    ///
    /// As [`Lanes`].
    unsafe fn quantize<L: Lanes>(&mut self, x: &[f32; CHUNK]);
}

/// Activations with a scale for 32 values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(32))]
pub(crate) struct Chunk32 {
    /// From -127 to 127.
    pub(crate) q: [i8; CHUNK],
    /// Of each block.
    pub(crate) scales: [f32; CHUNK / 32],
    /// Of each block's `q`.
    pub(crate) sums: [i32; CHUNK / 32],
    /// Scale times sum.
    pub(crate) scaled_sums: [f32; CHUNK / 32],
}

/// Activations with a scale for 256 values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(32))]
pub(crate) struct Chunk256 {
    /// From -127 to 127.
    pub(crate) q: [i8; CHUNK],
    /// Of each 16 consecutive `q`.
    pub(crate) sums: [i16; CHUNK / 16],
    /// Of each 32.
    pub(crate) sums_of_32: [i16; CHUNK / 32],
    /// Of all.
    pub(crate) scale: f32,
    padding: [f32; 3],
}

// SAFETY: numbers alone, and no gaps between them (checked here): any bytes.
unsafe impl Zeroable for Chunk32 {}
// SAFETY: as above.
unsafe impl Pod for Chunk32 {}
const _: () = assert!(size_of::<Chunk32>() == CHUNK + 3 * 4 * (CHUNK / 32));

// SAFETY: as above.
unsafe impl Zeroable for Chunk256 {}
// SAFETY: as above.
unsafe impl Pod for Chunk256 {}
const _: () = assert!(size_of::<Chunk256>() == CHUNK + 2 * (CHUNK / 16 + CHUNK / 32) + 4 * 4);

impl Chunk for Chunk32 {
    const KIND: ChunkKind = ChunkKind::Of32;

    #[inline(always)]
    unsafe fn quantize<L: Lanes>(&mut self, x: &[f32; CHUNK]) {
        let mut groups = [0; 2];
        for i in 0..CHUNK / 32 {
            let (x, q) = (x.as_ptr().add(32 * i), self.q.as_mut_ptr().add(32 * i));
            self.scales[i] = quantize::<L, 2>(x, q, &mut groups);
            self.sums[i] = groups[0] + groups[1];
            self.scaled_sums[i] = self.scales[i] * self.sums[i] as f32;
        }
    }
}

impl Chunk for Chunk256 {
    const KIND: ChunkKind = ChunkKind::Of256;

    #[inline(always)]
    unsafe fn quantize<L: Lanes>(&mut self, x: &[f32; CHUNK]) {
        let mut groups = [0; 16];
        self.scale = quantize::<L, 16>(x.as_ptr(), self.q.as_mut_ptr(), &mut groups);
        for (to, sum) in self.sums.iter_mut().zip(groups) {
            *to = sum as i16;
        }
        for (sum, of_16) in self.sums_of_32.iter_mut().zip(self.sums.as_chunks::<2>().0) {
            *sum = of_16[0] + of_16[1];
        }
    }
}

/// Quantizes `N` groups of 16 values with one scale, which it returns, and
/// writes their sums.
///
/// # Safety
///
/// As [`Lanes`]; the groups are readable at `x` and writable at `q`.
#[inline(always)]
unsafe fn quantize<L: Lanes, const N: usize>(
    x: *const f32,
    q: *mut i8,
    sums: &mut [i32; N],
) -> f32 {
    let mut greatest = 0;
    for group in 0..N {
        greatest = u32::max(greatest, L::greatest(x.add(FEATURES * group)));
    }
    let greatest = f32::from_bits(greatest);
    if !(greatest.is_finite() && greatest >= SMALLEST) {
        q.write_bytes(0, FEATURES * N);
        *sums = [0; N];
        return if greatest.is_finite() { 0.0 } else { f32::NAN };
    }
    let scale = greatest / 127.0;
    for group in 0..N {
        let at = FEATURES * group;
        sums[group] = L::quantize(x.add(at), scale, q.add(at));
    }
    scale
}

/// Quantizes a row to the chunks at every `stride`.
///
/// # Safety
///
/// As [`Lanes`]; `ceil(x.len() / CHUNK)` chunks, `stride` apart, are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn quantize_row<L: Lanes, C: Chunk>(x: &[f32], to: *mut C, stride: usize) {
    let (whole, rest) = x.as_chunks::<CHUNK>();
    for (i, x) in whole.iter().enumerate() {
        (*to.add(i * stride)).quantize::<L>(x);
    }
    if !rest.is_empty() {
        let mut last = [0.0; CHUNK];
        last[..rest.len()].copy_from_slice(rest);
        (*to.add(whole.len() * stride)).quantize::<L>(&last);
    }
}
