//! `cargo xtask bench cpu`: the CPU backend and its peers, side by side.

mod bandwidth;
#[cfg(feature = "candle-peer")]
mod candle_model;
mod engine;
mod failure;
mod llama_tools;
mod model_file;
mod plot;
mod results;
mod row;
mod text_model;
mod worker;
mod worker_process;

use std::path::{Path, PathBuf};

use clap::Args;
use inference::KvDtype;
use inference_cpu::Tier;
use serde_json::{Value, json};

use super::machine::Machine;
use crate::Result;
use engine::EngineKind;
use llama_tools::{Fork, LlamaTools, Task};
use model_file::ModelFile;
use results::Results;
use row::Row;
pub(super) use worker::CpuWorker;
use worker_process::{Setup, Worker, WorkerProcess};

/// Prompt of each sequence where several decode at once.
const BATCH_DEPTH: usize = 128;

/// Measure the CPU backend beside its peers, round by round
///
/// Every engine in a process of its own, on one file, with the same number of threads. A
/// round measures each row with one engine after the other, so that a machine that drifts
/// drifts for all; ratios are medians of the ratios within a round.
#[derive(Debug, Args)]
pub(crate) struct CpuBench {
    /// GGUF files
    #[arg(long, required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// Threads of every engine; default: all
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens of the measured prefill
    #[arg(long, default_value_t = 512, value_parser = positive())]
    prefill: usize,
    /// Tokens that a sequence holds before it decodes; prefill is measured at 0 and at
    /// those of at least the prefill
    #[arg(long, value_delimiter = ',', default_values_t = [64, 4096], value_parser = positive())]
    depth: Vec<usize>,
    /// Sequences that decode at once, each after 128 tokens
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = positive())]
    batch: Vec<usize>,
    /// Tokens that each sequence generates where decoding is measured
    #[arg(long, default_value_t = 32, value_parser = positive())]
    generate: usize,
    /// Rounds that each median is taken of
    #[arg(long, default_value_t = 5, value_parser = positive())]
    rounds: usize,
    /// Peers in this program: llama_cpp (feature `llama-cpp`), candle (feature `candle-peer`)
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<EngineKind>,
    /// Folder with llama-bench and llama-batched-bench of llama.cpp
    #[arg(long, value_name = "DIR")]
    llama_cpp: Option<PathBuf>,
    /// Folder with llama-batched-bench and llama-sweep-bench of ik_llama.cpp; measured
    /// with and without run-time repacking
    #[arg(long, value_name = "DIR")]
    ik: Option<PathBuf>,
    /// The instruction set of our kernels: scalar, avx2, …; default: the fastest
    #[arg(long, value_parser = engine::tier)]
    tier: Option<Tier>,
    /// How keys and values are stored, in every engine that lets one choose; llama.cpp's
    /// own default is f16
    #[arg(long, default_value_t = KvDtype::F16)]
    kv_dtype: KvDtype,
    /// Write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots of tokens per second against depth and against sequences, as SVG
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::builder::RangedU64ValueParser::<u64>::new()
        .range(1..=1 << 20)
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

