//! `inference lora train`: an adapter from examples.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use inference::lora::{
    AfterEvent, BadLines, BatchSize, DataOptions, Decay, RunEnd, Trainer, TrainerOptions,
    TrainingData, TrainingEvent,
};
use inference::{
    AdapterDtype, CancelToken, CapabilityId, Error, GenerateOptions, LoraConfig, OptimizerConfig,
    TextModel,
};

use super::loss_curve::{LossCurve, draw};
use crate::args::LoadArgs;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::{load, progress};

/// The name under which samples are generated.
const SAMPLED: &str = "in training";

/// Train an adapter on examples
///
/// The examples are JSON Lines: {"text":…}, {"prompt":…,"completion":…}, {"messages":[…]}, or
/// alpaca's or sharegpt's fields. The adapter is written to OUT as PEFT reads it, beside checkpoints,
/// metrics.jsonl and loss.svg. Ctrl-C ends the run after its step with a checkpoint, from which
/// --resume continues to the same bits. With --json: an object per event, then
/// {"steps":…,"last_loss":…,…}.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The examples to learn
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    /// Where the adapter goes
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    /// Examples to evaluate on
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,

    /// Steps between evaluations; default: after each epoch
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 0,
        requires = "eval",
        hide_default_value = true
    )]
    evaluate_every: u64,

    /// End after so many evaluations without a lower loss
    #[arg(long, value_name = "N", requires = "eval")]
    patience: Option<u64>,

    /// Rank of the factors
    #[arg(long, value_name = "N", default_value_t = 8)]
    rank: usize,

    /// Numerator of the scaling
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    alpha: f32,

    /// Divide by the root of the rank (rank-stabilized)
    #[arg(long)]
    rslora: bool,

    /// Dropout on the adapter's input
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f32,

    /// Modules to adapt, by ends of their names
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "q_proj,v_proj")]
    target: Vec<String>,

    /// Modules to adapt, by a regular expression of whole paths
    #[arg(long, value_name = "REGEX", conflicts_with = "target")]
    target_pattern: Option<String>,

    /// Factors of 16 bits
    #[arg(long)]
    bf16: bool,

    /// Seed of factors, dropout and the order of examples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Highest learning rate
    #[arg(long, value_name = "X", default_value_t = 2e-4)]
    learning_rate: f64,

    /// How the learning rate goes after warming up
    #[arg(long, value_name = "NAME", default_value = "linear", value_parser = decay)]
    decay: Decay,

    /// Steps of warming up
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: u64,

    /// Decoupled weight decay
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,

    /// Norm that gradients are scaled down to; 0: none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    max_gradient_norm: f64,

    /// Passes over the examples
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u64,

    /// End after so many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,

    /// Examples that are computed together
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,

    /// As many examples together as have so many tokens
    #[arg(long, value_name = "TOKENS", conflicts_with = "batch")]
    pack: Option<usize>,

    /// Batches per step
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulation: u64,

    /// Longest example; default: the context
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Learn prompts too, not completions alone
    #[arg(long)]
    train_on_prompts: bool,

    /// Leave out lines that cannot be used
    #[arg(long)]
    skip_bad_lines: bool,

    /// Compute activations again on the way back: less memory, more time
    #[arg(long)]
    gradient_checkpointing: bool,

    /// Steps between checkpoints; default: at the end
    #[arg(long, value_name = "STEPS", default_value_t = 0, hide_default_value = true)]
    checkpoint_every: u64,

    /// Continue from the latest checkpoint in OUT
    #[arg(long)]
    resume: bool,

    /// Continue this text with the adapter after each evaluation or epoch
    #[arg(long, value_name = "PROMPT")]
    sample: Vec<String>,

    #[command(flatten)]
    load: LoadArgs,
}

fn decay(name: &str) -> std::result::Result<Decay, String> {
    let known = Decay::ALL.map(Decay::as_str).join(", ");
    Decay::ALL.into_iter().find(|d| d.as_str() == name).ok_or(format!("expected {known}"))
}

