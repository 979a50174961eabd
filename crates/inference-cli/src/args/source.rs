//! Which model.

use std::path::PathBuf;

use clap::Args;
use inference::ModelSource;

/// Which model to use.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct SourceArgs {
    /// Model folder; default: the embedded model
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
}

impl SourceArgs {
    pub(crate) fn source(&self) -> ModelSource {
        match &self.model {
            Some(path) => path.clone().into(),
            None => inference::demo(),
        }
    }

    /// What to call the model in a report.
    pub(crate) fn label(&self) -> String {
        self.source().to_string()
    }

    /// Whether no model was named.
    pub(crate) fn is_embedded(&self) -> bool {
        self.model.is_none()
    }
}
