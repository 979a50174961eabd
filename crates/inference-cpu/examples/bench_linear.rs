//! Compares affine maps with Candle's own matrix product, in one process.
//!
//! ```sh
//! cargo run --release -p inference-cpu --example bench_linear [THREADS]
//! ```

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use inference_candle::{Ops, Weight, WeightType};
use inference_core::Result;
use inference_cpu::{CpuOps, CpuOptions};

const OUT: usize = 8192;
const IN: usize = 2048;

/// The medians of `repeats` wall and CPU times in seconds, after a warm-up.
fn medians(repeats: usize, mut call: impl FnMut() -> Result<Tensor>) -> Result<(f64, f64)> {
    call()?;
    let mut wall = Vec::with_capacity(repeats);
    let mut cpu = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        call()?;
        wall.push(start.elapsed().as_secs_f64());
        cpu.push(cpu_seconds() - cpu_start);
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[repeats / 2]
    };
    Ok((median(wall), median(cpu)))
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

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let mut options = CpuOptions::new();
    options.threads = threads;
    let ops = CpuOps::new(&options)?;
    println!("kernels {}, {} threads, weight [{OUT}, {IN}]", ops.tier(), ops.threads());
    let values: Vec<f32> = (0..OUT * IN).map(|i| ((i % 8191) as f32 - 4095.0) / 4095.0).collect();
    let candle = |error| inference_core::Error::engine("candle", error);
    for rows in [1, 2, 4, 8, 16, 128] {
        let x: Vec<f32> = (0..rows * IN).map(|i| ((i % 1021) as f32 - 510.0) / 510.0).collect();
        let x = Tensor::from_vec(x, (rows, IN), &Device::Cpu).map_err(candle)?;
        let repeats = if rows == 128 { 9 } else { 31 };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let weight = weight(&values, dtype)?;
            let linear = ops.linear(&weight, None)?;
            let (ours, ours_cpu) = medians(repeats, || linear.forward(&x))?;
            // Candle's product of f32 activations needs the weight in f32.
            let matrix = weight.to_tensor(&Device::Cpu)?;
            let matrix = matrix.to_dtype(DType::F32).and_then(|m| m.t()).map_err(candle)?;
            let (theirs, theirs_cpu) = medians(repeats, || x.matmul(&matrix).map_err(candle))?;
            let operations = 2.0 * (rows * OUT * IN) as f64;
            let bytes = (OUT * IN * dtype.size_in_bytes()) as f64;
            println!(
                "rows {rows:>3} {dtype:?}: {:>7.3} ms ({:>7.3} CPU) {:>6.1} GFLOP/s {:>5.1} GB/s; \
                 Candle on f32 {:>7.3} ms ({:>7.3} CPU) {:>6.1} GFLOP/s",
                ours * 1e3,
                ours_cpu * 1e3,
                operations / ours / 1e9,
                bytes / ours / 1e9,
                theirs * 1e3,
                theirs_cpu * 1e3,
                operations / theirs / 1e9,
            );
        }
    }
    Ok(())
}
