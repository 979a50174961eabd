//! `inference lora inspect`: what an adapter is made of, and whether it fits a
//! model.

use std::path::PathBuf;

use inference::lora::{AdapterFiles, ReadAdapter, ReadOptions, TensorEntry, modules};
use serde::Serialize;

use crate::args::source::source;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::table;

/// Show what an adapter is made of, and whether it fits a model
///
/// The format, the fields of its configuration, and its tensors. With --model the adapter is read
/// and compared with the model's modules; what does not match is listed and the command fails.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A folder of PEFT's or mlx-lm's files, or a GGUF file
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,

    /// The model to compare with, as --model of the other commands
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    format: &'a str,
    parameters: usize,
    settings: serde_json::Map<String, serde_json::Value>,
    tensors: Vec<TensorJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<Fit<'a>>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    shape: &'a [usize],
}

/// How an adapter fits a model.
#[derive(Serialize)]
struct Fit<'a> {
    rank: usize,
    modules: usize,
    replaced: Vec<&'a str>,
    unmatched: &'a [String],
    missing: &'a [String],
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let files = AdapterFiles::open(&args.adapter).map_err(Failure::Load)?;
    let tensors = files.tensors().map_err(Failure::Load)?;
    let settings = files.settings().map_err(Failure::Load)?;
    let read = match &args.model {
        None => None,
        Some(model) => {
            let table = modules(&source(model)?).map_err(Failure::Load)?;
            let lenient = ReadOptions::new().with_lenient(true);
            let read = files.read(&table, lenient).map_err(Failure::Load)?;
            Some((table, read))
        }
    };
    let mut output = Output::new();
    let fit = read.as_ref().map(|(_, read)| Fit::of(read));
    if context.json {
        let value = |text: String| serde_json::from_str(&text).unwrap_or(text.into());
        output.json(&Json {
            format: files.format().as_str(),
            parameters: parameters(&tensors),
            settings: settings.into_iter().map(|(name, text)| (name, value(text))).collect(),
            tensors: tensors
                .iter()
                .map(|t| TensorJson { name: &t.name, kind: &t.kind, shape: &t.shape })
                .collect(),
            fit,
        })?;
    } else {
        let mut rows = vec![vec!["format".to_owned(), files.format().to_string()]];
        rows.push(vec!["parameters".to_owned(), parameters(&tensors).to_string()]);
        rows.extend(settings.into_iter().map(|(name, value)| vec![name, value]));
        if let Some(fit) = &fit {
            rows.push(vec!["fits".to_owned(), fit.to_string()]);
        }
        let width = table::terminal_width();
        output.text(&table::render(&rows, width))?;
        output.line("")?;
        let row = |t: &TensorEntry| vec![t.kind.clone(), format!("{:?}", t.shape), t.name.clone()];
        output.text(&table::render(&tensors.iter().map(row).collect::<Vec<_>>(), width))?;
    }
    // The strict reading says what is wrong.
    match read {
        Some((table, read)) if !read.unmatched.is_empty() || !read.missing.is_empty() => {
            let strict = files.read(&table, ReadOptions::new());
            strict.map(|_| ()).map_err(Failure::Load)
        }
        _ => Ok(()),
    }
}

impl<'a> Fit<'a> {
    fn of(read: &'a ReadAdapter) -> Self {
        let weights = &read.weights;
        let replaced = weights.weights.keys().chain(weights.biases.keys());
        Self {
            rank: weights.rank(),
            modules: weights.modules.len(),
            replaced: replaced.map(String::as_str).collect(),
            unmatched: &read.unmatched,
            missing: &read.missing,
        }
    }
}

impl std::fmt::Display for Fit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} modules, rank {}", self.modules, self.rank)?;
        for (what, names) in [
            ("replaced", self.replaced.join(", ")),
            ("no such module", self.unmatched.join(", ")),
            ("promised and missing", self.missing.join(", ")),
        ] {
            if !names.is_empty() {
                write!(f, "; {what}: {names}")?;
            }
        }
        Ok(())
    }
}

fn parameters(tensors: &[TensorEntry]) -> usize {
    tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
}
