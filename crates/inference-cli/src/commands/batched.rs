//! `inference batched`: many small networks at once.

mod bench;
mod rows;
mod run;

use clap::Subcommand;
use inference::batched::{BatchedOptions, WeightDtype};

use crate::commands::Context;
use crate::failure::Result;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference batched bench --models 1000 --widths 16,32,8
  inference batched run --weights sensors.safetensors --inputs rows.csv
  inference batched run --weights folder --inputs rows.json --models 7,9 --json";

/// Evaluate many small networks of one shape at once, or measure it
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Measure how fast random networks of a shape are evaluated
    Bench(bench::Args),
    /// Evaluate rows of inputs
    Run(run::Args),
}

/// How networks are kept and computed.
#[derive(clap::Args, Debug)]
struct Compute {
    /// Worker threads; default: all
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// How weights are stored: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value_t = WeightDtype::F32)]
    dtype: WeightDtype,
}

impl Compute {
    fn options(&self) -> BatchedOptions {
        let mut options = BatchedOptions::new().with_dtype(self.dtype);
        options.threads = self.threads;
        options
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    match &args.action {
        Action::Bench(args) => bench::run(args, context),
        Action::Run(args) => run::run(args, context),
    }
}
