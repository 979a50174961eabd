//! The training loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeEvent};
use inference_core::{
    Adapter, Error, ProgressEvent, Result, TextModel, TrainableModel, TrainingSequence,
};
use serde_json::json;

use crate::batch_plan::{BatchPlan, batches};
use crate::checkpoints::{Checkpoints, RunState};
use crate::training_event::{AfterEvent, RunEnd, TrainingEvent, TrainingSummary, peak_memory};
use crate::{TrainerOptions, TrainingData};

/// The phase's name in progress events.
const PHASE: &str = "train";

/// Trains an adapter on a model that may serve meanwhile.
///
/// The same options, data and model give the same bits; so does a run that was
/// ended and continued ([`TrainerOptions::resume`]).
pub struct Trainer<'a> {
    trainable: &'a dyn TrainableModel,
    adapter: Arc<dyn Adapter>,
    options: TrainerOptions,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Trainer<'a> {
    /// Attaches a fresh adapter to the model.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption), of the
    /// adapter's configuration too;
    /// [`Unsupported`](inference_core::ErrorKind::Unsupported) for a model that
    /// cannot be trained.
    pub fn new(model: &'a dyn TextModel, options: TrainerOptions) -> Result<Self> {
        options.validate()?;
        let Some(trainable) = model.as_trainable() else {
            let subject = format!("the backend `{}`", model.info().backend);
            return Err(Error::unsupported(subject, "training"));
        };
        let adapter = trainable.apply_lora(&options.lora)?;
        trainable.set_optimizer(&options.optimizer)?;
        trainable.set_gradient_checkpointing(options.gradient_checkpointing);
        Ok(Self { trainable, adapter, options })
    }

    /// The adapter that is trained.
    #[must_use]
    pub fn adapter(&self) -> &Arc<dyn Adapter> {
        &self.adapter
    }

    /// Runs to the end, or until `event` or the evaluations end it.
    ///
    /// # Errors
    ///
    /// Those of the model, of `event`, and of writing;
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) without data,
    /// and where the checkpoint to continue from is of a run with other
    /// settings or data.
    pub fn run(
        &self,
        data: &TrainingData,
        evaluation: Option<&TrainingData>,
        event: &mut dyn FnMut(&TrainingEvent) -> Result<AfterEvent>,
    ) -> Result<TrainingSummary> {
        let plan = BatchPlan::new(data, &self.options)?;
        let settings = self.settings(data, &plan)?;
        let mut run = RunState { settings, ..RunState::default() };
        if let Some(resumed) = self.resumed(&run)? {
            run = resumed;
        }
        let total = plan.steps.len() as u64;
        let report = |progress: ProgressEvent| {
            if let Some(sink) = &self.options.progress {
                sink.report(&progress);
            }
        };
        let phase = PHASE.to_owned();
        report(ProgressEvent::Started { phase, total: Some(total), unit: "steps" });
        let (started, first) = (Instant::now(), run.step);
        let mut summary = TrainingSummary::new(total);
        for (index, step) in plan.steps.iter().enumerate().skip(run.step as usize) {
            let taken = self.step(data, &step.batches, run.step, total)?;
            run.step += 1;
            run.batches += step.batches.len() as u64;
            summary.add(&taken);
            report(ProgressEvent::Advanced { phase: PHASE.to_owned(), done: run.step });
            let mut wanted = event(&taken)?;
            let last = plan.steps.get(index + 1).is_none_or(|next| next.epoch != step.epoch);
            let due = match self.options.evaluate_every {
                0 => last,
                every => run.step.is_multiple_of(every) || run.step == total,
            };
            if let Some(evaluation) = evaluation.filter(|_| due) {
                let evaluated = self.evaluate(evaluation, &mut run)?;
                wanted = wanted.max(event(&evaluated)?);
                if self.options.patience.is_some_and(|p| run.evaluations_since_best >= p) {
                    summary.end = RunEnd::Patience;
                }
            }
            if wanted == AfterEvent::Stop {
                summary.end = RunEnd::Asked;
            }
            let ends = summary.end != RunEnd::Finished || run.step == total;
            let every = self.options.checkpoint_every;
            if ends || (every > 0 && run.step.is_multiple_of(every)) {
                self.checkpoint(&mut run, event)?;
            }
            if ends {
                break;
            }
        }
        report(ProgressEvent::Finished { phase: PHASE.to_owned() });
        if let Some(output) = &self.options.output {
            self.adapter.save(output)?;
        }
        summary.steps = run.step;
        summary.resumed_from = first;
        summary.best_evaluation = run.best_evaluation;
        summary.seconds = started.elapsed().as_secs_f64();
        Ok(summary)
    }

    /// One step: gradients of all its batches, then the update.
    fn step(
        &self,
        data: &TrainingData,
        batches: &[Vec<usize>],
        step: u64,
        total: u64,
    ) -> Result<TrainingEvent> {
        let started = Instant::now();
        let options = &self.options;
        let chosen: Vec<Vec<TrainingSequence>> =
            batches.iter().map(|batch| pick(data, batch)).collect();
        let targets = |batch: &[TrainingSequence]| -> usize {
            batch.iter().map(TrainingSequence::num_targets).sum()
        };
        let all: usize = chosen.iter().map(|batch| targets(batch)).sum();
        let (mut loss, mut tokens) = (0.0_f64, 0);
        for batch in &chosen {
            let share = targets(batch) as f64 / all as f64;
            let found = self.trainable.forward_loss(batch)?;
            loss += share * f64::from(found.value());
            tokens += batch.iter().map(|sequence| sequence.ids.len() as u64).sum::<u64>();
            self.trainable.backward(found.with_weight(share as f32))?;
        }
        let rate = options.optimizer.learning_rate
            * options.decay.factor(step, options.warmup_steps, total);
        self.trainable.set_optimizer(&options.optimizer.clone().with_learning_rate(rate))?;
        let update = self.trainable.step()?;
        let elapsed = started.elapsed().max(Duration::from_nanos(1));
        if let Some(bus) = &options.probe {
            bus.emit(
                None,
                Phase::Training,
                ProbeEvent::Training {
                    step,
                    loss: loss as f32,
                    learning_rate: rate,
                    gradient_norm: update.gradient_norm,
                },
            );
        }
        Ok(TrainingEvent::Step {
            step: step + 1,
            total,
            loss: loss as f32,
            learning_rate: rate,
            gradient_norm: update.gradient_norm,
            tokens,
            tokens_per_second: tokens as f64 / elapsed.as_secs_f64(),
            peak_memory: peak_memory(),
        })
    }

    fn evaluate(&self, data: &TrainingData, run: &mut RunState) -> Result<TrainingEvent> {
        let (mut sum, mut count) = (0.0_f64, 0_usize);
        let order: Vec<usize> = (0..data.sequences.len()).collect();
        for batch in batches(data, &order, self.options.batch_size) {
            let batch = pick(data, &batch);
            let targets: usize = batch.iter().map(TrainingSequence::num_targets).sum();
            sum += f64::from(self.trainable.evaluate(&batch)?) * targets as f64;
            count += targets;
        }
        let loss = (sum / count.max(1) as f64) as f32;
        let best = run.best_evaluation.is_none_or(|best| loss < best);
        if best {
            run.best_evaluation = Some(loss);
            run.evaluations_since_best = 0;
            if let Some(output) = &self.options.output {
                self.adapter.save(&output.join("best"))?;
            }
        } else {
            run.evaluations_since_best += 1;
        }
        Ok(TrainingEvent::Evaluation { step: run.step, loss, best })
    }

    fn checkpoint(
        &self,
        run: &mut RunState,
        event: &mut dyn FnMut(&TrainingEvent) -> Result<AfterEvent>,
    ) -> Result<()> {
        let Some(output) = &self.options.output else { return Ok(()) };
        let state = self.trainable.training_state()?;
        run.passes = state.passes;
        let keep = self.options.keep_checkpoints;
        let path = Checkpoints::new(output).save(run, &state, &*self.adapter, keep)?;
        event(&TrainingEvent::Checkpoint { step: run.step, path }).map(|_| ())
    }

    /// The state to continue from, of a run with the same settings.
    fn resumed(&self, fresh: &RunState) -> Result<Option<RunState>> {
        let output = self.options.output.as_ref().filter(|_| self.options.resume);
        let Some(output) = output else { return Ok(None) };
        let Some(path) = Checkpoints::new(output).latest()? else { return Ok(None) };
        let (run, state) = Checkpoints::load(&path)?;
        if run.settings != fresh.settings {
            let names = ["lora", "optimizer", "schedule", "batches", "data"];
            let differs = names.iter().find(|n| run.settings.get(**n) != fresh.settings.get(**n));
            let name = differs.copied().unwrap_or("settings");
            let value = |run: &RunState| {
                run.settings.get(name).map_or_else(String::new, ToString::to_string)
            };
            let what = format!("`{name}` for the run in `{}`", path.display());
            return Err(Error::invalid_input(what, value(&run), value(fresh)));
        }
        self.trainable.restore(&state)?;
        Ok(Some(run))
    }

    /// What has to be the same for a run to continue.
    fn settings(&self, data: &TrainingData, plan: &BatchPlan) -> Result<serde_json::Value> {
        let options = &self.options;
        let value = |value: serde_json::Result<serde_json::Value>| {
            value.map_err(|error| Error::engine("writing a run's settings", error))
        };
        Ok(json!({
            "lora": value(serde_json::to_value(&options.lora))?,
            "optimizer": value(serde_json::to_value(&options.optimizer))?,
            "schedule": {
                "decay": options.decay.as_str(),
                "warmup_steps": options.warmup_steps,
                "steps": plan.steps.len(),
            },
            "batches": {
                "batch_size": value(serde_json::to_value(options.batch_size))?,
                "accumulation": options.accumulation,
                "shuffle": options.shuffle,
            },
            "data": format!("{:016x}", digest(data)),
        }))
    }
}

fn pick(data: &TrainingData, indices: &[usize]) -> Vec<TrainingSequence> {
    indices.iter().filter_map(|index| data.sequences.get(*index).cloned()).collect()
}

/// Tells data apart. FNV-1a, Fowler, Noll & Vo.
fn digest(data: &TrainingData) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |value: u64| hash = (hash ^ value).wrapping_mul(0x0100_0000_01b3);
    for sequence in &data.sequences {
        add(sequence.ids.len() as u64);
        for (id, target) in sequence.ids.iter().zip(&sequence.targets) {
            add(u64::from(*id) << 1 | u64::from(*target));
        }
    }
    hash
}
