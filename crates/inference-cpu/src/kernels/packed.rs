//! Affine maps over packed weights: interleaved for the registers, as compact
//! as the source.
//!
//! A panel holds [`FEATURES`] output features (the last one is filled up with
//! zeros) and is a sequence of blocks along k, each of 32 or 256 values as in
//! the source's type. A block holds the scales of its features (and minimums,
//! or whatever the type has), then their codes in quads: 4 consecutive values
//! of each feature in turn, 64 bytes at 8 bits, the operand of a multiply-add
//! of bytes. 4-bit codes hold two quads per 64 bytes, one in the low and one
//! in the high halves. A block takes the bytes that its features' blocks take
//! in the source.
//!
//! Lanes are output features and activations are broadcast, so a product is
//! one chain over k, ascending, of exact integer sums and fused multiply-adds,
//! on every instruction set and in any company: its bits depend on nothing else.
//!
//! - [`few`]: straight from the blocks, unpacked in registers: for few rows,
//!   at the speed of memory.
//! - [`many`]: a panel's part of k is unpacked to 8 bits once, into the
//!   first-level cache, and multiplied with all rows. Between parts a row's
//!   chains wait in the output.

#[cfg(target_arch = "x86_64")]
mod avx2_lanes;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_lanes;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx_vnni_lanes;
mod blocks32;
mod drivers;
mod k_blocks;
mod k_pack;
#[cfg(test)]
mod k_tests;
mod k_types;
mod lanes;
mod layout32;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon_lanes;
mod quads;
#[cfg(target_arch = "x86_64")]
mod quads_avx2;
#[cfg(target_arch = "x86_64")]
mod quads_avx512;
#[cfg(target_arch = "aarch64")]
mod quads_neon;
mod quads_scalar;
mod quantize;
mod scalar_lanes;

use std::fmt;

pub(crate) use blocks32::Blocks32;
pub(crate) use drivers::{decode, few, many};
pub(crate) use k_blocks::Blocks256;
pub(crate) use k_types::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub(crate) use lanes::{Codes, Lanes};
pub(crate) use layout32::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use quantize::{CHUNK, Chunk, Chunk32, Chunk256, quantize_row};

/// Output features of a panel.
pub(crate) const FEATURES: usize = 16;

/// A type of packed weights.
pub(crate) trait Packed {
    /// Values of a block along k; divides [`CHUNK`].
    const VALUES: usize;
    /// Bytes of one feature's block in the source.
    const SOURCE_BYTES: usize;
    /// Bytes of a panel's block.
    const BYTES: usize = Self::SOURCE_BYTES * FEATURES;
    /// Bytes of a panel's block unpacked to 8 bits: a multiple of 64, at most
    /// 24 for each value.
    const TILE_BYTES: usize;
    /// The activations that it is multiplied with.
    type Chunk: Chunk;

    /// Packs a block of each feature, [`SOURCE_BYTES`](Self::SOURCE_BYTES),
    /// over all of `to`, [`BYTES`](Self::BYTES).
    fn pack(source: &[&[u8]; FEATURES], to: &mut [u8]);

    /// Unpacks a block to 8 bits.
    ///
    /// # Safety
    ///
    /// As [`Lanes`]; `BYTES` are readable at `block`, `TILE_BYTES` writable at
    /// `tile`, which is aligned to 64.
    unsafe fn unpack<L: Lanes>(block: *const u8, tile: *mut u8);

    /// Writes what the codes of a block stand for, `[VALUES, FEATURES]`, from
    /// what [`unpack`](Self::unpack) made of it.
    ///
    /// # Safety
    ///
    /// As [`Lanes`]; `TILE_BYTES` are readable at `tile`, which is aligned to 64,
    /// and `out` is as long.
    unsafe fn decode<L: Lanes>(tile: *const u8, out: *mut f32);

