//! `cargo xtask bench engine`: the engine under load.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::machine::Machine;
use super::report::{Figure, Report};
use super::{memory, overhead, prefix, streams, while_prefilling};
use crate::Result;

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Time of a step outside of the runner, 256 sequences.
    Overhead,
    /// Throughput of the embedded model at 1, 4, 16 and 64 streams.
    Streams,
    /// Time to first token of a short prompt while a long one is read.
    WhilePrefilling,
    /// Time to first token with a cached prefix and without.
    Prefix,
    /// Memory after 1,000 requests and after many.
    Memory,
}

/// Measure the engine under load; figures are medians.
#[derive(Debug, Args)]
pub(crate) struct EngineBench {
    /// Measure these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds that each median is taken of.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests after which memory is compared with that after 1,000.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2_000..))]
    requests: u32,
    /// Worker threads of the CPU backend; default: all.
    #[arg(long)]
    threads: Option<usize>,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl EngineBench {
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    pub(crate) fn run(&self) -> Result<()> {
        let mut report = Report::new(Machine::describe()?, self.rounds);
        println!("{}", report.heading());
        let parts = if self.only.is_empty() { Part::value_variants() } else { &self.only };
        for part in parts {
            let figures: Vec<Figure> = match part {
                Part::Overhead => overhead::measure(self.rounds)?,
                Part::Streams => streams::measure(self.rounds, self.threads)?,
                Part::WhilePrefilling => while_prefilling::measure(self.rounds, self.threads)?,
                Part::Prefix => prefix::measure(self.rounds, self.threads)?,
                Part::Memory => memory::measure(self.requests, self.threads)?,
            };
            for figure in &figures {
                println!("{figure}");
            }
            report.extend(figures);
        }
        if let Some(path) = &self.json {
            std::fs::write(path, format!("{:#}\n", report.to_json()))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
