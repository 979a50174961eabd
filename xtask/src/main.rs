//! Chores of this repository: `cargo xtask COMMAND`.

mod bench;
mod conformance;
mod demo;
mod eval_demo;
mod fuzz_seeds;
mod lora_demo;
mod lora_interop;
mod train_demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a command returns: any error, printed by `main`.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Chores of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    TrainDemo(train_demo::TrainDemo),
    EvalDemo(eval_demo::EvalDemo),
    FuzzSeeds(fuzz_seeds::FuzzSeeds),
    LoraDemo(lora_demo::LoraDemo),
    LoraInterop(lora_interop::LoraInterop),
    #[command(subcommand)]
    Bench(bench::Bench),
    Conformance(conformance::Conformance),
}

#[expect(clippy::print_stderr, reason = "a command reports its failure")]
fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::TrainDemo(command) => command.run(),
        Command::EvalDemo(command) => command.run(),
        Command::FuzzSeeds(command) => command.run(),
        Command::LoraDemo(command) => command.run(),
        Command::LoraInterop(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Conformance(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}
