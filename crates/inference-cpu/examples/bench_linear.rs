//! Compares affine maps with Candle's own matrix products, in one process.
//!
//! ```sh
//! cargo run --release -p inference-cpu --example bench_linear [THREADS [TYPE…]]
//! ```
//!
//! Types are `f32`, `f16`, `bf16` and quantized ones such as `q4_k`; all by
//! default. For quantized types Candle's product runs on its own thread pool,
//! as wide as `RAYON_NUM_THREADS` says.

use std::sync::Arc;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use half::{bf16, f16};
use inference_candle::{Linear, Ops, Weight, WeightType};
use inference_core::{Error, Result};
use inference_cpu::{CpuOps, CpuOptions};
use inference_gguf::BlockType;

const OUT: usize = 8192;
const IN: usize = 2048;

/// The median and the least of `repeats` wall times and the median of CPU times
/// in seconds, after a warm-up. The least is what a machine that others use too
/// disturbs least.
fn times(repeats: usize, mut call: impl FnMut() -> Result<Tensor>) -> Result<[f64; 3]> {
    call()?;
    let mut wall = Vec::with_capacity(repeats);
    let mut cpu = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        call()?;
        wall.push(start.elapsed().as_secs_f64());
        cpu.push(cpu_seconds() - cpu_start);
    }
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    Ok([wall[repeats / 2], wall[0], cpu[repeats / 2]])
}

/// Seconds that all threads of this process have run: what to compare on a
/// machine that others use too. 0 where the operating system is not Linux.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

struct Bytes(Vec<u64>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn weight(values: &[f32], dtype: DType) -> Result<Weight> {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let range = 0..bytes.len();
    let words = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
    Weight::stored("w", vec![OUT, IN], WeightType::Dense(dtype), Arc::new(Bytes(words)), range)
}

/// What is compared: our operations on as many rows of activations.
struct Bench<'a> {
    ops: &'a CpuOps,
    values: &'a [f32],
    rows: usize,
    x: Tensor,
    repeats: usize,
}

impl Bench<'_> {
    #[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
    fn compare(
        &self,
        name: &str,
        bytes: usize,
        ours: &dyn Linear,
        theirs: impl FnMut() -> Result<Tensor>,
    ) -> Result<()> {
        let [ours, ours_least, ours_cpu] = times(self.repeats, || ours.forward(&self.x))?;
        let [theirs, theirs_least, theirs_cpu] = times(self.repeats, theirs)?;
        let products = (self.rows * OUT * IN) as f64;
        println!(
            "rows {:>3} {name:>5}: {:>7.3} ms (least {:>7.3}, {:>7.3} CPU) {:>6.1} GMAC/s {:>5.1} GB/s; \
             Candle {:>7.3} ms (least {:>7.3}, {:>7.3} CPU) {:>6.1} GMAC/s",
            self.rows,
            ours * 1e3,
            ours_least * 1e3,
            ours_cpu * 1e3,
            products / ours / 1e9,
            bytes as f64 / ours / 1e9,
            theirs * 1e3,
            theirs_least * 1e3,
            theirs_cpu * 1e3,
            products / theirs / 1e9,
        );
        Ok(())
    }

    /// Candle's product of f32 activations needs the weight in f32.
    fn dense(&self, dtype: DType) -> Result<()> {
        let weight = weight(self.values, dtype)?;
        let linear = self.ops.linear(&weight, None)?;
        let matrix = weight.to_tensor(&Device::Cpu)?;
        let matrix = matrix.to_dtype(DType::F32).and_then(|m| m.t()).map_err(candle)?;
        let bytes = OUT * IN * dtype.size_in_bytes();
        self.compare(dtype.as_str(), bytes, &*linear, || self.x.matmul(&matrix).map_err(candle))
    }

    /// The same blocks for both, made by Candle.
    fn blocks(&self, kind: BlockType, dtype: GgmlDType) -> Result<()> {
        let values = Tensor::from_slice(self.values, (OUT, IN), &Device::Cpu).map_err(candle)?;
        let matrix = QTensor::quantize(&values, dtype).map_err(candle)?;
        let mut bytes = matrix.data().map_err(candle)?.into_owned();
        let range = 0..bytes.len();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let words = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let bytes = Arc::new(Bytes(words));
        let (shape, kind) = (vec![OUT, IN], WeightType::Blocks(kind));
        let weight = Weight::stored("w", shape, kind, bytes, range.clone())?;
        let linear = self.ops.linear(&weight, None)?;
        let theirs = QMatMul::from_qtensor(matrix).map_err(candle)?;
        self.compare(&kind.to_string(), range.len(), &*linear, || {
            theirs.forward(&self.x).map_err(candle)
        })
    }
}

fn candle(error: candle_core::Error) -> Error {
    Error::engine("candle", error)
}

/// The most bytes per second that as many threads read of memory that no cache
/// holds: what one row of activations is bound by.
fn read_bandwidth(threads: usize) -> f64 {
    /// Words per thread: 128 MiB.
    const WORDS: usize = 1 << 24;
    let memory = vec![1u64; WORDS * threads];
    let mut best = f64::INFINITY;
    for _ in 0..9 {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let parts = memory.chunks(WORDS);
            let sum = |part: &[u64]| part.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || sum(part))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
        });
        std::hint::black_box(sum);
        best = best.min(start.elapsed().as_secs_f64());
    }
    (memory.len() * size_of::<u64>()) as f64 / best
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut options = CpuOptions::new();
    options.threads.threads = args.next().and_then(|arg| arg.parse().ok());
    let types: Vec<String> = args.collect();
    let wanted = |name: &str| types.is_empty() || types.iter().any(|t| t == name);
    let ops = CpuOps::new(&options)?;
    println!("kernels {}, {} threads, weight [{OUT}, {IN}]", ops.tier(), ops.threads());
    println!("memory is read at {:.1} GB/s", read_bandwidth(ops.threads()) / 1e9);
    let values: Vec<f32> = (0..OUT * IN).map(|i| ((i % 8191) as f32 - 4095.0) / 4095.0).collect();
    for rows in [1, 4, 8, 16, 32, 64, 96, 128, 512] {
        let x: Vec<f32> = (0..rows * IN).map(|i| ((i % 1021) as f32 - 510.0) / 510.0).collect();
        let x = Tensor::from_vec(x, (rows, IN), &Device::Cpu).map_err(candle)?;
        let repeats = if rows >= 32 { 5 } else { 31 };
        let bench = Bench { ops: &ops, values: &values, rows, x, repeats };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            if wanted(dtype.as_str()) {
                bench.dense(dtype)?;
            }
        }
        for (kind, dtype) in [
            (BlockType::Q4_0, GgmlDType::Q4_0),
            (BlockType::Q8_0, GgmlDType::Q8_0),
            (BlockType::Q4K, GgmlDType::Q4K),
            (BlockType::Q5K, GgmlDType::Q5K),
            (BlockType::Q6K, GgmlDType::Q6K),
        ] {
            if wanted(&WeightType::Blocks(kind).to_string()) {
                bench.blocks(kind, dtype)?;
            }
        }
    }
    Ok(())
}
