//! Blocks of 4-bit indices into a table of unevenly spaced values: IQ4_NL and
//! IQ4_XS.

use super::simple::nibbles;
use super::{NO_OFFSET, Unpacked, half_at, part};

/// The values: denser around zero, as weights are.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Unpacks a block of IQ4_NL: scale, 16 bytes of indices.
#[inline(always)]
pub fn unpack_iq4_nl(block: &[u8; 18], q: &mut [i8; 32]) -> (f32, f32) {
    look_up(part(block, 2), q);
    (half_at(block, 0), NO_OFFSET)
}

/// Unpacks a block of IQ4_XS: scale of the scales, 16 high bit pairs and 4
/// bytes of low halves of 6-bit scales per 32 values, 128 bytes of indices.
#[inline(always)]
pub fn unpack_iq4_xs(block: &[u8; 136], out: &mut Unpacked) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes(*part(block, 2));
    let low = u32::from_le_bytes(*part(block, 4));
    let (q, _) = out.q.as_chunks_mut::<32>();
    for (group, q) in q.iter_mut().enumerate() {
        let scale = ((low >> (4 * group)) & 15) | (u32::from((high >> (2 * group)) & 3) << 4);
        let scale = d * (scale as i32 - 32) as f32;
        (out.scale[2 * group], out.scale[2 * group + 1]) = (scale, scale);
        look_up(part(block, 8 + 16 * group), q);
    }
    out.offset = [NO_OFFSET; 16];
}

/// The values at indices. A tree of selections by the index's bits, which
/// compilers make fast for many at once; a table is a load per value.
#[inline(always)]
fn look_up(indices: &[u8; 16], q: &mut [i8; 32]) {
    nibbles(indices, q);
    for q in q {
        let [a, b, c, d] = [0, 1, 2, 3].map(|bit| -((*q >> bit) & 1));
        let select = |mask: i8, unset: i8, set: i8| unset ^ (mask & (unset ^ set));
        let pair = |i: usize| select(a, VALUES[2 * i], VALUES[2 * i + 1]);
        let four = |i: usize| select(b, pair(2 * i), pair(2 * i + 1));
        *q = select(d, select(c, four(0), four(1)), select(c, four(2), four(3)));
    }
}
