//! `cargo xtask bench`: what the project promises in numbers, measured.

mod batched;
mod cpu;
mod engine;
mod instant_runner;
mod long_context;
mod lora;
mod lora_training;
mod machine;
mod memory;
mod overhead;
mod prefix;
mod prompts;
mod report;
mod streams;
mod while_prefilling;

use clap::Subcommand;

use crate::Result;

/// Measure what the project promises in numbers.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Batched(batched::BatchedBench),
    Cpu(cpu::CpuBench),
    #[command(hide = true)]
    CpuWorker(cpu::CpuWorker),
    Engine(engine::EngineBench),
    Lora(lora::LoraBench),
    LoraTraining(lora_training::LoraTrainingBench),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Batched(bench) => bench.run(),
            Self::Cpu(bench) => bench.run(),
            Self::CpuWorker(worker) => worker.run(),
            Self::Engine(bench) => bench.run(),
            Self::Lora(bench) => bench.run(),
            Self::LoraTraining(bench) => bench.run(),
        }
    }
}
