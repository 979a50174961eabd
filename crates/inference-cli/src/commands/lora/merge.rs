//! `inference lora merge`: a model with an adapter, as a model of its own.

use std::path::{Path, PathBuf};

use inference::lora::{MergeAdapter, MergeOptions, MergeReport, merge_model};
use inference::quantize::{FileType, QuantizeOptions, QuantizeReport, quantize_model};
use inference::{CancelToken, Error};
use serde::Serialize;

use crate::args::source::source;
use crate::args::values;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress;

/// Write a model with an adapter merged into it
///
/// Without --type a folder of safetensors, of the same types and with everything that lies beside
/// them; with --type a GGUF file, as `inference quantize` writes it. What is written is whole when
/// it appears. With --json: {"path":…,"bytes":…} and, of a folder, "changed" and "untied_head".
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A folder, a GGUF file, or what else --model takes in other commands
    #[arg(value_name = "MODEL")]
    model: String,

    /// The adapter; with =SCALE times a factor
    #[arg(value_name = "ADAPTER[=SCALE]", value_parser = values::adapter)]
    adapter: (PathBuf, f32),

    /// The folder, or the GGUF file, to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Write a GGUF file of this kind
    #[arg(short, long = "type", value_name = "TYPE", ignore_case = true, value_parser = values::file_type())]
    kind: Option<FileType>,

    /// Quantize what is quantized already; this adds errors to errors
    #[arg(long, requires = "kind")]
    requantize: bool,

    /// Replace the GGUF file if it is there
    #[arg(short, long, requires = "kind")]
    force: bool,

    /// Leave out tensors of the adapter that match no module of the model, and do without modules
    /// that its configuration promises
    #[arg(long)]
    lenient: bool,

    /// Worker threads of quantizing; default: all
    #[arg(long, value_name = "N", requires = "kind")]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct Json<'a> {
    path: &'a Path,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    untied_head: Option<bool>,
}

enum Written {
    Folder(MergeReport),
    Gguf(QuantizeReport),
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let source = source(&args.model)?;
    let (path, scale) = &args.adapter;
    let adapter = MergeAdapter::new(path).with_scale(*scale).with_lenient(args.lenient);
    let sink = progress::sink(context.notes);
    let written = context.interrupts.while_cancellable(|cancel: CancelToken| {
        let token = cancel.clone();
        let result = match args.kind {
            None => {
                let options = MergeOptions::new().with_progress(sink).with_cancel(token);
                merge_model(&source, &adapter, &args.output, &options).map(Written::Folder)
            }
            Some(kind) => {
                let mut options = QuantizeOptions::new(kind)
                    .with_adapter(adapter)
                    .with_requantize(args.requantize)
                    .with_overwrite(args.force)
                    .with_progress(sink)
                    .with_cancel(token);
                options.threads = args.threads;
                quantize_model(&source, &args.output, &options).map(Written::Gguf)
            }
        };
        result.map_err(|error: Error| {
            if cancel.is_cancelled() { Failure::Interrupted } else { Failure::Load(error) }
        })
    })?;
    let (bytes, changed, untied_head) = match &written {
        Written::Gguf(report) => (report.bytes, None, None),
        Written::Folder(report) => {
            for tensor in &report.unmatched {
                context.notes.note(&format!("left out: `{tensor}`, which is none of the model's"));
            }
            for module in &report.missing {
                context.notes.note(&format!("promised and missing: `{module}`"));
            }
            (report.bytes, Some(report.changed), Some(report.untied_head))
        }
    };
    let mut output = Output::new();
    if context.json {
        return output.json(&Json { path: &args.output, bytes, changed, untied_head });
    }
    if untied_head == Some(true) {
        context.notes.note("the output head is a weight of its own now");
    }
    let changed = changed.map_or_else(String::new, |count| format!(", {count} tensors changed"));
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    output.line(&format!("{}: {mebibytes:.1} MiB{changed}", args.output.display()))
}
