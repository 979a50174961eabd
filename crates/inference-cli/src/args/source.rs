//! Which model.

use clap::Args;
use inference::ModelSource;

use crate::failure::{Failure, Result};

/// The name of the embedded model.
const DEMO: &str = "demo";

/// Which model to use.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct SourceArgs {
    /// A folder, a GGUF file, ORG/NAME or hf:ORG/NAME:FILE.gguf of a local store, or
    /// ollama:NAME:TAG; default: the embedded model
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
}

impl SourceArgs {
    pub(crate) fn source(&self) -> Result<ModelSource> {
        match &self.model {
            Some(model) => source(model),
            None => Ok(inference::demo()),
        }
    }

    /// What to call the model in a report.
    pub(crate) fn label(&self) -> String {
        self.model.clone().unwrap_or_else(|| inference::demo().to_string())
    }

    /// Whether the embedded model is meant.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.source(), Ok(ModelSource::Embedded(_)))
    }
}

/// The model that a text names: a path or a model of a local store, and where
/// there is no such path `demo` is the embedded one. The network is never asked.
pub(crate) fn source(model: &str) -> Result<ModelSource> {
    if model == DEMO && std::fs::symlink_metadata(model).is_err() {
        return Ok(inference::demo());
    }
    Ok(inference::discover::resolve(model).map_err(Failure::Load)?.into())
}
