//! Blocks of 4-bit floats (sign, two bits of exponent, one of mantissa) with
//! an 8-bit float as scale: MXFP4 and NVFP4.

use super::simple::nibbles;
use super::{NO_OFFSET, part};

/// A 4-bit float, doubled so that it is whole: 0, 1, 2, 3, 4, 6, 8, 12 and
/// the negatives (negative zero is 0). The magnitudes are the largest of three
/// straight lines, which is faster than a table for many at once.
#[inline(always)]
fn doubled(float: u8) -> i8 {
    let m = (float & 7) as i8;
    let magnitude = m.max(2 * m - 4).max(4 * m - 16);
    let mask = -((float >> 3) as i8 & 1);
    (magnitude ^ mask) - mask
}

/// Unpacks a block of MXFP4 (OCP Microscaling Formats, version 1.0): an
/// exponent as scale, 16 bytes of floats. Writes the doubled floats, returns
/// half the scale and no offset.
#[inline(always)]
pub fn unpack_mxfp4(block: &[u8; 17], q: &mut [i8; 32]) -> (f32, f32) {
    nibbles(part(block, 1), q);
    q.iter_mut().for_each(|q| *q = doubled(*q as u8));
    let exponent = u32::from(block[0]);
    // Half of 2^(exponent - 127); the smallest two are subnormal.
    let bits = if exponent < 2 { 0x20_0000 << exponent } else { (exponent - 1) << 23 };
    (f32::from_bits(bits), NO_OFFSET)
}

/// Unpacks a block of NVFP4: four scales of 16 values each, 32 bytes of
/// floats. Writes the doubled floats, returns half the scales.
#[inline(always)]
pub fn unpack_nvfp4(block: &[u8; 36], q: &mut [i8; 64]) -> [f32; 4] {
    let bytes = part::<32>(block, 4);
    let (mut low, mut high) = ([0; 32], [0; 32]);
    for i in 0..32 {
        low[i] = doubled(bytes[i] & 15);
        high[i] = doubled(bytes[i] >> 4);
    }
    let (halves, _) = q.as_chunks_mut::<8>();
    let (low, high) = (low.as_chunks::<8>().0, high.as_chunks::<8>().0);
    for group in 0..4 {
        halves[2 * group] = low[group];
        halves[2 * group + 1] = high[group];
    }
    [block[0], block[1], block[2], block[3]].map(half_of_e4m3)
}

/// Half of an unsigned 8-bit float: four bits of exponent, three of mantissa,
/// bias 7. All bits but the sign's stand for no number, which counts as 0.
#[inline(always)]
fn half_of_e4m3(byte: u8) -> f32 {
    if byte == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (i32::from((byte >> 3) & 15), f32::from(byte & 7));
    if exponent == 0 {
        return mantissa / 1024.0;
    }
    // 2^(exponent - 7), halved, as bits; its exponent is in 120..=134.
    let power = f32::from_bits(((exponent - 8 + 127) as u32) << 23);
    (1.0 + mantissa / 8.0) * power
}