    /// Adds a block's part of the chains of `R` rows: the block (or, `TILED`,
    /// what [`unpack`](Self::unpack) made of it) times block `index` of their
    /// chunks.
    ///
    /// # Safety
    ///
    /// As [`Lanes`]; the weights as above, chunks are readable.
    unsafe fn add<L: Lanes, const R: usize, const TILED: bool>(
        weights: *const u8,
        x: [*const Self::Chunk; R],
        index: usize,
        sums: &mut [L::Floats; R],
    );
}

/// Part of an affine map: `rows` rows of activations by `panels` panels.
#[derive(Debug)]
pub(crate) struct PackedArgs {
    /// Chunks of activations, `[ceil(k / CHUNK), x_rows]`, from the first row
    /// on; of the type that the weights say.
    pub(crate) x: *const u8,
    /// Rows of all of the activations: the distance of a row's chunks.
    pub(crate) x_rows: usize,
    pub(crate) rows: usize,
    /// `[panels, blocks]`.
    pub(crate) w: *const u8,
    pub(crate) panels: usize,
    /// Blocks along k.
    pub(crate) blocks: usize,
    /// Features: all of the panels', or fewer in the last.
    pub(crate) features: usize,
    /// `[features]`, or null.
    pub(crate) bias: *const f32,
    /// `[rows, out_stride]`, of which `features` columns are written.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// Which activations packed weights are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkKind {
    /// A scale for 32 values.
    Of32,
    /// A scale for 256 values.
    Of256,
}

/// One type of packed weights, on one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct PackedKernels {
    /// [`Packed::VALUES`].
    pub(crate) values: usize,
    /// [`Packed::SOURCE_BYTES`].
    pub(crate) source_bytes: usize,
    /// What it is multiplied with.
    pub(crate) chunks: ChunkKind,
    /// [`Packed::pack`].
    pub(crate) pack: fn(&[&[u8]; FEATURES], &mut [u8]),
    /// For few rows.
    pub(crate) few: unsafe fn(&PackedArgs),
    /// For many rows.
    pub(crate) many: unsafe fn(&PackedArgs),
    /// Writes the values of blocks: `(blocks, count, out)`.
    pub(crate) decode: DecodeKernel,
}

/// Writes what a number of blocks stand for, `[values, FEATURES]` each.
pub(crate) type DecodeKernel = unsafe fn(*const u8, usize, *mut f32);

impl PackedKernels {
    /// The kernels of a type, compiled elsewhere.
    pub(crate) fn of<P: Packed>(
        few: unsafe fn(&PackedArgs),
        many: unsafe fn(&PackedArgs),
        decode: DecodeKernel,
    ) -> Self {
        let (values, source_bytes) = (P::VALUES, P::SOURCE_BYTES);
        Self { values, source_bytes, chunks: P::Chunk::KIND, pack: P::pack, few, many, decode }
    }

    /// Bytes of a panel's block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.source_bytes * FEATURES
    }
}

impl fmt::Debug for PackedKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedKernels({} values in {} bytes)", self.values, self.source_bytes)
    }
}

/// Evaluates an expression with the [`Packed`] type of a
/// [`BlockType`](inference_gguf::BlockType) in place of a name: `Some` of its
/// value, or `None` for types that are not packed.
macro_rules! with_packed {
    ($block_type:expr, $packed:ident => $then:expr) => {
        $crate::kernels::packed::with_packed!(@ $block_type, $packed => $then;
            Blocks32: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl Mxfp4,
            Blocks256: Q2K Q3K Q4K Q5K Q6K Iq4Xs)
    };
    (@ $block_type:expr, $packed:ident => $then:expr; $($family:ident: $($name:ident)*),*) => {
        match $block_type {
            $($(inference_gguf::BlockType::$name => {
                type $packed = packed::$family<packed::$name>;
                Some($then)
            })*)*
            _ => None,
        }
    };
}
pub(crate) use with_packed;
