//! Blocks whose values are signed vectors of four from a codebook: IQ3_XXS
//! and IQ3_S.

use super::codebooks::{IQ3_S, IQ3_XXS, with_signs};
use super::iq2::even;
use super::{NO_OFFSET, Unpacked, half_at, part};

/// Unpacks a block of IQ3_XXS: scale of the scales, 64 indices, then per 32
/// values four 7-bit signs and a 4-bit scale.
#[inline(always)]
pub fn unpack_iq3_xxs(block: &[u8; 98], out: &mut Unpacked) {
    let d = half_at(block, 0);
    let indices = part::<64>(block, 2);
    let (q, _) = out.q.as_chunks_mut::<8>();
    for group in 0..8 {
        let rest = u32::from_le_bytes(*part(block, 66 + 4 * group));
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        (out.scale[2 * group], out.scale[2 * group + 1]) = (scale, scale);
        for i in 0..4 {
            let at = 4 * group + i;
            let first = IQ3_XXS[usize::from(indices[2 * at])];
            let second = IQ3_XXS[usize::from(indices[2 * at + 1])];
            let signs = (rest >> (7 * i)) as u8 & 127;
            q[at] = with_signs(joined(first, second), even(signs));
        }
    }
    out.offset = [NO_OFFSET; 16];
}

/// Unpacks a block of IQ3_S: scale of the scales, 64 low bytes of 9-bit
/// indices, 64 high bits, 32 bytes of signs, a 4-bit scale per 32 values.
#[inline(always)]
pub fn unpack_iq3_s(block: &[u8; 110], out: &mut Unpacked) {
    let d = half_at(block, 0);
    let (low, high) = (part::<64>(block, 2), part::<8>(block, 66));
    let (signs, scales) = (part::<32>(block, 74), part::<4>(block, 106));
    for group in 0..8 {
        let quantized = (scales[group / 2] >> (4 * (group % 2))) & 15;
        let scale = d * f32::from(1 + 2 * quantized);
        (out.scale[2 * group], out.scale[2 * group + 1]) = (scale, scale);
    }
    out.offset = [NO_OFFSET; 16];
    let vector = |i: usize| {
        let high = usize::from((high[i / 8] >> (i % 8)) & 1);
        IQ3_S[usize::from(low[i]) | (high << 8)]
    };
    let (q, _) = out.q.as_chunks_mut::<8>();
    for i in 0..32 {
        q[i] = with_signs(joined(vector(2 * i), vector(2 * i + 1)), signs[i]);
    }
}

#[inline(always)]
fn joined(first: u32, second: u32) -> u64 {
    u64::from(first) | (u64::from(second) << 32)
}
