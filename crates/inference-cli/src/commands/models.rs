//! `inference models`: what models are on this machine.

use std::path::PathBuf;

use inference::discover::{BackendChecks, Discover, DiscoverOptions, Stores};
use inference::{DiscoveredModel, Error, Registry};
use serde::Serialize;

use crate::commands::Context;
use crate::failure::{Detail, Failure, Result};
use crate::output::Output;
use crate::{numbers, table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference models
  inference models ./models /data/gguf --depth 3
  inference models --json | jq -r '.models[] | select(.format == \"gguf\") | .path'";

/// List the models of this machine
///
/// Without a folder: those in the stores of the Hugging Face hub, LM Studio, llama.cpp and Ollama,
/// by names that --model takes. Only headers are read. What is malformed or incomplete is told on
/// standard error, below the table. With --verbose also why a backend cannot load a model, license
/// and path. With --json: {"models":[…],"errors":[…]}.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folders (or files) to look in, instead of the stores
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,

    /// Folders below each DIR to enter, in levels
    #[arg(long, value_name = "N", requires = "folders")]
    depth: Option<usize>,

    /// Enter folders whose names begin with a dot
    #[arg(long, requires = "folders")]
    hidden: bool,
}

#[derive(Serialize)]
struct Json {
    models: Vec<DiscoveredModel>,
    errors: Vec<Detail>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let checks = BackendChecks::new(Registry::global());
    let (mut models, mut failures) = (Vec::new(), Vec::new());
    for found in find(args) {
        match found {
            Ok(mut model) => {
                checks.fill(&mut model);
                models.push(model);
            }
            Err(error) => failures.push(Failure::Load(error)),
        }
    }
    // A folder that was asked for and cannot be read at all is no listing.
    let nothing = models.is_empty() && !args.folders.is_empty();
    let missing = |folder: &PathBuf| !folder.exists();
    if nothing && args.folders.iter().all(missing) {
        return Err(failures.swap_remove(0));
    }
    let mut output = Output::new();
    if context.json {
        let errors = failures.iter().map(Failure::detail).collect();
        return output.json(&Json { models, errors });
    }
    output.text(&listing(args, &models, context.verbose > 0))?;
    for failure in &failures {
        failure.report(false);
    }
    if models.is_empty() && failures.is_empty() {
        context.notes.note(match args.folders.is_empty() {
            true => "no store of this machine has a model; `inference pull` fetches one",
            false => "no model was found",
        });
    }
    Ok(())
}

/// What was found: in the folders, or in the stores.
fn find(args: &Args) -> Box<dyn Iterator<Item = std::result::Result<DiscoveredModel, Error>> + '_> {
    if args.folders.is_empty() {
        return Box::new(Stores::from_env().models());
    }
    let mut options = DiscoverOptions::new().with_hidden(args.hidden);
    if let Some(levels) = args.depth {
        options = options.with_max_depth(levels);
    }
    Box::new(args.folders.iter().flat_map(move |root| Discover::new(root, options.clone())))
}

/// The models as a table.
fn listing(args: &Args, models: &[DiscoveredModel], verbose: bool) -> String {
    if models.is_empty() {
        return String::new();
    }
    let heading =
        ["MODEL", "FORMAT", "ARCHITECTURE", "PARAMS", "SIZE", "TYPE", "CONTEXT", "BACKENDS"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for model in models {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            // What --model takes.
            match args.folders.is_empty() {
                true => model.name.clone(),
                false => model.path.display().to_string(),
            },
            model.format.clone(),
            or_dash(model.architecture.clone()),
            or_dash(model.parameters.map(numbers::parameters)),
            table::bytes(model.bytes),
            or_dash(model.dtype.clone()),
            or_dash(model.context_len.map(|tokens| tokens.to_string())),
            backends(model),
        ]);
    }
    let mut text = table::render(&rows, usize::MAX);
    if verbose {
        for model in models {
            text.push_str(&format!("\n{}\n{}", model.name, details(model)));
        }
    }
    text
}

/// The backends that can load it.
fn backends(model: &DiscoveredModel) -> String {
    if model.is_adapter {
        return "(adapter)".to_owned();
    }
    let ready = model.backends.iter().filter(|(_, reason)| reason.is_none());
    let names: Vec<&str> = ready.map(|(name, _)| &**name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn details(model: &DiscoveredModel) -> String {
    let mut rows = vec![vec!["  path".to_owned(), model.path.display().to_string()]];
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![format!("  {name}"), value]));
    };
    row("license", model.license.clone());
    row("base model", model.base_model.clone());
    row("chat template", Some(if model.has_chat_template { "yes" } else { "no" }.to_owned()));
    for (name, reason) in &model.backends {
        row(name, Some(reason.clone().unwrap_or_else(|| "can load it".to_owned())));
    }
    table::render(&rows, table::terminal_width())
}
