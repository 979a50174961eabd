//! Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Functions write the integers and return scale and offset. Half of a
//! block's values lie in the low four bits of its bytes, half in the high.

use super::{NO_OFFSET, half_at, part};

/// Unpacks a block of Q4_0: scale, 16 bytes of 4-bit integers less 8.
#[inline(always)]
pub fn unpack_q4_0(block: &[u8; 18], q: &mut [i8; 32]) -> (f32, f32) {
    let bytes = part::<16>(block, 2);
    for i in 0..16 {
        q[i] = (bytes[i] & 15) as i8 - 8;
    }
    for i in 0..16 {
        q[i + 16] = (bytes[i] >> 4) as i8 - 8;
    }
    (half_at(block, 0), NO_OFFSET)
}

/// Unpacks a block of Q4_1: scale, minimum, 16 bytes of 4-bit integers.
#[inline(always)]
pub fn unpack_q4_1(block: &[u8; 20], q: &mut [i8; 32]) -> (f32, f32) {
    nibbles(part(block, 4), q);
    (half_at(block, 0), half_at(block, 2))
}

/// Unpacks a block of Q5_0: scale, 32 high bits, 16 bytes of low bits; the
/// integers less 16.
#[inline(always)]
pub fn unpack_q5_0(block: &[u8; 22], q: &mut [i8; 32]) -> (f32, f32) {
    nibbles(part(block, 6), q);
    fifth_bits(part(block, 2), q);
    q.iter_mut().for_each(|q| *q -= 16);
    (half_at(block, 0), NO_OFFSET)
}

/// Unpacks a block of Q5_1: scale, minimum, 32 high bits, 16 bytes of low bits.
#[inline(always)]
pub fn unpack_q5_1(block: &[u8; 24], q: &mut [i8; 32]) -> (f32, f32) {
    nibbles(part(block, 8), q);
    fifth_bits(part(block, 4), q);
    (half_at(block, 0), half_at(block, 2))
}

/// Unpacks a block of Q8_0: scale, 32 integers.
#[inline(always)]
pub fn unpack_q8_0(block: &[u8; 34], q: &mut [i8; 32]) -> (f32, f32) {
    for (q, byte) in q.iter_mut().zip(part::<32>(block, 2)) {
        *q = *byte as i8;
    }
    (half_at(block, 0), NO_OFFSET)
}

/// The low four bits of all bytes, then the high ones.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8; 16], q: &mut [i8; 32]) {
    for i in 0..16 {
        q[i] = (bytes[i] & 15) as i8;
    }
    for i in 0..16 {
        q[i + 16] = (bytes[i] >> 4) as i8;
    }
}

/// Adds 16 where the value's bit is set.
#[inline(always)]
fn fifth_bits(bits: &[u8; 4], q: &mut [i8; 32]) {
    let bits = u32::from_le_bytes(*bits);
    for i in 0..32 {
        q[i] |= (((bits >> i) & 1) << 4) as i8;
    }
}
