//! Activations as 8-bit integers, for packed weights.

use super::ChunkKind;

/// Values of a chunk of activations.
pub(crate) const CHUNK: usize = 256;

/// What makes `1.5 * 2^23 + x` hold `x`, rounded to the nearest integer (ties
/// to even), in its lowest bits; exact for |x| below 2^22.
const ROUND: f32 = 12_582_912.0;

/// Magnitudes below which a block counts as zeros.
const SMALLEST: f32 = 1.0e-36;

/// [`CHUNK`] activations of a row: a value is about `scale * q`. The scale is
/// `max |x| / 127`, `q` is `x / scale`, rounded to the nearest integer, ties to
/// even. A block with a value that is not finite has the scale NaN, one below
/// 1e-36 the scale 0. A row is filled up with zeros.
pub(crate) trait Chunk: Copy + Send + Sync + 'static {
    /// Which one it is.
    const KIND: ChunkKind;
    /// All zeros.
    const ZERO: Self;

    /// Quantizes at most [`CHUNK`] values over all of it.
    ///
    /// A function to inline, compiled for the instruction set of its caller.
    fn quantize(&mut self, x: &[f32]);
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

impl Chunk for Chunk32 {
    const KIND: ChunkKind = ChunkKind::Of32;
    const ZERO: Self =
        Self { q: [0; CHUNK], scales: [0.0; 8], sums: [0; 8], scaled_sums: [0.0; 8] };

    #[inline(always)]
    fn quantize(&mut self, x: &[f32]) {
        let (blocks, rest) = x.as_chunks::<32>();
        let (q, _) = self.q.as_chunks_mut::<32>();
        let mut last = [0.0; 32];
        last[..rest.len()].copy_from_slice(rest);
        let blocks = blocks.iter().chain((!rest.is_empty()).then_some(&last));
        let count = blocks.clone().count();
        for (i, (x, q)) in blocks.zip(q.iter_mut()).enumerate() {
            self.scales[i] = quantize(x, q);
            let mut sum = 0;
            for q in q {
                sum += i32::from(*q);
            }
            self.sums[i] = sum;
            self.scaled_sums[i] = self.scales[i] * sum as f32;
        }
        for i in count..8 {
            q[i] = [0; 32];
            (self.scales[i], self.sums[i], self.scaled_sums[i]) = (0.0, 0, 0.0);
        }
    }
}

impl Chunk for Chunk256 {
    const KIND: ChunkKind = ChunkKind::Of256;
    const ZERO: Self =
        Self { q: [0; CHUNK], sums: [0; 16], sums_of_32: [0; 8], scale: 0.0, padding: [0.0; 3] };

    #[inline(always)]
    fn quantize(&mut self, x: &[f32]) {
        if let Some(x) = x.first_chunk::<CHUNK>() {
            self.scale = quantize(x, &mut self.q);
        } else {
            let mut last = [0.0; CHUNK];
            last[..x.len()].copy_from_slice(x);
            self.scale = quantize(&last, &mut self.q);
        }
        for (sum, q) in self.sums.iter_mut().zip(self.q.as_chunks::<16>().0) {
            *sum = 0;
            for q in q {
                *sum += i16::from(*q);
            }
        }
        for (sum, of_16) in self.sums_of_32.iter_mut().zip(self.sums.as_chunks::<2>().0) {
            *sum = of_16[0] + of_16[1];
        }
    }
}

/// Quantizes values with one scale, which it returns.
#[inline(always)]
fn quantize<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    let mut largest = 0;
    for value in x {
        // As integers, magnitudes are in order, and NaN is the largest.
        largest = u32::max(largest, value.to_bits() & 0x7FFF_FFFF);
    }
    let largest = f32::from_bits(largest);
    if !(largest.is_finite() && largest >= SMALLEST) {
        *q = [0; N];
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    let scale = largest / 127.0;
    for (q, value) in q.iter_mut().zip(x) {
        *q = (value / scale + ROUND).to_bits() as i8;
    }
    scale
}

/// Quantizes a row to the chunks at every `stride`.
///
/// # Safety
///
/// `ceil(x.len() / CHUNK)` chunks, `stride` apart, are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn quantize_row<C: Chunk>(x: &[f32], to: *mut C, stride: usize) {
    for (i, x) in x.chunks(CHUNK).enumerate() {
        (*to.add(i * stride)).quantize(x);
    }
}
