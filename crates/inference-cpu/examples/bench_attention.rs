//! Measures attention at depth: of one token (decode) and of 512 (prefill), for
//! the heads of a 135M and of a 1B model, with each way to store keys and
//! values, beside plain Candle on f32. Of one token all layers are computed, one
//! after the other, as in a step: their keys come from memory, not from cache.
//! Times are those of one layer.
//!
//! ```sh
//! cargo run --release -p inference-cpu --example bench_attention [THREADS [DEPTH [KV…]]]
//! ```
//!
//! Candle's products run on its own thread pool, as wide as
//! `RAYON_NUM_THREADS` says.

use std::time::Instant;

use candle_core::{D, DType, Device, Tensor};
use inference_candle::{AttentionSpec, BatchView, KvLayout, Ops};
use inference_core::{Error, KvDtype, Result};
use inference_cpu::{CpuOps, CpuOptions};
use inference_engine::StepSequence;

const BLOCK: usize = 16;

fn spec(num_heads: usize, num_kv_heads: usize) -> AttentionSpec {
    AttentionSpec {
        num_heads,
        num_kv_heads,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        window: None,
    }
}

fn candle<T>(result: candle_core::Result<T>) -> Result<T> {
    result.map_err(|error| Error::engine("candle", error))
}

fn random(tokens: usize, heads: usize, head_dim: usize) -> Result<Tensor> {
    candle(Tensor::randn(0.0f32, 1.0, (tokens, heads, head_dim), &Device::Cpu))
}

/// The best of wall times in seconds, after a warm-up: what a machine that
/// others use too disturbs least.
fn best(repeats: usize, mut call: impl FnMut() -> Result<Tensor>) -> Result<f64> {
    call()?;
    let mut best = f64::INFINITY;
    for _ in 0..repeats {
        let start = Instant::now();
        call()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Seconds of attention in one layer of the last `len` tokens of a sequence of
/// `depth + len`.
fn ours(
    ops: &CpuOps,
    spec: &AttentionSpec,
    layers: usize,
    (depth, len): (usize, usize),
    dtype: KvDtype,
) -> Result<f64> {
    let blocks = (depth + len).div_ceil(BLOCK);
    let mut cache = ops.kv_cache(&KvLayout {
        num_layers: layers,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        block_size: BLOCK,
        num_blocks: blocks,
        dtype,
    })?;
    let block_table: Vec<u32> = (0..).take(blocks).collect();
    let mut step = |position: usize, len: usize, layers: usize, repeats: usize| -> Result<f64> {
        let q = random(len, spec.num_heads, spec.head_dim)?;
        let k = random(len, spec.num_kv_heads, spec.head_dim)?;
        let v = random(len, spec.num_kv_heads, spec.head_dim)?;
        let prompt_len = position + len;
        let block_table = block_table.clone();
        let sequences =
            [StepSequence { start: 0, len, position, prompt_len, adapter: None, block_table }];
        let positions: Vec<usize> = (position..position + len).collect();
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let seconds = best(repeats, || {
            for layer in 1..layers {
                ops.attention(&q, &k, &v, Some((&mut *cache, layer)), &batch, spec)?;
            }
            ops.attention(&q, &k, &v, Some((&mut *cache, 0)), &batch, spec)
        })?;
        Ok(seconds / layers as f64)
    };
    if depth > 0 {
        step(0, depth, layers, 0)?;
    }
    step(depth, len, layers, if len == 1 { 40 } else { 10 })
}

/// The same with Candle's products on f32, keys and values of each head given
/// side by side, and no mask.
fn theirs(spec: &AttentionSpec, depth: usize, len: usize) -> Result<f64> {
    let group = spec.num_heads / spec.num_kv_heads;
    let keys = depth + len;
    let shape = |rows: usize| (spec.num_kv_heads, rows, spec.head_dim);
    let q = candle(Tensor::randn(0.0f32, 1.0, shape(group * len), &Device::Cpu))?;
    let k = candle(Tensor::randn(0.0f32, 1.0, shape(keys), &Device::Cpu))?;
    let v = candle(Tensor::randn(0.0f32, 1.0, shape(keys), &Device::Cpu))?;
    let k = candle(k.transpose(1, 2).and_then(|k| k.contiguous()))?;
    best(if len == 1 { 30 } else { 3 }, || {
        candle((|| {
            let scores = (q.matmul(&k)? * f64::from(spec.scale))?;
            let greatest = scores.max_keepdim(D::Minus1)?;
            let weights = scores.broadcast_sub(&greatest)?.exp()?;
            let sums = weights.sum_keepdim(D::Minus1)?;
            weights.broadcast_div(&sums)?.matmul(&v)?.to_dtype(DType::F32)
        })())
    })
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name, default| match arguments.next() {
        None => Ok(default),
        Some(n) => n.parse().map_err(|_| Error::invalid_option(name, n, "a number")),
    };
    let threads = number("THREADS", 2)?;
    let depth = number("DEPTH", 4096)?;
    let mut types = Vec::new();
    for name in arguments {
        let known = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0];
        match known.into_iter().find(|dtype| dtype.to_string() == name) {
            Some(dtype) => types.push(dtype),
            None => return Err(Error::invalid_option("KV", name, "f32, f16, bf16 or q8_0")),
        }
    }
    if types.is_empty() {
        types = vec![KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0];
    }
    let ops = CpuOps::new(&CpuOptions::new().with_threads(threads))?;
    println!("{}, {threads} threads, depth {depth}", ops.tier());
    for (name, spec, layers) in [("135M", spec(9, 3), 30), ("1B", spec(32, 8), 16)] {
        for len in [1, 512] {
            let layers = if len == 1 { layers } else { 1 };
            let peer = theirs(&spec, depth, len)?;
            println!("{name}, {len} tokens: Candle f32 {:.1} us", peer * 1e6);
            // Two products, multiply and add; the triangle of the new keys.
            let keys = depth * len + len * (len + 1) / 2;
            let operations = 4.0 * (spec.num_heads * spec.head_dim * keys) as f64;
            for dtype in &types {
                let seconds = ours(&ops, &spec, layers, (depth, len), *dtype)?;
                let bytes = match dtype {
                    KvDtype::F32 => 4.0,
                    KvDtype::Q8_0 => 34.0 / 32.0,
                    _ => 2.0,
                };
                let read = bytes * (2 * (depth + len) * spec.num_kv_heads * spec.head_dim) as f64;
                println!(
                    "  {dtype}: {:.1} us, {:.1} GFLOP/s, {:.1} GB/s, {:.1} x Candle",
                    seconds * 1e6,
                    operations / seconds / 1e9,
                    read / seconds / 1e9,
                    peer / seconds
                );
            }
        }
    }
    Ok(())
}
