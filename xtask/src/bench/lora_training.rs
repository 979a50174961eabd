//! `cargo xtask bench lora-training`: training against `peft` and PyTorch.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use inference::lora::peak_memory;
use inference::prelude::*;
use inference::{LoraConfig, OptimizerConfig, TrainingSequence};
use serde_json::{Value, json};

use crate::Result;

const SCRIPT: &str = include_str!("lora_training/peft_peer.py");

/// Measure LoRA training against `peft` and PyTorch on the CPU.
///
/// Both train the same modules of the same model with the same batches and
/// threads, in processes of their own, one after the other and several times.
/// Prints medians of tokens per second and the peak of memory.
#[derive(Debug, Args)]
pub(crate) struct LoraTrainingBench {
    /// A model folder, or a GGUF file, over whose weights only we train.
    model: PathBuf,
    /// A Python with torch, transformers and peft, for a folder; without one only
    /// we are measured.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Sequences of a batch.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Steps that are measured; one more warms up.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Runs of each.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads; default: all.
    #[arg(long)]
    threads: Option<usize>,
    /// Compute activations again on the way back.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Measure here, and print the result as JSON.
    #[arg(long, hide = true)]
    worker: bool,
}

#[expect(clippy::print_stdout, reason = "a command prints its result")]
impl LoraTrainingBench {
    pub(crate) fn run(&self) -> Result<()> {
        if self.worker {
            println!("{}", self.measure()?);
            return Ok(());
        }
        if self.python.is_some() && !self.model.is_dir() {
            return Err(format!("{}: PEFT trains over a folder alone", self.model.display()).into());
        }
        let script = std::env::temp_dir().join(format!("peft-peer-{}.py", std::process::id()));
        std::fs::write(&script, SCRIPT)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.runs.max(1) {
            ours.push(output(Command::new(std::env::current_exe()?).args(self.arguments()))?);
            if let Some(python) = &self.python {
                theirs.push(output(Command::new(python).arg(&script).args(self.peer_arguments()))?);
            }
        }
        std::fs::remove_file(&script)?;
        let (speed, memory) = (median(&ours, "tokens_per_second"), median(&ours, "peak_memory"));
        println!("ours: {speed:.1} tokens/s, {:.0} MiB", memory / f64::from(1 << 20));
        if !theirs.is_empty() {
            let peer = (median(&theirs, "tokens_per_second"), median(&theirs, "peak_memory"));
            println!("peft: {:.1} tokens/s, {:.0} MiB", peer.0, peer.1 / f64::from(1 << 20));
            println!("speed {:.2} of peft's, memory {:.2}", speed / peer.0, memory / peer.1);
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<String> {
        let threads = self.threads.map_or_else(String::new, |threads| threads.to_string());
        let mut all: Vec<String> =
            [("batch", self.batch), ("length", self.length), ("steps", self.steps)]
                .iter()
                .flat_map(|(name, value)| [format!("--{name}"), value.to_string()])
                .collect();
        if !threads.is_empty() {
            all.extend(["--threads".to_owned(), threads]);
        }
        if self.gradient_checkpointing {
            all.push("--gradient-checkpointing".to_owned());
        }
        all
    }

    fn arguments(&self) -> Vec<String> {
        let mut all = vec!["bench".to_owned(), "lora-training".to_owned(), "--worker".to_owned()];
        all.push(self.model.display().to_string());
        all.extend(self.numbers());
        all
    }

    fn peer_arguments(&self) -> Vec<String> {
        let mut all = vec![self.model.display().to_string()];
        all.extend(self.numbers());
        all
    }

    fn measure(&self) -> Result<Value> {
        let mut options =
            LoadOptions::new().with_backend("cpu").with_context_len(self.length.max(16));
        options.threads = self.threads;
        options.parallel_slots = Some(1);
        let model = inference::load(Path::new(&self.model), &options)?;
        let trainable = model.as_trainable().ok_or("the model cannot be trained")?;
        let lora = LoraConfig::new().with_target_pattern(".*_proj");
        trainable.apply_lora(&lora)?;
        trainable.set_optimizer(&OptimizerConfig::new())?;
        trainable.set_gradient_checkpointing(self.gradient_checkpointing);
        let vocab = model.info().vocab_size;
        let batch: Vec<TrainingSequence> = (0..self.batch)
            .map(|row| {
                let ids = (0..self.length).map(|i| ((row * 7919 + i * 104_729) % vocab) as u32);
                TrainingSequence::new(ids.collect())
            })
            .collect();
        let mut seconds = Vec::new();
        let mut losses = Vec::new();
        for step in 0..=self.steps {
            let started = std::time::Instant::now();
            let loss = trainable.forward_loss(&batch)?;
            losses.push(loss.value());
            trainable.backward(loss)?;
            trainable.step()?;
            if step > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        seconds.sort_by(f64::total_cmp);
        let tokens = (self.batch * self.length) as f64;
        let middle = seconds.get(seconds.len() / 2).copied().ok_or("no steps")?;
        Ok(json!({
            "tokens_per_second": tokens / middle,
            "peak_memory": peak_memory(),
            "losses": losses,
        }))
    }
}

fn output(command: &mut Command) -> Result<Value> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().ok_or("no result")?;
    Ok(serde_json::from_str(last)?)
}

fn median(results: &[Value], name: &str) -> f64 {
    let mut values: Vec<f64> = results.iter().filter_map(|result| result[name].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
