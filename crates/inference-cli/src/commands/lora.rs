//! `inference lora`: adapters.

mod inspect;
mod loss_curve;
mod merge;
mod train;

use clap::Subcommand;

use crate::commands::Context;
use crate::failure::Result;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference lora train --model ./my-model --data train.jsonl --out ./my-adapter
  inference lora inspect ./my-adapter --model ./my-model
  inference lora merge ./my-model ./my-adapter ./merged
  inference lora merge ./my-model ./my-adapter merged.gguf --type Q4_K_M
  inference lora inspect ./my-adapter --json | jq .parameters
  inference generate --model ./my-model --adapter ./my-adapter=0.5 \"The sea\"";

/// Train adapters, look at them, or merge them into models
///
/// An adapter is a folder as PEFT or mlx-lm writes it, or a GGUF file of llama.cpp's. Other
/// commands use one with --adapter PATH[=SCALE].
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Merge(merge::Args),
    Train(Box<train::Args>),
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    match &args.command {
        Command::Inspect(args) => inspect::run(args, context),
        Command::Merge(args) => merge::run(args, context),
        Command::Train(args) => train::run(args, context),
    }
}
