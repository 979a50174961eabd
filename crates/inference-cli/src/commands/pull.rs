//! `inference pull`: a model from the Hugging Face hub.

use inference::discover::{HubOptions, pull};
use inference::{CancelToken, Error};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference pull org/name
  inference pull hf:org/name-GGUF:Q4_K_M
  inference pull org/name@v1.0 --json | jq -r .path";

/// Download a model from the Hugging Face hub
///
/// Into the cache that the hub's own tools use. A download that broke off is resumed, and every
/// file is compared with the hub's checksum. Prints the path, which --model takes as well as the
/// name; with --json {"path":…}. The environment variables HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
/// HF_TOKEN and HF_HUB_OFFLINE are honoured.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// ORG/NAME, with @REVISION and with :FILE.gguf or a part of its name such as :Q4_K_M
    #[arg(value_name = "MODEL")]
    model: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let fetch = |cancel: CancelToken| {
        let progress = progress::download_sink(context.notes);
        let options = HubOptions::from_env().with_progress(progress).with_cancel(cancel.clone());
        let failed = |error: Error| match cancel.is_cancelled() {
            true => Failure::Interrupted,
            false => Failure::Load(error),
        };
        pull(&args.model, &options).map_err(failed)
    };
    let resolved = context.interrupts.while_cancellable(fetch)?;
    let mut output = Output::new();
    if context.json {
        let store = resolved.store.map(|store| store.as_str());
        return output.json(&serde_json::json!({ "path": resolved.path, "store": store }));
    }
    output.line(&resolved.path.display().to_string())
}
