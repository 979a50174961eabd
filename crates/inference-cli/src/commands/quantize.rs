//! `inference quantize`: a model as a quantized GGUF file.

use std::path::PathBuf;

use inference::quantize::{FileType, QuantizeOptions, quantize_model};
use inference::{CancelToken, Error};
use serde::Serialize;

use crate::args::source::source;
use crate::args::values;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{progress, table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference quantize ./my-model my-model-Q4_K_M.gguf --type Q4_K_M
  inference quantize my-model-F16.gguf small.gguf --type Q3_K_M --imatrix imatrix.gguf
  inference quantize org/name name-BF16.gguf --type BF16 --json";

/// Write a model as a GGUF file, quantized
///
/// From a folder of safetensors (converted with tokenizer and chat template) or from a GGUF file
/// (whose metadata is kept). Types ending in _M, _S and _L give more bits to the tensors that
/// suffer most, as llama.cpp does; norms stay F32. The file appears when it is whole. With --json:
/// {"path":…,"bytes":…,"parameters":…,"bits_per_weight":…,"types":[{"type":…,"tensors":…,"bytes":…}]}.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A folder, a GGUF file, or what else --model takes in other commands
    #[arg(value_name = "IN")]
    input: String,

    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// The kind of file
    #[arg(short, long = "type", value_name = "TYPE", ignore_case = true, value_parser = values::file_type())]
    kind: FileType,

    /// An importance matrix (GGUF or .dat, as llama-imatrix writes them)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// One type for all matrices, without mixture
    #[arg(long)]
    pure: bool,

    /// Quantize what is quantized already; this adds errors to errors
    #[arg(long)]
    requantize: bool,

    /// The kind of pre-tokenizer to name (tokenizer.ggml.pre), where none is recognised
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,

    /// Replace the file if it is there
    #[arg(short, long)]
    force: bool,

    /// Worker threads; default: all
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct Json<'a> {
    path: &'a std::path::Path,
    bytes: u64,
    parameters: u64,
    bits_per_weight: f64,
    types: Vec<TypeJson>,
}

#[derive(Serialize)]
struct TypeJson {
    #[serde(rename = "type")]
    kind: &'static str,
    tensors: usize,
    bytes: u64,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let source = source(&args.input)?;
    let mut options = QuantizeOptions::new(args.kind)
        .with_pure(args.pure)
        .with_requantize(args.requantize)
        .with_overwrite(args.force)
        .with_progress(progress::sink(context.notes));
    options.imatrix.clone_from(&args.imatrix);
    options.pre_tokenizer.clone_from(&args.pre);
    options.threads = args.threads;
    let report = context.interrupts.while_cancellable(|cancel: CancelToken| {
        let options = options.with_cancel(cancel.clone());
        quantize_model(&source, &args.output, &options).map_err(|error: Error| {
            if cancel.is_cancelled() { Failure::Interrupted } else { Failure::Load(error) }
        })
    })?;
    let bits_per_weight = report.bytes as f64 * 8.0 / report.parameters.max(1) as f64;
    let mut output = Output::new();
    if context.json {
        let types = report.types.iter().map(|(kind, tensors, bytes)| TypeJson {
            kind: kind.as_str(),
            tensors: *tensors,
            bytes: *bytes,
        });
        return output.json(&Json {
            path: &args.output,
            bytes: report.bytes,
            parameters: report.parameters,
            bits_per_weight,
            types: types.collect(),
        });
    }
    let mut rows = vec![["type", "tensors", "       MiB"].map(str::to_owned).to_vec()];
    let mebibytes = |bytes: u64| format!("{:10.1}", bytes as f64 / f64::from(1 << 20));
    for (kind, tensors, bytes) in &report.types {
        rows.push(vec![kind.to_string(), format!("{tensors:7}"), mebibytes(*bytes)]);
    }
    output.text(&table::render(&rows, table::terminal_width()))?;
    output.line(&format!(
        "{}: {} MiB, {bits_per_weight:.2} bits per weight",
        args.output.display(),
        mebibytes(report.bytes).trim_start()
    ))
}
