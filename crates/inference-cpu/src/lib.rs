//! The CPU backend: fused kernels whose results are the same bits whatever
//! the batch, the thread count and the instruction set.
//!
//! Linking this crate registers the backend `cpu`:
//!
//! ```
//! use inference_core::Registry;
//! use inference_cpu as _;
//!
//! assert!(Registry::global().get("cpu")?.availability().is_ready());
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! Where link-time registration is lost (static libraries), call [`register`].
//!
//! # Same answer, whatever the company
//!
//! A reduction over k (in affine maps), over a row (in norms) or over keys (in
//! attention) has one order, fixed by the position of its terms alone:
//!
//! - dense and packed weights: lanes are output features, and each feature is
//!   one chain over k, ascending, of fused multiply-adds;
//! - attention: chunks of 128 keys at fixed positions, folded in ascending
//!   order by their greatest scores; in a chunk a score is one chain over the
//!   head's elements, and weighted values are added key by key;
//! - norms and what is not packed: 16 lanes, lane `l` summing the terms `l`,
//!   `l + 16`, … with fused multiply-adds, added as a tree at the end;
//! - each (row, weight) pair has accumulators of its own: tiles, panels and
//!   threads decide what is reused and when, never what is added to what;
//! - `exp` and `tanh` are polynomials of our own, not the platform's.
//!
//! So a row's result is the same bits alone or in a batch, in one prefill or
//! in chunks, with any number of threads, and with AVX-512, AVX2, NEON or
//! portable code ([`Tier`]). The portable code is what tests compare the
//! others with; GELU's error function runs as portable code in every tier.
//! VNNI (of AVX-512, or AVX-VNNI), NEON's dot products and, for types of 32
//! values, its matrix products (i8mm) are used for packed weights and are tiers
//! of their own.
//!
//! # Weights
//!
//! f32, f16 and bf16 weights are packed when a model loads, in their stored
//! type, into panels of 16 features, and the pages they came from are given
//! back; they are widened in registers (few rows) or panel by panel in cache
//! (many rows). A tensor that somebody else may change is read anew each time,
//! to the same bits. AVX512-BF16's dot products are not used: they round and
//! flush subnormal numbers differently. What GGUF's blocks and the codecs of
//! other quantized checkpoints hold is never widened as a whole either;
//! [`LoadOptions::precision`] says how they are computed with:
//!
//! - [`Precision::Fast`], the default: activations are quantized to 8 bits
//!   (`max |x| / 127`, nearest, ties to even) and multiplied with blocks as
//!   integers, exactly. A value that is not finite makes its row NaN; a group
//!   below 1e-36 counts as zeros. Codecs (GPTQ, AWQ, MLX, FP8) are computed
//!   with as in
//! - [`Precision::Exact`]: one panel's rows at a time are decoded to f32, and
//!   give the bits that a dense f32 weight gives.
//!
//! Blocks of most types are packed while the model loads, in parallel: 16
//! output features side by side, in the bytes that they take in the file,
//! whose pages are given back as it goes. Lanes are output features
//! there, and a product is one chain over k, ascending, and then the bias:
//!
//! - Blocks of 32 weights (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4), with
//!   a scale `d_x` for 32 activations: `fma(dot, d_w * d_x, sum)`, where `dot`
//!   is the exact sum of codes times activations; with minimums then
//!   `fma(m_w, d_x * total, sum)`, where `total` is that of activations.
//! - Blocks of 256 (Q2_K to Q6_K, IQ4_XS), with a scale for 256 activations:
//!   the same, `dot` the exact sum of sub-blocks' sums times their integer
//!   scales; with minimums then `fma(-total, dmin_w * d_x, sum)`, where `total`
//!   is that of sub-blocks' activations times their integer minimums.
//!
//! Other types (IQ1 to IQ3, TQ, NVFP4, Q8_K) stay as they are, with a scale
//! for 16 activations; groups of 16 are the terms of the order above.
//!
//! [`LoadOptions::precision`]: inference_core::LoadOptions::precision
//! [`Precision::Fast`]: inference_core::Precision::Fast
//! [`Precision::Exact`]: inference_core::Precision::Exact
//!
//! Keys and values are f32, f16, bf16 or, in heads of whole groups of 32
//! elements, q8_0, in one pool whose pages the operating system commits when
//! they are first written. They are read in place, widened exactly in registers
//! (8-bit groups of a long prefill once per chunk). The keys of 16 positions lie
//! transposed, so that a score is a lane and nothing is added across lanes.
//! One token at depth is shared out among threads by chunks of its keys; memory
//! is asked for values while scores are computed, and for the next chunk's keys
//! while values are added.
//!
//! # Threads
//!
//! A loaded model has threads of its own ([`ThreadOptions`]; by
//! [`LoadOptions::threads`](inference_core::LoadOptions::threads) and
//! [`affinity`](inference_core::LoadOptions::affinity), by default the
//! available parallelism), on Linux pinned if asked for. The calling thread is
//! one of them. A step wakes them once; between its operations they spin, so
//! that sharing one costs well under a microsecond, and give way where threads
//! outnumber CPUs. Without a step they soon sleep. Work that is too small to
//! share runs on the calling thread. A panic of shared work is the caller's.
//!
//! A step is computed on slices of buffers that are kept from one to the next:
//! the maps of one input are one piece of shared work, gates are activated
//! where they were computed. Adapters cost two more pieces for each input,
//! whatever their number: all products with `A`, and all with `B`.
//!
//! The handshake is tried in all orders by loom: `cargo test -p inference-cpu
//! --features loom-tests --lib loom`.

mod activations;
mod arena;
mod attention;
mod attention_plan;
mod backend;
mod block_product;
mod decoded_product;
mod dense_product;
mod dense_tiles;
mod dense_transposed;
mod device;
mod experts;
mod handshake;
mod kernels;
mod kv_cache;
mod linear;
mod matrix_product;
mod ops;
mod options;
mod packed_decoding;
mod packed_product;
mod packed_rows;
mod packed_weight;
mod packing;
mod recycled;
mod step;
mod step_adapters;
mod step_attention;
mod step_maps;
mod step_mlp;
mod sync;
mod thread_options;
mod view;
mod weight_memory;
mod workers;

use std::sync::Arc;

use inference_core::{BackendRegistration, Registry, inventory};

pub use backend::CpuBackend;
pub use kernels::Tier;
pub use ops::CpuOps;
pub use options::CpuOptions;
pub use thread_options::ThreadOptions;

#[cfg(all(test, feature = "loom-tests"))]
mod loom_tests;

#[cfg(target_endian = "big")]
compile_error!("weights are little-endian and read in place");

inventory::submit! { BackendRegistration::new(|| Arc::new(CpuBackend::new())) }

/// Adds the backend `cpu` to a registry.
pub fn register(registry: &Registry) {
    registry.register(Arc::new(CpuBackend::new()));
}
