//! `cargo xtask train-demo`: trains the embedded model.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::Tensor;
use clap::Args;
use tokenizers::Tokenizer;

use crate::Result;
use crate::demo::evaluation::{Evaluation, evaluate};
use crate::demo::instance::Instance;
use crate::demo::model_card::{Run, model_card};
use crate::demo::network::Network;
use crate::demo::training::{Budget, Training};
use crate::demo::{architecture, export, held_out, tokenizer};

/// Steps between two evaluations, each of which writes all files.
const EVALUATE_EVERY: usize = 500;

/// Train the demonstration model on generated text.
///
/// Writes `model/`, `heldout.json` and `MODEL_CARD.md` every 500 steps and at
/// the end. Fastest with RAYON_NUM_THREADS=1: the two halves of a step have a
/// thread each. Example: `RAYON_NUM_THREADS=1 cargo xtask train-demo`.
#[derive(Debug, Args)]
pub(crate) struct TrainDemo {
    /// Training steps of 1024 tokens.
    #[arg(long, default_value_t = 2600)]
    steps: usize,

    /// Seed of the text and of the initial weights.
    #[arg(long, default_value_t = 42)]
    seed: u64,

    /// Stop after this many minutes: the schedule follows whichever of steps
    /// and minutes is further, so the result depends on the machine's speed.
    #[arg(long)]
    minutes: Option<f64>,

    /// The folder to write to.
    #[arg(long, default_value = "crates/inference-demo")]
    out: PathBuf,
}

impl TrainDemo {
    #[expect(clippy::print_stderr, reason = "progress of a command")]
    pub(crate) fn run(&self) -> Result<()> {
        let tokenizer = tokenizer::train(self.seed)?;
        let questions = held_out::all();
        eprintln!("{} parameters", architecture::parameters());
        let time = self.minutes.map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
        let budget = Budget { steps: self.steps, time, seed: self.seed };
        let mut training = Training::new(&tokenizer, budget)?;
        let mut mean = None;
        while !training.is_over() {
            let loss = training.step()?;
            let mean = mean.insert(mean.map_or(loss, |mean: f32| 0.98 * mean + 0.02 * loss));
            let step = training.step_count();
            if step % 50 == 0 {
                let speed = training.token_count() as f64 / training.elapsed().as_secs_f64();
                eprintln!("step {step} of {}: loss {mean:.3}, {speed:.0} tokens/s", self.steps);
            }
            if step % EVALUATE_EVERY == 0 || training.is_over() {
                let run = Run {
                    seed: self.seed,
                    steps: step,
                    planned_steps: self.steps,
                    tokens: training.token_count(),
                    loss: *mean,
                };
                let evaluation = self.save(&training.weights(), &tokenizer, &questions, &run)?;
                eprintln!("{evaluation}");
            }
        }
        Ok(())
    }

    /// Evaluates the weights as they will be stored, and writes everything.
    fn save(
        &self,
        weights: &[(String, Tensor)],
        tokenizer: &Tokenizer,
        questions: &[Instance],
        run: &Run,
    ) -> Result<Evaluation> {
        let weights = export::rounded(weights)?;
        let evaluation = evaluate(&Network::new(&weights)?, tokenizer, questions)?;
        export::write(&self.out.join("model"), &weights, tokenizer)?;
        fs::write(self.out.join("heldout.json"), held_out::to_json(questions))?;
        fs::write(self.out.join("MODEL_CARD.md"), model_card(run, &evaluation))?;
        Ok(evaluation)
    }
}
