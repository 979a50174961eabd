//! The arithmetic, once per instruction set.
//!
//! Kernels are generic over a vector register ([`part::Part`]) and compiled
//! once for each instruction set, with that set's registers and tile sizes
//! ([`kernel_table!`]). One table is chosen when [`CpuOps`](crate::CpuOps) is
//! made. Every table computes the same bits; [`part`] says why.
//!
//! All `unsafe` of the crate but allocations and the sharing of work among
//! threads is below this module. The
//! contracts: a table may be used only where [`Tier::is_available`]; pointers
//! are valid for the extents that the argument structs document.
#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "below here nearly every function is unsafe for one reason, the instruction set, \
              and its body is nothing but calls of the same contract"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "one index walks rows, weights or registers of several arrays and pointers at once"
)]

mod activations;
mod attention;
mod attention_tiles;
mod blocks;
mod dense;
mod elementwise;
pub(crate) mod format;
pub(crate) mod packed;
pub(crate) mod part;
mod stored;

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(miri, target_arch = "x86_64"))]
mod interpreted;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
mod avx_vnni {
    use super::packed::avx_vnni_lanes::AvxVnniLanes;

    super::kernel_table!(
        super::Tier::AvxVnni, with: super::avx2::TABLE, lanes: AvxVnniLanes, packed_rows: 4,
        "avxvnni,avx2,fma,f16c"
    );
}
#[cfg(target_arch = "x86_64")]
mod avx512_vnni {
    use super::packed::avx512_lanes::Avx512Lanes;

    super::kernel_table!(
        super::Tier::Avx512Vnni, with: super::avx512::TABLE, lanes: Avx512Lanes<true>,
        packed_rows: 8, "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c"
    );
}
#[cfg(target_arch = "aarch64")]
mod neon_dotprod {
    use super::packed::neon_lanes::NeonLanes;

    super::kernel_table!(
        super::Tier::NeonDotprod, with: super::neon::TABLE, lanes: NeonLanes<true, false>,
        packed_rows: 4, "neon,dotprod"
    );
}
#[cfg(target_arch = "aarch64")]
mod neon_i8mm {
    use super::packed::neon_lanes::NeonLanes;

    super::kernel_table!(
        super::Tier::NeonI8mm, with: super::neon::TABLE, lanes: NeonLanes<true, true>,
        packed_rows: 4, "neon,dotprod,i8mm"
    );
}

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::fmt;

use half::{bf16, f16};
use inference_candle::Activation;
use inference_gguf::BlockType;

pub(crate) use activations::{QuantizedRow, padded};
pub(crate) use attention::{
    CHUNK, ChunkArgs, KeyOrder, KeyRun, MergeArgs, Partials, STRIP, SoftmaxArgs, chunk,
    pack_queries, padded_head, scratch_len,
};
pub(crate) use attention_tiles::{ScoreArgs, WeighArgs};
pub(crate) use blocks::BlockArgs;
pub(crate) use dense::{FEW_ROWS, FEW_TILE, FewArgs, PANEL, Split, TileArgs, TileEnd};
pub(crate) use packed::{Chunk32, Chunk256, PackedArgs, PackedKernels};
pub(crate) use part::{Element, GROUP};
pub(crate) use stored::{KeyRows, Q8Block, StoreArgs, Stored};

/// The instruction sets that kernels exist for.
///
/// All of them compute the same bits; they differ in speed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Portable Rust.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX2 and AVX-VNNI.
    AvxVnni,
    /// x86-64 with AVX-512 (F, BW and VL).
    Avx512,
    /// x86-64 with AVX-512 and its VNNI.
    Avx512Vnni,
    /// aarch64 with NEON.
    Neon,
    /// aarch64 with NEON and dot products of bytes.
    NeonDotprod,
    /// aarch64 with NEON, dot products and matrix products of bytes.
    NeonI8mm,
}

impl Tier {
    /// Every tier, the preferred ones first.
    pub const ALL: [Self; 8] = [
        Self::Avx512Vnni,
        Self::Avx512,
        Self::AvxVnni,
        Self::Avx2,
        Self::NeonI8mm,
        Self::NeonDotprod,
        Self::Neon,
        Self::Scalar,
    ];

