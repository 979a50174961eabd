//! `inference inspect`: what a model is made of, and what it needs.

mod bandwidth;
mod report;

use inference::discover::{BackendChecks, inspect};
use inference::{KvDtype, Registry};

use crate::args::{source, values};
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use report::Report;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference inspect ./my-model
  inference inspect model.gguf --context 32768 --kv-dtype f16
  inference inspect org/name --bandwidth 120G --json | jq .memory";

/// Show what a model is made of, and what it needs
///
/// Configuration, tensors by type, the memory to run one sequence of --context tokens, and how
/// fast memory lets it decode: every token reads its weights and its KV cache once, so tokens per
/// second are at most bandwidth / (weight bytes per token + KV bytes). The bandwidth of this
/// machine's memory is measured, in a fraction of a second, unless --bandwidth gives one. With
/// --verbose also every tensor. Only headers are read.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// As --model of the other commands: a path, a name in a local store, or demo
    #[arg(value_name = "MODEL")]
    model: String,

    /// Tokens of the sequence; default: the model's limit, at most 4096
    #[arg(long, value_name = "TOKENS")]
    context: Option<u64>,

    /// How keys and values are stored
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = values::kv_dtype())]
    kv_dtype: KvDtype,

    /// Bytes per second that memory delivers, such as 120G; default: measured
    #[arg(long, value_name = "BYTES", value_parser = values::byte_count)]
    bandwidth: Option<u64>,
}

/// The context where none is given and the model allows more.
const CONTEXT: u64 = 4096;

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let source = source::source(&args.model)?;
    let mut inspection = inspect(&source).map_err(Failure::Load)?;
    BackendChecks::new(Registry::global()).fill(&mut inspection.model);
    let limit = inspection.geometry.context_len;
    let tokens = match (args.context, limit) {
        (Some(0), _) => return Err(Failure::Usage("--context: expected at least 1".to_owned())),
        (Some(asked), Some(limit)) if asked > limit => {
            let message = format!("--context {asked}: the model was made for {limit} tokens");
            return Err(Failure::Usage(message));
        }
        (Some(asked), _) => asked,
        (None, limit) => limit.unwrap_or(CONTEXT).min(CONTEXT),
    };
    if args.bandwidth == Some(0) {
        return Err(Failure::Usage("--bandwidth: expected more than 0".to_owned()));
    }
    let bandwidth = args.bandwidth.map_or_else(bandwidth::measure, |bytes| bytes as f64);
    let report = Report {
        inspection: &inspection,
        context: tokens,
        kv_dtype: args.kv_dtype,
        bandwidth,
        measured: args.bandwidth.is_none(),
    };
    let mut output = Output::new();
    match context.json {
        true => output.json(&report.json()),
        false => output.text(&report.text(context.verbose > 0)),
    }
}
