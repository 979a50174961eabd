//! `inference batched run`.

use std::path::PathBuf;

use inference::batched::{
    Architecture, BatchedInference, BatchedWeights, Device, Request, from_folder,
};
use inference::{CancelToken, ErrorKind};
use serde::Serialize;

use super::{Compute, rows};
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Evaluate rows of inputs
///
/// Row i is for network i, or for the i-th of --models. Outputs are lines of numbers with commas
/// between them, in the order of the rows. With --json: {"model":…,"outputs":[…]} per row.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A safetensors file with the weights of all networks, or a folder with a safetensors or
    /// ONNX file for each
    #[arg(long, value_name = "PATH")]
    weights: PathBuf,

    /// Rows: a JSON array of arrays (*.json), or lines of numbers with commas between them
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,

    /// Which networks, by index, in the order of the rows; one may come more than once; default:
    /// all
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    models: Option<Vec<usize>>,

    /// The layers, as JSON, where the weights do not say:
    /// {"layers":[{"inputs":4,"outputs":8,"activation":"relu"},…]}
    #[arg(long, value_name = "FILE")]
    architecture: Option<PathBuf>,

    #[command(flatten)]
    compute: Compute,
}

#[derive(Serialize)]
struct Row<'a> {
    model: usize,
    outputs: &'a [f32],
}

pub(super) fn run(args: &Args, context: &Context) -> Result<()> {
    let architecture = match &args.architecture {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Failure::Input {
                what: format!("reading {}", path.display()),
                source,
            })?;
            let architecture: Architecture = serde_json::from_str(&text)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            architecture.validate().map_err(Failure::Request)?;
            Some(architecture)
        }
    };
    let weights = if args.weights.is_dir() {
        from_folder(&args.weights, architecture.as_ref()).map(|import| import.weights)
    } else {
        match &architecture {
            None => BatchedWeights::load(&args.weights),
            Some(architecture) => BatchedWeights::load_as(&args.weights, architecture),
        }
    };
    let weights = weights.map_err(Failure::Load)?;
    let inputs = rows::read(&args.inputs, weights.architecture().inputs())?;
    let group = BatchedInference::from_weights(&weights, Device::cpu(), &args.compute.options())
        .map_err(Failure::Load)?;
    drop(weights);
    let outputs = context.interrupts.while_cancellable(|cancel: CancelToken| {
        let mut request = Request::new(&inputs).with_cancel(&cancel);
        if let Some(models) = &args.models {
            request = request.with_models(models);
        }
        group.run(&request).map_err(|error| match error.kind() {
            ErrorKind::Cancelled => Failure::Interrupted,
            _ => Failure::Request(error),
        })
    })?;
    let mut output = Output::new();
    let width = group.architecture().outputs();
    for (at, outputs) in outputs.chunks(width).enumerate() {
        let model = args.models.as_ref().and_then(|models| models.get(at)).copied().unwrap_or(at);
        if context.json {
            output.json(&Row { model, outputs })?;
        } else {
            let numbers: Vec<_> = outputs.iter().map(ToString::to_string).collect();
            output.line(&numbers.join(","))?;
        }
    }
    Ok(())
}