impl CpuBench {
    #[expect(clippy::print_stdout, reason = "a command prints its result")]
    pub(crate) fn run(&self) -> Result<()> {
        let machine = Machine::describe()?;
        let available = std::thread::available_parallelism()?.get();
        let threads = self.threads.unwrap_or(available);
        println!("{machine}; {threads} threads; medians of {} rounds", self.rounds);
        if machine.load().is_some_and(|load| load > 1.0) {
            println!("Other work runs: engines that spin lose more by it, no ratio is worth much.");
        }
        let tools = self.tools()?;
        // A name that is wrong should show before hours of measuring.
        self.model.iter().try_for_each(|path| inference_gguf::GgufFile::open(path).map(drop))?;
        let mut models = Vec::new();
        let mut failed = Vec::new();
        for path in &self.model {
            let file = ModelFile::open(path)?;
            let results = self.measure(&file, threads, &tools)?;
            println!("\n{results}");
            if let Some(folder) = &self.plot {
                for path in plot::write(&results, folder)? {
                    println!("{}", path.display());
                }
            }
            if results.has_refused(0) {
                failed.push(results.model().to_owned());
            }
            models.push(results.to_json());
            // What is measured outlives what may happen to the files after it.
            if let Some(path) = &self.json {
                write(path, &self.to_json(&machine, threads, &models))
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(format!("rows of ours are missing: {}", failed.join(", ")).into()),
        }
    }

    fn to_json(&self, machine: &Machine, threads: usize, models: &[Value]) -> Value {
        json!({
            "machine": machine.to_json(), "threads": threads, "rounds": self.rounds,
            "prefill": self.prefill, "generate": self.generate,
            "kv_dtype": self.kv_dtype.as_str(), "models": models,
        })
    }

    fn tools(&self) -> Result<Vec<LlamaTools>> {
        let mut tools = Vec::new();
        if let Some(folder) = &self.llama_cpp {
            tools.push(LlamaTools::find(folder, Fork::LlamaCpp, self.kv_dtype)?);
        }
        if let Some(folder) = &self.ik {
            tools.push(LlamaTools::find(folder, Fork::Ik { repack: false }, self.kv_dtype)?);
            tools.push(LlamaTools::find(folder, Fork::Ik { repack: true }, self.kv_dtype)?);
        }
        Ok(tools)
    }

    /// Every row, in the order of the table.
    fn rows(&self) -> Vec<Row> {
        let prefill = |depth| Row::Prefill { tokens: self.prefill, depth };
        let deep = self.depth.iter().filter(|depth| **depth >= self.prefill);
        let mut rows = vec![prefill(0)];
        rows.extend(deep.map(|depth| prefill(*depth)));
        rows.extend(self.depth.iter().map(|depth| Row::Decode { depth: *depth, batch: None }));
        rows.extend(
            self.batch.iter().map(|batch| Row::Decode { depth: BATCH_DEPTH, batch: Some(*batch) }),
        );
        rows
    }

    fn setup(&self, engine: EngineKind, file: &ModelFile, threads: usize) -> Setup {
        let rows = self.rows();
        let context = rows.iter().map(|row| row.context(self.generate)).max().unwrap_or(0);
        Setup {
            engine,
            model: file.path().to_owned(),
            threads,
            tier: self.tier.map(|tier| tier.as_str().to_owned()),
            kv_dtype: self.kv_dtype,
            context,
            sequences: self.batch.iter().copied().max().unwrap_or(1),
            generate: self.generate,
        }
    }

    fn measure(&self, file: &ModelFile, threads: usize, tools: &[LlamaTools]) -> Result<Results> {
        let rows = self.rows();
        let mut kinds = vec![EngineKind::Cpu];
        kinds.extend(self.peers.iter().copied().filter(|kind| *kind != EngineKind::Cpu));
        let names = kinds.iter().map(|kind| kind.label()).chain(tools.iter().map(LlamaTools::name));
        let mut results = Results::new(file, names.map(str::to_owned).collect(), rows.clone());

        let mut workers: Vec<Worker> =
            kinds.iter().map(|kind| Worker::new(self.setup(*kind, file, threads))).collect();
        for (engine, worker) in workers.iter_mut().enumerate() {
            // Nothing is cold in the rounds; what an engine cannot do shows here.
            for row in &rows {
                if let Err(error) = worker.measure(*row, 0) {
                    results.refuse(engine, *row, &error);
                }
            }
        }
        for round in 1..=self.rounds as u64 {
            results.add_bandwidth(bandwidth::read_bytes_per_sec(threads)?);
            for (engine, worker) in workers.iter().enumerate() {
                if !results.is_out(engine) {
                    let start = WorkerProcess::start(worker.setup());
                    results.add_start(engine, start.map(|s| s.1).map_err(|e| e.to_string()));
                }
            }
            for row in &rows {
                for turn in 0..workers.len() {
                    // Nobody is always the first.
                    let engine = (turn + round as usize) % workers.len();
                    if !results.is_refused(engine, *row) {
                        results.add(engine, *row, workers[engine].measure(*row, round));
                    }
                }
            }
            let task = Task {
                model: file.path(),
                threads,
                prefill: self.prefill,
                generate: self.generate,
            };
            for (index, tool) in tools.iter().enumerate() {
                let engine = workers.len() + index;
                let left: Vec<Row> =
                    rows.iter().filter(|row| !results.is_refused(engine, **row)).copied().collect();
                for (row, outcome) in tool.measure(task, &left) {
                    results.add(engine, row, outcome);
                }
            }
        }
        Ok(results)
    }
}

/// Writes a whole file or none: an interruption leaves the one before it.
fn write(path: &Path, report: &Value) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, format!("{report:#}\n"))?;
    std::fs::rename(&part, path)
}
