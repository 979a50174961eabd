//! Blocks of weights as integers with scales and offsets.

use half::f16;
use inference_gguf::blocks as gguf;
use inference_gguf::blocks::Unpacked;

use super::part::{GROUP, LANES, Part};

/// A type of block whose weights are `scale * q + offset` with integers `q` of
/// 8 bits.
pub(crate) trait Format {
    /// Weights of a block.
    const VALUES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether a `q` can be negative.
    const SIGNED: bool;
    /// Whether an offset can be other than zero.
    const OFFSETS: bool;

    /// Unpacks whole blocks of at most 256 weights.
    ///
    /// # Safety
    ///
    /// As [`Part`].
    unsafe fn unpack<P: Part>(blocks: &[u8], out: &mut Unpacked);
}

/// Evaluates an expression with the [`Format`] of a
/// [`BlockType`](inference_gguf::BlockType) in place of a name: `Some` of its
/// value, or `None` for dense types.
macro_rules! with_format {
    ($block_type:expr, $format:ident => $then:expr) => {
        $crate::kernels::format::with_format!(@ $block_type, $format => $then;
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl Mxfp4 Nvfp4 Q2K Q3K Q4K Q5K Q6K Q8K
            Iq1S Iq1M Iq2Xxs Iq2Xs Iq2S Iq3Xxs Iq3S Iq4Xs Tq1_0 Tq2_0)
    };
    (@ $block_type:expr, $format:ident => $then:expr; $($name:ident)*) => {
        match $block_type {
            $(inference_gguf::BlockType::$name => {
                type $format = $crate::kernels::format::$name;
                Some($then)
            })*
            _ => None,
        }
    };
}
pub(crate) use with_format;

/// Unpacks blocks by a function of [`inference_gguf::blocks`]. A macro, because
/// a function that is handed over is called: outside of the instruction set
/// that its caller is compiled for.
macro_rules! unpack {
    // A block of 256 weights.
    (one, $part:ty, $bytes:literal, $unpack:path, $blocks:ident, $out:ident) => {
        if let Some(block) = $blocks.first_chunk::<$bytes>() {
            $unpack(block, $out);
        }
    };
    // Blocks of 32 weights with one scale and one offset.
    (each, $part:ty, $bytes:literal, $unpack:path, $blocks:ident, $out:ident) => {
        let (blocks, _) = $blocks.as_chunks::<$bytes>();
        let (q, _) = $out.q.as_chunks_mut::<32>();
        let (scales, _) = $out.scale.as_chunks_mut::<{ 32 / GROUP }>();
        let (offsets, _) = $out.offset.as_chunks_mut::<{ 32 / GROUP }>();
        for (((block, q), scales), offsets) in blocks.iter().zip(q).zip(scales).zip(offsets) {
            let (scale, offset) = $unpack(block, q);
            *scales = [scale; 32 / GROUP];
            *offsets = [offset; 32 / GROUP];
        }
    };
    // Blocks of 32 weights that begin with a 16-bit float, their scale. All
    // scales are widened at once; those that `unpack` returns are not used.
    (half_scales, $part:ty, $bytes:literal, $unpack:path, $blocks:ident, $out:ident) => {
        let (blocks, _) = $blocks.as_chunks::<$bytes>();
        let (q, _) = $out.q.as_chunks_mut::<32>();
        let mut scales = [f16::ZERO; LANES];
        let (pairs, _) = scales.as_chunks_mut::<{ 32 / GROUP }>();
        for ((block, q), pair) in blocks.iter().zip(q).zip(pairs) {
            $unpack(block, q);
            *pair = [f16::from_le_bytes([block[0], block[1]]); 32 / GROUP];
        }
        widen::<$part>(&scales, &mut $out.scale);
    };
    // As before, with a second float, the offset.
    (half_offsets, $part:ty, $bytes:literal, $unpack:path, $blocks:ident, $out:ident) => {
        unpack!(half_scales, $part, $bytes, $unpack, $blocks, $out);
        let mut offsets = [f16::ZERO; LANES];
        let (pairs, _) = offsets.as_chunks_mut::<{ 32 / GROUP }>();
        for (block, pair) in $blocks.as_chunks::<$bytes>().0.iter().zip(pairs) {
            *pair = [f16::from_le_bytes([block[2], block[3]]); 32 / GROUP];
        }
        widen::<$part>(&offsets, &mut $out.offset);
    };
    // Blocks of 64 weights with a scale per group.
    (four_scales, $part:ty, $bytes:literal, $unpack:path, $blocks:ident, $out:ident) => {
        let (blocks, _) = $blocks.as_chunks::<$bytes>();
        let (q, _) = $out.q.as_chunks_mut::<64>();
        let (scales, _) = $out.scale.as_chunks_mut::<4>();
        for ((block, q), scales) in blocks.iter().zip(q).zip(scales) {
            *scales = $unpack(block, q);
        }
    };
}

