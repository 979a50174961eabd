//! Blocks whose values are ternary vectors of eight from a codebook, moved up
//! or down by an eighth: IQ1_S and IQ1_M.
//!
//! The integers are eighths, so that they are whole, and the scale an eighth:
//! a division by a power of two, which rounds nothing.

use super::codebooks::{IQ1, values};
use super::{NO_OFFSET, Unpacked, f16_value, half_at, part};

/// Unpacks a block of IQ1_S: scale of the scales, 32 low bytes of 11-bit
/// indices, then per 32 values four triples of high bits, a 3-bit scale and
/// the direction of the move.
#[inline(always)]
pub fn unpack_iq1_s(block: &[u8; 50], out: &mut Unpacked) {
    let d = half_at(block, 0);
    let low = part::<32>(block, 2);
    let (q, _) = out.q.as_chunks_mut::<8>();
    for group in 0..8 {
        let high = u16::from_le_bytes(*part(block, 34 + 2 * group));
        let scale = d * f32::from(2 * ((high >> 12) & 7) + 1) / 8.0;
        (out.scale[2 * group], out.scale[2 * group + 1]) = (scale, scale);
        for i in 0..4 {
            let at = 4 * group + i;
            let index = usize::from(low[at]) | (usize::from((high >> (3 * i)) & 7) << 8);
            q[at] = moved(IQ1[index], high & 0x8000 != 0);
        }
    }
    out.offset = [NO_OFFSET; 16];
}

/// Unpacks a block of IQ1_M: 32 low bytes of 11-bit indices, 32 nibbles of
/// three high bits and the direction of the move, four 16-bit words of four
/// 3-bit scales each, whose top nibbles are the scale of the scales.
#[inline(always)]
pub fn unpack_iq1_m(block: &[u8; 56], out: &mut Unpacked) {
    let (low, high) = (part::<32>(block, 0), part::<16>(block, 32));
    let words = [48, 50, 52, 54].map(|at| u16::from_le_bytes(*part(block, at)));
    let d = (words[0] >> 12) | ((words[1] >> 8) & 0xf0) | ((words[2] >> 4) & 0xf00);
    let d = f16_value(d | (words[3] & 0xf000));
    for i in 0..16 {
        let quantized = (words[i / 4] >> (3 * (i % 4))) & 7;
        out.scale[i] = d * f32::from(2 * quantized + 1) / 8.0;
    }
    out.offset = [NO_OFFSET; 16];
    let (q, _) = out.q.as_chunks_mut::<8>();
    for i in 0..32 {
        let high = high[i / 2] >> (4 * (i % 2));
        let index = usize::from(low[i]) | (usize::from(high & 7) << 8);
        q[i] = moved(IQ1[index], high & 8 != 0);
    }
}

#[inline(always)]
fn moved(vector: u64, down: bool) -> [i8; 8] {
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let eighth = if down { u64::MAX } else { 0x0101_0101_0101_0101 };
    // Byte by byte: the top bits are added without their carries.
    values(((vector & !TOPS) + (eighth & !TOPS)) ^ ((vector ^ eighth) & TOPS))
}