impl Args {
    fn options(&self) -> TrainerOptions {
        let mut lora = LoraConfig::new()
            .with_rank(self.rank)
            .with_alpha(self.alpha)
            .with_rslora(self.rslora)
            .with_dropout(self.dropout)
            .with_target_modules(self.target.iter().cloned())
            .with_seed(self.seed);
        lora.target_pattern.clone_from(&self.target_pattern);
        if self.bf16 {
            lora = lora.with_dtype(AdapterDtype::Bf16);
        }
        let norm = (self.max_gradient_norm != 0.0).then_some(self.max_gradient_norm);
        let optimizer = OptimizerConfig::new()
            .with_learning_rate(self.learning_rate)
            .with_weight_decay(self.weight_decay)
            .with_max_gradient_norm(norm);
        let batch = self.pack.map_or(BatchSize::Sequences(self.batch), BatchSize::Tokens);
        let mut options = TrainerOptions::new()
            .with_lora(lora)
            .with_optimizer(optimizer)
            .with_decay(self.decay)
            .with_warmup_steps(self.warmup)
            .with_epochs(self.epochs)
            .with_batch_size(batch)
            .with_accumulation(self.accumulation)
            .with_gradient_checkpointing(self.gradient_checkpointing)
            .with_evaluate_every(self.evaluate_every)
            .with_output(&self.out)
            .with_checkpoint_every(self.checkpoint_every)
            .with_resume(self.resume);
        options.max_steps = self.max_steps;
        options.patience = self.patience;
        options
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let mut options = args.options();
    options.validate().map_err(Failure::Request)?;
    if args.load.options().adapter_path.is_some() {
        return Err(Failure::Usage("`lora train` begins without an --adapter".to_owned()));
    }
    let model = load::load(&args.load, None, context)?;
    if !args.sample.is_empty() && model.as_adapters().is_none() {
        let subject = format!("the backend `{}`", model.info().backend);
        let what = CapabilityId::LoraInference.as_str();
        return Err(Failure::Request(Error::unsupported(subject, what)));
    }
    let mut reading = DataOptions::new().with_train_on_prompts(args.train_on_prompts);
    reading.max_tokens = args.max_tokens;
    if args.skip_bad_lines {
        reading.bad_lines = BadLines::Skip;
    }
    let read = |path: &Path| -> Result<TrainingData> {
        let data = TrainingData::read(path, &*model, &reading).map_err(Failure::Request)?;
        for skipped in &data.skipped {
            context.notes.note(&format!("left out: {}", skipped.reason));
        }
        Ok(data)
    };
    let data = read(&args.data)?;
    let eval = args.eval.as_deref().map(read).transpose()?;
    options = options.with_progress(progress::sink(context.notes));
    options.probe = model.probe().cloned();
    let trainer = Trainer::new(&*model, options).map_err(Failure::Request)?;
    let mut log = Log::open(&args.out, args.resume)?;
    let mut output = Output::new();
    let summary = context.interrupts.while_cancellable(|cancel: CancelToken| {
        trainer.run(&data, eval.as_ref(), &mut |event| {
            log.add(event)?;
            if context.json {
                let line = serde_json::to_value(event);
                let line = line.map_err(|e| Error::engine("writing an event", e))?;
                output.json(&line).map_err(|_| Error::engine_message("standard output failed"))?;
            } else {
                say(event, context);
            }
            let samples = match (&eval, event) {
                (Some(_), TrainingEvent::Evaluation { step, .. }) => Some(*step),
                (None, TrainingEvent::Checkpoint { step, .. }) => Some(*step),
                _ => None,
            };
            if let Some(step) = samples.filter(|_| !args.sample.is_empty()) {
                trainer.adapter().save(&args.out)?;
                for (prompt, text) in sample(&*model, &args.out, &args.sample)? {
                    log.sample(step, &prompt, &text)?;
                    context.notes.note(&format!("step {step}: {prompt}{text}"));
                }
            }
            Ok(if cancel.is_cancelled() { AfterEvent::Stop } else { AfterEvent::Continue })
        })
    });
    let summary = summary.map_err(Failure::Request)?;
    draw(&args.out.join("loss.svg"), &log.curve).map_err(|error| {
        Failure::Request(Error::engine("drawing the losses", io::Error::other(error)))
    })?;
    if context.json {
        output.json(&summary)?;
    } else {
        let loss = summary.last_loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
        let speed = summary.tokens as f64 / summary.seconds.max(f64::MIN_POSITIVE);
        let best = summary
            .best_evaluation
            .map_or_else(String::new, |b| format!(", best evaluation {b:.4}"));
        output.line(&format!(
            "{}: {} of {} steps, loss {loss}{best}, {speed:.0} tokens/s",
            args.out.display(),
            summary.steps,
            summary.total,
        ))?;
    }
    match summary.end {
        RunEnd::Asked => Err(Failure::Interrupted),
        _ => Ok(()),
    }
}

/// What a person sees besides the bar.
fn say(event: &TrainingEvent, context: &Context) {
    match event {
        TrainingEvent::Step { step, total, loss, gradient_norm, tokens_per_second, .. } => {
            context.notes.aside(&format!(
                "step {step} of {total}: loss {loss:.4}, norm {gradient_norm:.2}, \
                 {tokens_per_second:.0} tokens/s"
            ));
        }
        TrainingEvent::Evaluation { step, loss, best } => {
            let best = if *best { ", the best so far" } else { "" };
            context.notes.note(&format!("step {step}: evaluation {loss:.4}{best}"));
        }
        _ => {}
    }
}

/// `metrics.jsonl`, and what of it is drawn.
struct Log {
    file: File,
    path: PathBuf,
    curve: LossCurve,
}

impl Log {
    fn open(out: &Path, append: bool) -> Result<Self> {
        let path = out.join("metrics.jsonl");
        let failed = |source| Failure::Input { what: path.display().to_string(), source };
        std::fs::create_dir_all(out).map_err(failed)?;
        let curve = match append {
            true => LossCurve::read(&path).map_err(failed)?,
            false => LossCurve::default(),
        };
        let mut open = OpenOptions::new();
        open.create(true).write(true);
        if append {
            open.append(true)
        } else {
            open.truncate(true)
        };
        let file = open.open(&path).map_err(failed)?;
        Ok(Self { file, path, curve })
    }