macro_rules! formats {
    ($($name:ident: $values:literal in $bytes:literal, $sign:ident, $parts:ident,
        $blocks:ident $unpack:ident;)*) => {
        $(
            pub(crate) struct $name;

            impl Format for $name {
                const VALUES: usize = $values;
                const BYTES: usize = $bytes;
                const SIGNED: bool = formats!(@ $sign);
                const OFFSETS: bool = formats!(@ $parts);

                #[inline(always)]
                unsafe fn unpack<P: Part>(blocks: &[u8], out: &mut Unpacked) {
                    unpack!($blocks, P, $bytes, gguf::$unpack, blocks, out);
                }
            }
        )*
    };
    (@ signed) => { true };
    (@ unsigned) => { false };
    (@ offsets) => { true };
    (@ scales) => { false };
}

formats! {
    Q4_0: 32 in 18, signed, scales, half_scales unpack_q4_0;
    Q4_1: 32 in 20, unsigned, offsets, half_offsets unpack_q4_1;
    Q5_0: 32 in 22, signed, scales, half_scales unpack_q5_0;
    Q5_1: 32 in 24, unsigned, offsets, half_offsets unpack_q5_1;
    Q8_0: 32 in 34, signed, scales, half_scales unpack_q8_0;
    Iq4Nl: 32 in 18, signed, scales, half_scales unpack_iq4_nl;
    Mxfp4: 32 in 17, signed, scales, each unpack_mxfp4;
    Nvfp4: 64 in 36, signed, scales, four_scales unpack_nvfp4;
    Q2K: 256 in 84, unsigned, offsets, one unpack_q2_k;
    Q3K: 256 in 110, signed, scales, one unpack_q3_k;
    Q4K: 256 in 144, unsigned, offsets, one unpack_q4_k;
    Q5K: 256 in 176, unsigned, offsets, one unpack_q5_k;
    Q6K: 256 in 210, signed, scales, one unpack_q6_k;
    Q8K: 256 in 292, signed, scales, one unpack_q8_k;
    Iq1S: 256 in 50, signed, scales, one unpack_iq1_s;
    Iq1M: 256 in 56, signed, scales, one unpack_iq1_m;
    Iq2Xxs: 256 in 66, signed, scales, one unpack_iq2_xxs;
    Iq2Xs: 256 in 74, signed, scales, one unpack_iq2_xs;
    Iq2S: 256 in 82, signed, scales, one unpack_iq2_s;
    Iq3Xxs: 256 in 98, signed, scales, one unpack_iq3_xxs;
    Iq3S: 256 in 110, signed, scales, one unpack_iq3_s;
    Iq4Xs: 256 in 136, signed, scales, one unpack_iq4_xs;
    Tq1_0: 256 in 54, signed, scales, one unpack_tq1_0;
    Tq2_0: 256 in 66, signed, scales, one unpack_tq2_0;
}

/// Widens all of `from`.
///
/// # Safety
///
/// As [`Part`].
#[inline(always)]
unsafe fn widen<P: Part>(from: &[f16; LANES], to: &mut [f32; LANES]) {
    for at in (0..LANES).step_by(P::WIDTH) {
        P::load_f16(from.as_ptr().add(at)).store(to.as_mut_ptr().add(at));
    }
}
