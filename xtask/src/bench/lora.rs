//! `cargo xtask bench lora`: what adapters cost.

mod serving;

use std::path::PathBuf;

use clap::Args;

use super::machine::Machine;
use super::report::Report;
use crate::Result;

/// Measure what adapters cost beside the model alone; figures are medians.
#[derive(Debug, Args)]
pub(crate) struct LoraBench {
    /// GGUF file of the model; its weights may be random.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Rank of the adapters; their values are random.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// The maps that adapters change, by the ends of their names.
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    targets: Vec<String>,
    /// Sequences of a step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    sequences: u32,
    /// Rounds that each median is taken of.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Worker threads; default: all.
    #[arg(long)]
    threads: Option<usize>,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl LoraBench {
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    pub(crate) fn run(&self) -> Result<()> {
        let mut report = Report::new(Machine::describe()?, self.rounds);
        println!("{}", report.heading());
        let figures = serving::measure(self)?;
        figures.iter().for_each(|figure| println!("{figure}"));
        report.extend(figures);
        if let Some(path) = &self.json {
            std::fs::write(path, format!("{:#}\n", report.to_json()))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
