//! `inference batched bench`.

use std::time::Instant;

use inference::batched::{
    Activation, Architecture, BatchedInference, BatchedWeights, Device, Request,
};
use inference::{CancelToken, ErrorKind};
use serde::Serialize;

use super::Compute;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::table;

/// Measure how fast random networks of a shape are evaluated
///
/// One call evaluates all networks. Calls are repeated for about the time given, and the median,
/// the least and the most of their times are printed, with the bytes of weights that are read per
/// second. With --json: one object.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How many networks
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    models: u32,

    /// Inputs, hidden widths and outputs
    #[arg(long, value_name = "N,N,…", default_value = "16,32,8", value_delimiter = ',')]
    widths: Vec<usize>,

    /// After every layer but the last: none, relu, leaky_relu(SLOPE), tanh, sigmoid, gelu,
    /// gelu_tanh or silu
    #[arg(long, value_name = "NAME", default_value = "relu")]
    activation: Activation,

    /// Rows of inputs for each network
    #[arg(long, value_name = "N", default_value_t = 1)]
    rows: usize,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,

    #[command(flatten)]
    compute: Compute,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("expected more than 0 and at most 3600".to_owned()),
    }
}

#[derive(Serialize)]
struct Report {
    models: u32,
    widths: Vec<usize>,
    activation: String,
    rows: usize,
    dtype: &'static str,
    threads: usize,
    kernels: String,
    weight_bytes: usize,
    calls: usize,
    median_us: f64,
    min_us: f64,
    max_us: f64,
    models_per_sec: f64,
    weight_bytes_per_sec: f64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<()> {
    let architecture = Architecture::mlp(&args.widths, args.activation, Activation::None)
        .map_err(Failure::Request)?;
    let models = args.models as usize;
    let weights = random_weights(models, &architecture).map_err(Failure::Request)?;
    let group = BatchedInference::from_weights(&weights, Device::cpu(), &args.compute.options())
        .map_err(Failure::Load)?;
    let counts = vec![args.rows; models];
    let too_many = || Failure::Usage(format!("--rows {}: too many", args.rows));
    let rows = models.checked_mul(args.rows).ok_or_else(too_many)?;
    let inputs = vec![0.5; rows.checked_mul(architecture.inputs()).ok_or_else(too_many)?];
    let mut outputs = vec![0.0; rows.checked_mul(architecture.outputs()).ok_or_else(too_many)?];
    let mut times = context.interrupts.while_cancellable(|cancel: CancelToken| {
        let mut request = Request::new(&inputs).with_cancel(&cancel);
        if args.rows != 1 {
            request = request.with_rows(&counts);
        }
        let mut call = || {
            let began = Instant::now();
            match group.run_into(&request, &mut outputs) {
                Ok(()) => Ok(began.elapsed().as_secs_f64()),
                Err(error) if error.kind() == ErrorKind::Cancelled => Err(Failure::Interrupted),
                Err(error) => Err(Failure::Request(error)),
            }
        };
        for _ in 0..3 {
            call()?;
        }
        let began = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || began.elapsed().as_secs_f64() < args.seconds {
            times.push(call()?);
        }
        Ok(times)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    let median = at(times.len() / 2);
    let report = Report {
        models: args.models,
        widths: args.widths.clone(),
        activation: args.activation.to_string(),
        rows: args.rows,
        dtype: group.dtype().as_str(),
        threads: group.threads(),
        kernels: group.kernels().to_owned(),
        weight_bytes: group.weight_bytes(),
        calls: times.len(),
        median_us: median * 1e6,
        min_us: at(0) * 1e6,
        max_us: at(times.len() - 1) * 1e6,
        models_per_sec: models as f64 / median,
        weight_bytes_per_sec: group.weight_bytes() as f64 / median,
    };
    let mut output = Output::new();
    if context.json {
        return output.json(&report);
    }
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = [
        line("weights", format!("{}, {}", table::bytes(report.weight_bytes as u64), report.dtype)),
        line("kernels", format!("{}, {} threads", report.kernels, report.threads)),
        line(
            "call",
            format!(
                "{:.1} µs (median of {}; {:.1} to {:.1})",
                report.median_us, report.calls, report.min_us, report.max_us
            ),
        ),
        line("networks", format!("{:.0} per second", report.models_per_sec)),
        line("read", format!("{:.1} GB/s of weights", report.weight_bytes_per_sec / 1e9)),
    ];
    output.text(&table::render(&rows, table::terminal_width()))
}

/// Weights whose values do not matter, but are neither zero nor subnormal.
fn random_weights(models: usize, architecture: &Architecture) -> inference::Result<BatchedWeights> {
    let mut weights = BatchedWeights::new(models, architecture)?;
    for index in 0..models {
        let mut named = Vec::new();
        for (at, layer) in architecture.layers.iter().enumerate() {
            let number = |i: usize| ((i * 37 + index * 11) % 101) as f32 / 505.0 - 0.1003;
            let weight: Vec<f32> = (0..layer.inputs * layer.outputs).map(number).collect();
            named.push((format!("layer_{at}"), weight));
            named.push((format!("layer_{at}.bias"), (0..layer.outputs).map(number).collect()));
        }
        weights.load_weights(index, named)?;
    }
    Ok(weights)
}
