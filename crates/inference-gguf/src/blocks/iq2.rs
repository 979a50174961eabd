//! Blocks whose values are signed vectors of eight from a codebook: IQ2_XXS,
//! IQ2_XS and IQ2_S.

use super::codebooks::{IQ2_S, IQ2_XS, IQ2_XXS, with_signs};
use super::{NO_OFFSET, Unpacked, half_at, part};

/// Unpacks a block of IQ2_XXS: scale of the scales, then per 32 values four
/// 8-bit indices, four 7-bit signs and a 4-bit scale.
#[inline(always)]
pub fn unpack_iq2_xxs(block: &[u8; 66], out: &mut Unpacked) {
    let d = half_at(block, 0);
    let (q, _) = out.q.as_chunks_mut::<8>();
    for group in 0..8 {
        let indices = part::<4>(block, 2 + 8 * group);
        let rest = u32::from_le_bytes(*part(block, 6 + 8 * group));
        let scale = scale(d, rest >> 28);
        (out.scale[2 * group], out.scale[2 * group + 1]) = (scale, scale);
        for i in 0..4 {
            let signs = (rest >> (7 * i)) as u8 & 127;
            q[4 * group + i] = with_signs(IQ2_XXS[usize::from(indices[i])], even(signs));
        }
    }
    out.offset = [NO_OFFSET; 16];
}

/// Unpacks a block of IQ2_XS: scale of the scales, 32 pairs of 9-bit index and
/// 7-bit signs, 16 4-bit scales.
#[inline(always)]
pub fn unpack_iq2_xs(block: &[u8; 74], out: &mut Unpacked) {
    four_bit_scales(half_at(block, 0), part(block, 66), out);
    let (q, _) = out.q.as_chunks_mut::<8>();
    for (i, q) in q.iter_mut().enumerate() {
        let pair = u16::from_le_bytes(*part(block, 2 + 2 * i));
        *q = with_signs(IQ2_XS[usize::from(pair & 511)], even((pair >> 9) as u8));
    }
}

/// Unpacks a block of IQ2_S: scale of the scales, 32 low bytes of 10-bit
/// indices, 32 bytes of signs, 32 high bit pairs of the indices, 16 4-bit
/// scales.
#[inline(always)]
pub fn unpack_iq2_s(block: &[u8; 82], out: &mut Unpacked) {
    four_bit_scales(half_at(block, 0), part(block, 74), out);
    let (low, signs, high) = (part::<32>(block, 2), part::<32>(block, 34), part::<8>(block, 66));
    let (q, _) = out.q.as_chunks_mut::<8>();
    for i in 0..32 {
        let high = usize::from((high[i / 4] >> (2 * (i % 4))) & 3);
        q[i] = with_signs(IQ2_S[usize::from(low[i]) | (high << 8)], signs[i]);
    }
}

#[inline(always)]
fn four_bit_scales(d: f32, packed: &[u8; 8], out: &mut Unpacked) {
    for i in 0..16 {
        out.scale[i] = scale(d, u32::from((packed[i / 2] >> (4 * (i % 2))) & 15));
    }
    out.offset = [NO_OFFSET; 16];
}

#[inline(always)]
fn scale(d: f32, quantized: u32) -> f32 {
    d * (0.5 + quantized as f32) * 0.25
}

/// Eight signs of which seven are stored: the number of minuses is even.
#[inline(always)]
pub(super) fn even(signs: u8) -> u8 {
    signs | (((signs.count_ones() & 1) as u8) << 7)
}