    fn write(&mut self, value: &serde_json::Value) -> inference::Result<()> {
        writeln!(self.file, "{value}").map_err(|error| Error::io(&self.path, "write", error))
    }

    fn add(&mut self, event: &TrainingEvent) -> inference::Result<()> {
        let value = serde_json::to_value(event)
            .map_err(|error| Error::engine("writing an event", error))?;
        self.curve.add(&value);
        self.write(&value)
    }

    fn sample(&mut self, step: u64, prompt: &str, text: &str) -> inference::Result<()> {
        let value =
            serde_json::json!({ "event": "sample", "step": step, "prompt": prompt, "text": text });
        self.write(&value)
    }
}

/// Continues prompts with the adapter as it was just saved.
fn sample(
    model: &dyn TextModel,
    adapter: &Path,
    prompts: &[String],
) -> inference::Result<Vec<(String, String)>> {
    let Some(adapters) = model.as_adapters() else { return Ok(Vec::new()) };
    adapters.load(SAMPLED, adapter, 1.0)?;
    let text = |prompt: &String| {
        let options =
            GenerateOptions::new().with_adapter(SAMPLED).with_temperature(0.0).with_max_tokens(48);
        let (text, _) = model.generate(prompt.as_str().into(), options)?.collect_text()?;
        Ok((prompt.clone(), text))
    };
    prompts.iter().map(text).collect()
}
