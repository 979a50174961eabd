//! What a training run is told.

use std::path::PathBuf;
use std::sync::Arc;

use inference_core::{Error, LoraConfig, OptimizerConfig, ProbeBus, ProgressSink, Result};

use crate::Decay;

/// How many sequences a forward pass has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchSize {
    /// So many.
    Sequences(usize),
    /// As many, in the order of the data, as so many tokens hold; at least one.
    /// Sequences lie side by side without padding and do not see each other.
    Tokens(usize),
}

/// How a [`Trainer`](crate::Trainer) trains.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrainerOptions {
    /// The adapter. Its seed is also that of dropout and of the data's order.
    pub lora: LoraConfig,
    /// The optimizer, with the highest learning rate.
    pub optimizer: OptimizerConfig,
    /// How the learning rate goes after warming up. Default: linear.
    pub decay: Decay,
    /// Steps of warming up. Default: 0.
    pub warmup_steps: u64,
    /// Passes over the data. Default: 1.
    pub epochs: u64,
    /// Steps after which the run ends, whatever the epochs. Default: none.
    pub max_steps: Option<u64>,
    /// Sequences of a forward pass. Default: 4 sequences.
    pub batch_size: BatchSize,
    /// Forward passes per step. Default: 1.
    pub accumulation: u64,
    /// Whether each epoch has its own order. Default: yes.
    pub shuffle: bool,
    /// Whether activations are computed again on the way back. Default: no.
    pub gradient_checkpointing: bool,
    /// Steps between evaluations; 0: after each epoch. Default: 0.
    pub evaluate_every: u64,
    /// Evaluations without a lower loss after which the run ends. Default: no
    /// end.
    pub patience: Option<u64>,
    /// Where checkpoints go, and the adapter at the end. Default: nowhere.
    pub output: Option<PathBuf>,
    /// Steps between checkpoints; 0: at the end only. Default: 0.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept, at least 1. Default: 2.
    pub keep_checkpoints: usize,
    /// Whether the run continues from the latest checkpoint, if there is one.
    /// Default: no.
    pub resume: bool,
    /// Receives the run as a phase of steps.
    pub progress: Option<ProgressSink>,
    /// Receives a probe event per step.
    pub probe: Option<Arc<ProbeBus>>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            optimizer: OptimizerConfig::default(),
            decay: Decay::default(),
            warmup_steps: 0,
            epochs: 1,
            max_steps: None,
            batch_size: BatchSize::Sequences(4),
            accumulation: 1,
            shuffle: true,
            gradient_checkpointing: false,
            evaluate_every: 0,
            patience: None,
            output: None,
            checkpoint_every: 0,
            keep_checkpoints: 2,
            resume: false,
            progress: None,
            probe: None,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $setter:ident($field:ident: $type:ty) $value:expr;)*) => {
        impl TrainerOptions {
            $($(#[$doc])*
            #[must_use]
            pub fn $setter(mut self, $field: $type) -> Self {
                self.$field = $value;
                self
            })*
        }
    };
}

setters! {
    /// Sets the adapter.
    with_lora(lora: LoraConfig) lora;
    /// Sets the optimizer.
    with_optimizer(optimizer: OptimizerConfig) optimizer;
    /// Sets how the learning rate goes after warming up.
    with_decay(decay: Decay) decay;
    /// Sets the steps of warming up.
    with_warmup_steps(warmup_steps: u64) warmup_steps;
    /// Sets the passes over the data.
    with_epochs(epochs: u64) epochs;
    /// Sets the steps after which the run ends.
    with_max_steps(max_steps: u64) Some(max_steps);
    /// Sets the sequences of a forward pass.
    with_batch_size(batch_size: BatchSize) batch_size;
    /// Sets the forward passes per step.
    with_accumulation(accumulation: u64) accumulation;
    /// Sets whether each epoch has its own order.
    with_shuffle(shuffle: bool) shuffle;
    /// Sets whether activations are computed again on the way back.
    with_gradient_checkpointing(gradient_checkpointing: bool) gradient_checkpointing;
    /// Sets the steps between evaluations.
    with_evaluate_every(evaluate_every: u64) evaluate_every;
    /// Sets the evaluations without a lower loss after which the run ends.
    with_patience(patience: u64) Some(patience);
    /// Sets where checkpoints and the adapter go.
    with_output(output: impl Into<PathBuf>) Some(output.into());
    /// Sets the steps between checkpoints.
    with_checkpoint_every(checkpoint_every: u64) checkpoint_every;
    /// Sets how many checkpoints are kept.
    with_keep_checkpoints(keep_checkpoints: usize) keep_checkpoints;
    /// Sets whether the run continues from the latest checkpoint.
    with_resume(resume: bool) resume;
    /// Sets what receives the run as a phase.
    with_progress(progress: ProgressSink) Some(progress);
    /// Sets what receives a probe event per step.
    with_probe(probe: Arc<ProbeBus>) Some(probe);
}

impl TrainerOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for the
    /// first value outside its range;
    /// [`Unsupported`](inference_core::ErrorKind::Unsupported) for checkpoints
    /// without an output.
    pub fn validate(&self) -> Result<()> {
        self.lora.validate()?;
        self.optimizer.validate()?;
        let batch = match self.batch_size {
            BatchSize::Sequences(count) | BatchSize::Tokens(count) => count as u64,
        };
        for (option, value) in [
            ("epochs", self.epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("batch_size", batch),
            ("accumulation", self.accumulation),
            ("patience", self.patience.unwrap_or(1)),
            ("keep_checkpoints", self.keep_checkpoints as u64),
        ] {
            if value == 0 {
                return Err(Error::invalid_option(option, value, "at least 1"));
            }
        }
        if self.output.is_none() && (self.checkpoint_every > 0 || self.resume) {
            return Err(Error::unsupported("a run without an output", "checkpoints"));
        }
        Ok(())
    }
}
