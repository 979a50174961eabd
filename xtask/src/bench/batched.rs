//! `cargo xtask bench batched`: many small models at once, beside other ways to
//! evaluate them.

mod bandwidth;
mod candle_peer;
mod gemm_peer;
mod ours;
mod python_peer;
mod shape;

use std::path::PathBuf;

use clap::Args;
use inference_batched::{WeightDtype, WeightLayout};
use serde_json::{Value, json};

use super::machine::Machine;
use crate::Result;
use python_peer::PythonPeer;
use shape::Shape;

/// A contender's measurements of one shape: seconds per call, a round each.
struct Column {
    name: String,
    seconds: Vec<f64>,
}

/// Measure many small models at once beside other ways to evaluate them
///
/// One row per model. A round measures each contender once, one after the other, so that a
/// machine that drifts drifts for all; ratios are medians of the ratios within a round.
/// Contenders in this process: ours, a loop over Candle's products, a loop over the `gemm`
/// crate's. With --python also numpy's and PyTorch's batched products, where installed; PyTorch
/// with one thread or all, whichever is faster. Candle's threads are those of RAYON_NUM_THREADS;
/// for products as small as these, 1 is its best.
#[derive(Debug, Args)]
pub(crate) struct BatchedBench {
    /// Threads of ours and of PyTorch; default: all
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds that each median is taken of
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// A Python with numpy, and PyTorch if it is to be measured
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// How ours stores weights: f32, f16 or bf16; peers have f32
    #[arg(long, default_value_t = WeightDtype::F32)]
    dtype: WeightDtype,
    /// How ours lays weights out; default: by the size of a model
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Other shapes than the four, such as `1000x16-32-8`
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<Shape>,
    /// Write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Layout {
    PerModel,
    Interleaved,
}

impl BatchedBench {
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    pub(crate) fn run(&self) -> Result<()> {
        let machine = Machine::describe()?;
        let threads = match self.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()?.get(),
        };
        println!("{machine}; {threads} threads; medians of {} rounds", self.rounds);
        let shapes = if self.shape.is_empty() { Shape::standard()? } else { self.shape.clone() };
        let mut reports = Vec::new();
        for shape in &shapes {
            reports.push(self.measure(shape, threads)?);
        }
        if let Some(path) = &self.json {
            let report = json!({
                "machine": machine.to_json(), "threads": threads, "rounds": self.rounds,
                "dtype": self.dtype.as_str(), "shapes": reports,
            });
            std::fs::write(path, format!("{report:#}\n"))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// All contenders on one shape.
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    fn measure(&self, shape: &Shape, threads: usize) -> Result<Value> {
        let layout = self.layout.map(|layout| match layout {
            Layout::PerModel => WeightLayout::PerModel,
            Layout::Interleaved => WeightLayout::Interleaved,
        });
        let models = shape.random_models();
        let inputs = shape.random_inputs();
        let mut ours = ours::Ours::new(shape, &models, &inputs, threads, self.dtype, layout)?;
        let mut candle = candle_peer::CandlePeer::new(shape, &models, &inputs)?;
        let mut gemm = gemm_peer::GemmPeer::new(shape, &models, &inputs);
        let mut python = match &self.python {
            Some(path) => Some(PythonPeer::start(path, shape, threads)?),
            None => None,
        };
        // What is compared computes the same.
        let expected = candle.outputs()?;
        let tolerance = if self.dtype == WeightDtype::F32 { 1e-4 } else { 0.1 };
        agree("ours", ours.outputs(), &expected, tolerance)?;
        agree("gemm", gemm.outputs(), &expected, 1e-4)?;

        let mut columns = vec![Column::new("ours"), Column::new("candle"), Column::new("gemm")];
        let names = python.as_ref().map(|python| python.names().to_vec()).unwrap_or_default();
        columns.extend(names.iter().map(|name| Column::new(name)));
        // Memory as fast as it is at that moment, where memory is the limit.
        let reader = bandwidth::Reader::new(shape.weight_bytes(), threads)?;
        let mut bandwidths = Vec::new();
        for round in 0..=self.rounds {
            let mut times = vec![
                timed(&mut || ours.call())?,
                timed(&mut || candle.call())?,
                timed(&mut || gemm.call())?,
            ];
            if let Some(python) = &mut python {
                for name in &names {
                    times.push(python.seconds(name)?);
                }
            }
            let bandwidth = reader.bytes_per_sec(&mut |read| timed(read))?;
            // The first round warms up.
            if round > 0 {
                bandwidths.push(bandwidth);
                for (column, time) in columns.iter_mut().zip(times) {
                    column.seconds.push(time);
                }
            }
        }
        let weights = ours.weight_bytes();
        println!("\n{shape}: {:.1} MB of weights, {}", weights as f64 / 1e6, ours.describe());
        let base = columns[0].seconds.clone();
        let mut rows = Vec::new();
        for column in &columns {
            let (time, ratio) = (median(&column.seconds), column.ratio(&base));
            let rate = shape.weight_bytes() as f64 / time / 1e9;
            println!(
                "  {:<8} {:>10.1} us  {ratio:>7.2} x ours  {rate:>6.1} GB/s as f32",
                column.name,
                time * 1e6
            );
            rows.push(json!({
                "name": column.name, "seconds": column.seconds, "median_seconds": time,
                "ratio_to_ours": ratio,
            }));
        }
        let shares: Vec<f64> = base
            .iter()
            .zip(&bandwidths)
            .map(|(time, bandwidth)| weights as f64 / time / bandwidth)
            .collect();
        let (reached, all) = (weights as f64 / median(&base), median(&bandwidths));
        println!(
            "  {:.1} GB/s of weights read; a sum of as many bytes {:.1} GB/s; share {:.0} %",
            reached / 1e9,
            all / 1e9,
            100.0 * median(&shares)
        );
        Ok(json!({
            "shape": shape.to_string(), "weight_bytes": weights, "contenders": rows,
            "bytes_per_sec": reached, "machine_bytes_per_sec": all,
            "bandwidth_share": median(&shares), "kernels": ours.describe(),
        }))
    }
}

impl Column {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seconds: Vec::new() }
    }

    /// How many times as long as `base`, by rounds.
    fn ratio(&self, base: &[f64]) -> f64 {
        let ratios: Vec<f64> =
            self.seconds.iter().zip(base).map(|(time, base)| time / base).collect();
        median(&ratios)
    }
}

/// Seconds per call: the mean of as many calls as take 30 ms, at least three.
fn timed(call: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let began = std::time::Instant::now();
    let mut calls = 0u32;
    while calls < 3 || began.elapsed().as_millis() < 30 {
        call()?;
        calls += 1;
    }
    Ok(began.elapsed().as_secs_f64() / f64::from(calls))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(sorted.len().saturating_sub(1) / 2) + at(sorted.len() / 2)) / 2.0
}

/// Whether two contenders computed the same.
fn agree(name: &str, found: &[f32], expected: &[f32], tolerance: f32) -> Result<()> {
    let far = |(found, expected): (&f32, &f32)| {
        // NaN is far from everything.
        let near = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
        !near
    };
    if found.len() != expected.len() || found.iter().zip(expected).any(far) {
        return Err(format!("{name} does not compute what candle does").into());
    }
    Ok(())
}
