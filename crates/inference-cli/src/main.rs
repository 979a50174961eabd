//! The `inference` command.
//!
//! `cli` is the grammar, `args` the argument groups that commands share, and
//! `commands` has a file per command. Text and JSON go to standard output
//! through [`output::Output`], everything else to standard error.

mod args;
mod cli;
mod commands;
mod failure;
mod input;
mod interrupt;
mod json;
mod load;
mod notes;
mod numbers;
mod output;
mod progress;
mod reply;
mod table;
mod text_parts;
mod tracing_log;

// The backends that no feature of the facade links: without their feature they
// register as unavailable and say why.
use {inference_cuda as _, inference_llamacpp as _, inference_metal as _};

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let context = commands::Context::new(&cli);
    match commands::run(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(context.json);
            ExitCode::from(failure.exit_code())
        }
    }
}