    /// The fastest tier of this CPU.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|tier| tier.is_available()).unwrap_or(Self::Scalar)
    }

    /// Whether this CPU has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        self.kernels().is_some()
    }

    /// The stable name: `scalar`, `avx2`, `avx_vnni`, `avx512`, `avx512_vnni`,
    /// `neon`, `neon_dotprod`, `neon_i8mm`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx_vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512_vnni",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon_dotprod",
            Self::NeonI8mm => "neon_i8mm",
        }
    }

    /// The kernels, where this CPU can run them.
    pub(crate) fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Self::Scalar => Some(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2().then_some(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => {
                (has_avx2() && is_x86_feature_detected!("avxvnni")).then_some(&avx_vnni::KERNELS)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => has_avx512().then_some(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => (has_avx512() && is_x86_feature_detected!("avx512vnni"))
                .then_some(&avx512_vnni::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => is_aarch64_feature_detected!("neon").then_some(&neon::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => (is_aarch64_feature_detected!("neon")
                && is_aarch64_feature_detected!("dotprod"))
            .then_some(&neon_dotprod::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => (is_aarch64_feature_detected!("neon")
                && is_aarch64_feature_detected!("dotprod")
                && is_aarch64_feature_detected!("i8mm"))
            .then_some(&neon_i8mm::KERNELS),
            _ => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// The kernels of one instruction set.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) tier: Tier,
    pub(crate) f32: ElementKernels<f32>,
    pub(crate) f16: ElementKernels<f16>,
    pub(crate) bf16: ElementKernels<bf16>,
    /// Rows of a register tile of [`tiles`](Self::tiles).
    pub(crate) tile_rows: usize,
    /// Panels of such a tile.
    pub(crate) tile_panels: usize,
    /// Continues the chains of many rows over widened panels.
    pub(crate) tiles: unsafe fn(&TileArgs),
    /// Keys and values of 8 bits.
    pub(crate) q8: KvKernels<Q8Block>,
    /// Turns scores into weights.
    pub(crate) softmax: unsafe fn(&SoftmaxArgs<'_>),
    /// Joins the results of chunks.
    pub(crate) merge: unsafe fn(&MergeArgs),
    /// What comes out of rows whose chunks are joined:
    /// `(results, outputs, head_dim)`.
    pub(crate) divide: unsafe fn(Partials, &[*mut f32], usize),
    /// `x / sqrt(mean(x^2) + eps) * weight` of one row: `(x, weight, out, eps)`.
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], &mut [f32], f32),
    /// `gate = activation(gate) * up`: `(gate, up, activation)`.
    pub(crate) gated: unsafe fn(&mut [f32], &[f32], Activation),
    /// Quantizes a row of activations.
    pub(crate) quantize: unsafe fn(&[f32], &mut QuantizedRow<'_>),
    /// The affine map over blocks of a type, where they are groups of integers.
    pub(crate) blocks: fn(BlockType) -> Option<BlockKernel>,
    /// Quantizes a row for packed weights, to the chunks at every stride.
    pub(crate) quantize32: unsafe fn(&[f32], *mut Chunk32, usize),
    /// The same.
    pub(crate) quantize256: unsafe fn(&[f32], *mut Chunk256, usize),
    /// The affine map over packed blocks of a type, where it is packed.
    pub(crate) packed: fn(BlockType) -> Option<PackedKernels>,
}

/// An affine map over blocks of one type.
pub(crate) type BlockKernel = unsafe fn(&BlockArgs);

/// The kernels of one instruction set for one type of stored element.
#[derive(Debug)]
pub(crate) struct ElementKernels<T: 'static> {
    /// A few rows straight from panels.
    pub(crate) few: unsafe fn(&FewArgs<T>),
    /// Widens a part of a panel: `(from, len, to)`.
    pub(crate) widen: unsafe fn(*const T, usize, *mut f32),
    pub(crate) kv: KvKernels<T>,
}

/// The kernels of one instruction set for one way to store keys and values.
#[derive(Debug)]
pub(crate) struct KvKernels<T: 'static> {
    /// Queries times keys.
    pub(crate) scores: unsafe fn(&ScoreArgs<'_, T>),
    /// Weights times values.
    pub(crate) weigh: unsafe fn(&WeighArgs<'_, T>),
    /// Widens keys and values: `(args, run, keys, values)`.
    pub(crate) widen: unsafe fn(&ChunkArgs<'_, T>, &KeyRun<T>, *mut f32, *mut f32),
    /// Stores keys and values.
    pub(crate) store: unsafe fn(&StoreArgs<T>),
}

/// Defines `KERNELS`: the generic kernels compiled for one register type, with
/// its tile sizes (rows by panels for many rows), the lanes of packed kernels and
/// how many rows those compute at once, and the CPU features to compile them with.
macro_rules! kernel_table {
    (
        $tier:expr, $part:ty, parts: $parts:literal,
        tile: $tile_rows:literal x $tile_panels:literal,
        lanes: $lanes:ty, packed_rows: $packed_rows:literal $(, $features:literal)?
    ) => {
        use inference_candle::Activation;
        use $crate::kernels::{
            BlockArgs, BlockKernel, Chunk32, Chunk256, ChunkArgs, ElementKernels, FewArgs, Kernels,
            KeyRun, KvKernels, MergeArgs, PackedArgs, PackedKernels, Partials, Q8Block,
            QuantizedRow, ScoreArgs, SoftmaxArgs, StoreArgs, TileArgs, WeighArgs, activations,
            attention, attention_tiles, blocks, dense, elementwise, format, packed, stored,
        };

        $crate::kernels::kernel_table!(@element f32, f32_kernels, $part, $parts $(, $features)?);
        $crate::kernels::kernel_table!(@element f16, f16_kernels, $part, $parts $(, $features)?);
        $crate::kernels::kernel_table!(@element bf16, bf16_kernels, $part, $parts $(, $features)?);

        $(#[target_feature(enable = $features)])?
        unsafe fn tiles(args: &TileArgs) {
            dense::tiles::<$part, $parts, $tile_rows, $tile_panels>(args);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn rms_norm(x: &[f32], weight: &[f32], out: &mut [f32], eps: f32) {
            elementwise::rms_norm::<$part, $parts>(x, weight, out, eps);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn gated(gate: &mut [f32], up: &[f32], activation: Activation) {
            elementwise::gated::<$part>(gate, up, activation);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn quantize(x: &[f32], row: &mut QuantizedRow<'_>) {
            activations::quantize(x, row);
        }

        $crate::kernels::kernel_table!(@kv Q8Block, q8_kernels, $part, $parts $(, $features)?);

        $(#[target_feature(enable = $features)])?
        unsafe fn softmax(args: &SoftmaxArgs<'_>) {
            attention::softmax::<$part, $parts>(args);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn merge(args: &MergeArgs) {
            attention::merge::<$part>(args);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn divide(from: Partials, outputs: &[*mut f32], head_dim: usize) {
            attention::divide::<$part>(from, outputs, head_dim);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn affine<F: format::Format>(args: &BlockArgs) {
            blocks::affine::<$part, F, $parts>(args);
        }

        $crate::kernels::kernel_table!(@packed $lanes, $packed_rows $(, $features)?);

        pub(super) const TABLE: Kernels = Kernels {
            tier: $tier,
            f32: f32_kernels::KERNELS,
            f16: f16_kernels::KERNELS,
            bf16: bf16_kernels::KERNELS,
            tile_rows: $tile_rows,
            tile_panels: $tile_panels,
            tiles,
            q8: q8_kernels::KV,
            softmax,
            merge,
            divide,
            rms_norm,
            gated,
            quantize,
            blocks: |kind| {
                format::with_format!(kind, F => affine::<F> as BlockKernel)
            },
            quantize32,
            quantize256,
            packed: packed_kernels,
        };

        pub(super) static KERNELS: Kernels = TABLE;
    };
    // The kernels of a table, with other ones for packed weights.
    (
        $tier:expr, with: $table:expr, lanes: $lanes:ty, packed_rows: $packed_rows:literal,
        $features:literal
    ) => {
        use $crate::kernels::{Chunk32, Chunk256, Kernels, PackedArgs, PackedKernels, packed};

        $crate::kernels::kernel_table!(@packed $lanes, $packed_rows, $features);

        pub(super) static KERNELS: Kernels =
            Kernels { tier: $tier, quantize32, quantize256, packed: packed_kernels, ..$table };
    };
    (@packed $lanes:ty, $packed_rows:literal $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn quantize32(x: &[f32], to: *mut Chunk32, stride: usize) {
            packed::quantize_row::<$lanes, _>(x, to, stride);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn quantize256(x: &[f32], to: *mut Chunk256, stride: usize) {
            packed::quantize_row::<$lanes, _>(x, to, stride);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn packed_few<P: packed::Packed>(args: &PackedArgs) {
            packed::few::<$lanes, P, $packed_rows>(args);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn packed_many<P: packed::Packed>(args: &PackedArgs) {
            packed::many::<$lanes, P, $packed_rows>(args);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn packed_decode<P: packed::Packed>(blocks: *const u8, count: usize, out: *mut f32) {
            packed::decode::<$lanes, P>(blocks, count, out);
        }

        fn packed_kernels(kind: inference_gguf::BlockType) -> Option<PackedKernels> {
            packed::with_packed!(kind, P => {
                PackedKernels::of::<P>(packed_few::<P>, packed_many::<P>, packed_decode::<P>)
            })
        }
    };
    (
        @element $element:ty, $module:ident, $part:ty, $parts:literal $(, $features:literal)?
    ) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn few(args: &FewArgs<$element>) {
                dense::few::<$part, $element, $parts>(args);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn widen(from: *const $element, len: usize, to: *mut f32) {
                dense::widen::<$part, $element>(from, len, to);
            }

            $crate::kernels::kernel_table!(@kv $element, kv, $part, $parts $(, $features)?);

            pub(super) const KERNELS: ElementKernels<$element> =
                ElementKernels { few, widen, kv: kv::KV };
        }
    };
    (@kv $stored:ty, $module:ident, $part:ty, $parts:literal $(, $features:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn scores(args: &ScoreArgs<'_, $stored>) {
                attention_tiles::scores::<$part, $stored, $parts>(args);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn weigh(args: &WeighArgs<'_, $stored>) {
                attention_tiles::weigh::<$part, $stored>(args);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn widen(
                args: &ChunkArgs<'_, $stored>,
                run: &KeyRun<$stored>,
                keys: *mut f32,
                values: *mut f32,
            ) {
                attention::widen::<$part, $stored>(args, run, keys, values);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn store(args: &StoreArgs<$stored>) {
                stored::store::<$part, $stored>(args);
            }

            pub(super) const KV: KvKernels<$stored> =
                KvKernels { scores, weigh, widen, store };
        }
    };
}
pub(crate) use kernel_table;
