//! Blocks of weights as integers with scales.

use inference_gguf::blocks as gguf;
use inference_gguf::blocks::Unpacked;

use super::part::Part;

/// A type of block whose weights are `scale * q` with integers `q` of 8 bits.
pub(crate) trait Format {
    /// Weights of a block.
    const VALUES: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Unpacks whole blocks of at most 256 weights.
    ///
    /// # Safety
    ///
    /// As [`Part`].
    unsafe fn unpack<P: Part>(blocks: &[u8], out: &mut Unpacked);
}

/// Evaluates an expression with the [`Format`] of a
/// [`BlockType`](inference_gguf::BlockType) in place of a name: `Some` of its
/// value, or `None` for dense types and those that are [packed](super::packed).
macro_rules! with_format {
    ($block_type:expr, $format:ident => $then:expr) => {
        $crate::kernels::format::with_format!(@ $block_type, $format => $then;
            Nvfp4 Q8K Iq1S Iq1M Iq2Xxs Iq2Xs Iq2S Iq3Xxs Iq3S Tq1_0 Tq2_0)
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
    ($($name:ident: $values:literal in $bytes:literal, $blocks:ident $unpack:ident;)*) => {
        $(
            pub(crate) struct $name;

            impl Format for $name {
                const VALUES: usize = $values;
                const BYTES: usize = $bytes;

                #[inline(always)]
                unsafe fn unpack<P: Part>(blocks: &[u8], out: &mut Unpacked) {
                    unpack!($blocks, P, $bytes, gguf::$unpack, blocks, out);
                }
            }
        )*
    };
}

formats! {
    Nvfp4: 64 in 36, four_scales unpack_nvfp4;
    Q8K: 256 in 292, one unpack_q8_k;
    Iq1S: 256 in 50, one unpack_iq1_s;
    Iq1M: 256 in 56, one unpack_iq1_m;
    Iq2Xxs: 256 in 66, one unpack_iq2_xxs;
    Iq2Xs: 256 in 74, one unpack_iq2_xs;
    Iq2S: 256 in 82, one unpack_iq2_s;
    Iq3Xxs: 256 in 98, one unpack_iq3_xxs;
    Iq3S: 256 in 110, one unpack_iq3_s;
    Tq1_0: 256 in 54, one unpack_tq1_0;
    Tq2_0: 256 in 66, one unpack_tq2_0;
}
