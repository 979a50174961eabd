//! Blocks of 256 values whose groups have quantized scales: Q2_K to Q8_K.

use super::{NO_OFFSET, Unpacked, half_at, part};

/// Unpacks a block of Q2_K: 16 bytes of 4-bit scale and minimum, 64 bytes of
/// 2-bit integers, scale of the scales, scale of the minimums.
#[inline(always)]
pub fn unpack_q2_k(block: &[u8; 84], out: &mut Unpacked) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    let scales = part::<16>(block, 0);
    for i in 0..16 {
        out.scale[i] = d * f32::from(scales[i] & 15);
        out.offset[i] = -(dmin * f32::from(scales[i] >> 4));
    }
    two_bits(part(block, 16), &mut out.q);
}

/// Unpacks a block of Q3_K: 32 bytes of high bits, 64 bytes of low bit pairs,
/// 12 bytes of 6-bit scales, scale of the scales. A high bit that is not set
/// subtracts 4.
#[inline(always)]
pub fn unpack_q3_k(block: &[u8; 110], out: &mut Unpacked) {
    let d = half_at(block, 108);
    let packed = part::<12>(block, 96);
    for i in 0..16 {
        let low = (packed[i % 8] >> (4 * (i / 8))) & 15;
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        out.scale[i] = d * f32::from((low | (high << 4)) as i8 - 32);
    }
    out.offset = [NO_OFFSET; 16];
    two_bits(part(block, 32), &mut out.q);
    let high = part::<32>(block, 0);
    for group in 0..8 {
        for i in 0..32 {
            let unset = !(high[i] >> group) & 1;
            out.q[32 * group + i] -= (unset << 2) as i8;
        }
    }
}

/// Unpacks a block of Q4_K: scale of the scales, scale of the minimums, 12
/// bytes of 6-bit scales and minimums per 32 values, 128 bytes of 4-bit
/// integers.
#[inline(always)]
pub fn unpack_q4_k(block: &[u8; 144], out: &mut Unpacked) {
    scales_and_minimums(block, out);
    four_bits(part(block, 16), &mut out.q);
}

/// Unpacks a block of Q5_K: as Q4_K, with 32 bytes of fifth bits before the
/// 4-bit integers.
#[inline(always)]
pub fn unpack_q5_k(block: &[u8; 176], out: &mut Unpacked) {
    scales_and_minimums(block, out);
    four_bits(part(block, 48), &mut out.q);
    let high = part::<32>(block, 16);
    for group in 0..8 {
        for i in 0..32 {
            out.q[32 * group + i] |= (((high[i] >> group) & 1) << 4) as i8;
        }
    }
}

/// Unpacks a block of Q6_K: 128 bytes of low four bits, 64 bytes of high two,
/// 16 signed 8-bit scales, scale of the scales; the integers less 32.
#[inline(always)]
pub fn unpack_q6_k(block: &[u8; 210], out: &mut Unpacked) {
    let d = half_at(block, 208);
    let scales = part::<16>(block, 192);
    for i in 0..16 {
        out.scale[i] = d * f32::from(scales[i] as i8);
    }
    out.offset = [NO_OFFSET; 16];
    let (low, high) = (part::<128>(block, 0), part::<64>(block, 128));
    for quarter in 0..8 {
        // Of each 128 values, the low halves of 64 bytes, then the high ones.
        let (half, part) = (quarter / 4, quarter % 4);
        let (bytes, shift) = (64 * half + 32 * (part % 2), 4 * (part / 2));
        for i in 0..32 {
            let low = (low[bytes + i] >> shift) & 15;
            let high = (high[32 * half + i] >> (2 * part)) & 3;
            out.q[32 * quarter + i] = (low | (high << 4)) as i8 - 32;
        }
    }
}

/// Unpacks a block of Q8_K: 32-bit scale, 256 integers, 16 sums of 16 (not
/// needed here).
#[inline(always)]
pub fn unpack_q8_k(block: &[u8; 292], out: &mut Unpacked) {
    out.scale = [f32::from_le_bytes(*part(block, 0)); 16];
    out.offset = [NO_OFFSET; 16];
    for (q, byte) in out.q.iter_mut().zip(part::<256>(block, 4)) {
        *q = *byte as i8;
    }
}

/// Bit pairs: of each 32 bytes, all first pairs, all second ones, and so on.
#[inline(always)]
pub(super) fn two_bits(bytes: &[u8; 64], q: &mut [i8; 256]) {
    for half in 0..2 {
        for pair in 0..4 {
            for i in 0..32 {
                q[128 * half + 32 * pair + i] = ((bytes[32 * half + i] >> (2 * pair)) & 3) as i8;
            }
        }
    }
}

/// Of each 32 bytes, all low halves, then all high ones.
#[inline(always)]
fn four_bits(bytes: &[u8; 128], q: &mut [i8; 256]) {
    for quarter in 0..4 {
        for i in 0..32 {
            q[64 * quarter + i] = (bytes[32 * quarter + i] & 15) as i8;
        }
        for i in 0..32 {
            q[64 * quarter + 32 + i] = (bytes[32 * quarter + i] >> 4) as i8;
        }
    }
}

/// The head of Q4_K and Q5_K. Of the 12 bytes, the first four hold scales 0 to
/// 3 in six bits, the next four minimums 0 to 3, the last four the low bits of
/// scales and minimums 4 to 7, whose high bits are the top bits of the others.
#[inline(always)]
fn scales_and_minimums(block: &[u8], out: &mut Unpacked) {
    let (d, dmin) = (half_at::<4>(part(block, 0), 0), half_at::<4>(part(block, 0), 2));
    let word = |at| u32::from_le_bytes(*part(block, at));
    let (first, second, third) = (word(4), word(8), word(12));
    // Four 6-bit numbers of the first half, four of the second.
    let joined = |six: u32, low: u32| {
        let upper = (low & 0x0f0f_0f0f) | ((six >> 2) & 0x3030_3030);
        (u64::from(six & 0x3f3f_3f3f) | (u64::from(upper) << 32)).to_le_bytes()
    };
    let (scales, minimums) = (joined(first, third), joined(second, third >> 4));
    for i in 0..16 {
        out.scale[i] = d * f32::from(scales[i / 2]);
    }
    for i in 0..16 {
        out.offset[i] = -(dmin * f32::from(minimums[i / 2]));
    }
}
