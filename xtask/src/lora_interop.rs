//! `cargo xtask lora-interop`: adapters that we save are loaded by `peft`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use inference::lora::{
    AfterEvent, MergeAdapter, MergeOptions, Trainer, TrainerOptions, TrainingData, merge_model,
};
use inference::prelude::*;
use inference::{
    AdapterDtype, LogitRows, LoraConfig, ModelSource, OptimizerConfig, TrainingSequence,
};
use serde_json::json;

use crate::Result;

/// Train adapters of the embedded model, and compare logits with what `peft`
/// computes from their files.
///
/// Sets up a Python environment below the output folder, unless it is there or
/// one is named. Where Python or its packages cannot be had, says so and
/// succeeds without having checked anything.
#[derive(Debug, Args)]
pub(crate) struct LoraInterop {
    /// Where environment, models and adapters go.
    #[arg(long, default_value = "target/lora-interop")]
    out: PathBuf,
    /// A Python with torch, transformers and peft, in place of an environment
    /// of its own.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// The largest difference of two logits.
const TOLERANCE: f32 = 2e-4;

const SCRIPT: &str = include_str!("lora_interop.py");

#[expect(clippy::print_stdout, reason = "a command prints its result")]
impl LoraInterop {
    pub(crate) fn run(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out)?;
        let script = self.out.join("interop.py");
        std::fs::write(&script, SCRIPT)?;
        let Some(python) = self.python()? else { return Ok(()) };
        // In f32, so that merging does not round.
        let demo = self.out.join("demo");
        std::fs::create_dir_all(&demo)?;
        for (name, bytes) in inference_demo::FILES {
            std::fs::write(demo.join(name), bytes)?;
        }
        let base = self.out.join("base");
        run(&python, &script, &[Path::new("widen"), &demo, &base])?;

        for (name, config) in cases() {
            let adapter = self.out.join(name);
            if adapter.exists() {
                std::fs::remove_dir_all(&adapter)?;
            }
            let ids = train(&base, &adapter, config)?;
            let merged = self.out.join(format!("{name}-merged"));
            if merged.exists() {
                std::fs::remove_dir_all(&merged)?;
            }
            let source = ModelSource::from(base.clone());
            merge_model(&source, &MergeAdapter::new(&adapter), &merged, &MergeOptions::new())?;
            let options = LoadOptions::new().with_backend("cpu");
            let ours = logits(&*inference::load(merged.as_path(), &options)?, &ids)?;
            let without = logits(&*inference::load(base.as_path(), &options)?, &ids)?;
            let request = adapter.join("request.json");
            std::fs::write(&request, json!({ "ids": ids }).to_string())?;
            let reply = adapter.join("logits.json");
            run(&python, &script, &[Path::new("logits"), &base, &adapter, &request, &reply])?;
            let theirs: Vec<f32> = serde_json::from_slice(&std::fs::read(&reply)?)?;
            let difference = largest(&ours, &theirs)?;
            let changed = largest(&ours, &without)?;
            println!("{name}: peft differs by {difference:.1e}; the adapter changes {changed:.2}");
            if difference > TOLERANCE {
                return Err(format!("{name}: logits differ by {difference}").into());
            }
            if changed < 0.1 {
                return Err(format!("{name}: an adapter that changes nothing shows nothing").into());
            }
        }
        Ok(())
    }

    /// A Python that has what is needed; `None`, with a message, where there is
    /// none to be had.
    fn python(&self) -> Result<Option<PathBuf>> {
        let has = |python: &Path| {
            let mut command = Command::new(python);
            command.args(["-c", "import torch, transformers, peft"]);
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if let Some(python) = &self.python {
            if !has(python) {
                return Err(
                    format!("{} lacks torch, transformers or peft", python.display()).into()
                );
            }
            return Ok(Some(python.clone()));
        }
        let environment = self.out.join("python");
        let python = std::path::absolute(environment.join("bin/python"))?;
        if has(&python) {
            return Ok(Some(python));
        }
        let made = Command::new("python3").args(["-m", "venv"]).arg(&environment).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: no Python environment can be made");
            return Ok(None);
        }
        let packages = ["torch", "transformers", "peft"];
        let installed =
            Command::new(&python).args(["-m", "pip", "install", "-q"]).args(packages).status();
        if !installed.is_ok_and(|status| status.success()) || !has(&python) {
            println!("skipped: torch, transformers and peft cannot be installed");
            return Ok(None);
        }
        Ok(Some(python))
    }
}

fn cases() -> Vec<(&'static str, LoraConfig)> {
    vec![
        ("plain", LoraConfig::new()),
        (
            "all-rslora",
            LoraConfig::new().with_rank(4).with_rslora(true).with_target_pattern(".*_proj"),
        ),
        (
            "bf16",
            LoraConfig::new()
                .with_target_modules(["q_proj", "gate_proj", "down_proj"])
                .with_dtype(AdapterDtype::Bf16),
        ),
    ]
}

/// Trains for some steps; returns ids to compare logits of.
fn train(base: &Path, adapter: &Path, config: LoraConfig) -> Result<Vec<u32>> {
    let model = inference::load(base, &LoadOptions::new().with_backend("cpu"))?;
    let texts = ["Once upon a time there was a dog.", "The sky is green and the sea is red."];
    let mut sequences = Vec::new();
    for text in texts {
        sequences.push(TrainingSequence::new(model.encode(text, true)?));
    }
    let ids = sequences.iter().flat_map(|sequence| sequence.ids.clone()).collect();
    let options = TrainerOptions::new()
        .with_lora(config)
        .with_optimizer(OptimizerConfig::new().with_learning_rate(1e-2))
        .with_epochs(12)
        .with_output(adapter);
    let trainer = Trainer::new(&*model, options)?;
    trainer.run(&TrainingData::new(sequences), None, &mut |_| Ok(AfterEvent::Continue))?;
    Ok(ids)
}

fn logits(model: &dyn TextModel, ids: &[u32]) -> Result<Vec<f32>> {
    let scorer = model.as_scorer().ok_or("the model has no logits")?;
    let logits = scorer.prompt_logits(Prompt::Tokens(ids.to_vec()), LogitRows::All)?;
    Ok(logits.values)
}

fn largest(a: &[f32], b: &[f32]) -> Result<f32> {
    if a.len() != b.len() {
        return Err(format!("{} and {} logits", a.len(), b.len()).into());
    }
    Ok(a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

fn run(python: &Path, script: &Path, arguments: &[&Path]) -> Result<()> {
    let status = Command::new(python).arg(script).args(arguments).status()?;
    if !status.success() {
        return Err(format!("{}: {status}", script.display()).into());
    }
    Ok(())
}
