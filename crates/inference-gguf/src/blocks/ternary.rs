//! Blocks of 256 values that are -1, 0 or 1 times a scale: TQ1_0, TQ2_0.

use super::k_quants::two_bits;
use super::{NO_OFFSET, Unpacked, half_at, part};

/// Unpacks a block of TQ1_0: 48 bytes of five base-3 digits, 4 bytes of four,
/// scale. A byte is the digits' number as a fraction of 243, in 256ths:
/// multiplied by 3 its carry is the first digit.
#[inline(always)]
pub fn unpack_tq1_0(block: &[u8; 54], out: &mut Unpacked) {
    out.scale = [half_at(block, 52); 16];
    out.offset = [NO_OFFSET; 16];
    let digit = |byte: u8, power: u8| {
        let shifted = u16::from(byte.wrapping_mul(power));
        ((shifted * 3) >> 8) as i8 - 1
    };
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (n, power) in POWERS.into_iter().enumerate() {
        for i in 0..32 {
            out.q[32 * n + i] = digit(block[i], power);
        }
        for i in 0..16 {
            out.q[160 + 16 * n + i] = digit(block[32 + i], power);
        }
    }
    for (n, power) in POWERS.into_iter().take(4).enumerate() {
        for i in 0..4 {
            out.q[240 + 4 * n + i] = digit(block[48 + i], power);
        }
    }
}

/// Unpacks a block of TQ2_0: 64 bytes of bit pairs, scale; the pairs less 1.
#[inline(always)]
pub fn unpack_tq2_0(block: &[u8; 66], out: &mut Unpacked) {
    out.scale = [half_at(block, 64); 16];
    out.offset = [NO_OFFSET; 16];
    two_bits(part(block, 0), &mut out.q);
    out.q.iter_mut().for_each(|q| *q -= 1);
}
