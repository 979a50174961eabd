//! The contract's trainable model.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use inference_core::{
    Adapter, Error, LoraConfig, Loss, OptimizerConfig, Result, TrainableModel, TrainingSequence,
    TrainingState, UpdateReport,
};
use inference_lora::{Draws, ModuleTable, PeftConfig, save_peft};

use super::factors::Factors;
use super::maps::maps;
use super::pass::{Batch, Graph, Mode, backward, forward};
use crate::Decoder;

/// A decoder whose adapter can be trained; the engine runs the same decoder.
pub(crate) struct Trainable {
    /// The runner owns it.
    decoder: Weak<Decoder>,
    num_layers: usize,
    context_len: usize,
    shared: Arc<Mutex<Shared>>,
}

/// What calls change.
#[derive(Default)]
struct Shared {
    optimizer: OptimizerConfig,
    checkpointing: bool,
    /// The adapter, and its number.
    factors: Option<Factors>,
    generation: u64,
}

impl Trainable {
    /// A trainable `decoder` on the CPU, for sequences of at most
    /// `context_len` tokens.
    pub(crate) fn new(decoder: &Arc<Decoder>, context_len: usize) -> Self {
        let num_layers = decoder.layers().len();
        Self { decoder: Arc::downgrade(decoder), num_layers, context_len, shared: Arc::default() }
    }

    fn decoder(&self) -> Result<Arc<Decoder>> {
        self.decoder.upgrade().ok_or_else(|| Error::Closed)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_adapter() -> Error {
    Error::engine_message("no adapter to train: call `apply_lora` first")
}

impl fmt::Debug for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainable").field("context_len", &self.context_len).finish_non_exhaustive()
    }
}

/// A pass, and the adapter that it is of.
struct Pass {
    graph: Graph,
    generation: u64,
}

impl TrainableModel for Trainable {
    fn modules(&self) -> Vec<String> {
        self.decoder().map(|decoder| maps(&decoder).into_keys().collect()).unwrap_or_default()
    }

    fn num_layers(&self) -> usize {
        self.num_layers
    }

    fn apply_lora(&self, config: &LoraConfig) -> Result<Arc<dyn Adapter>> {
        let decoder = self.decoder()?;
        let table = decoder.config().modules();
        let factors = Factors::new(&decoder, &table, config)?;
        let total_params = factors.total_params();
        let mut shared = self.shared();
        shared.factors = Some(factors);
        shared.generation += 1;
        let generation = shared.generation;
        drop(shared);
        let shared = Arc::clone(&self.shared);
        Ok(Arc::new(TrainedAdapter { shared, generation, total_params, table }))
    }

    fn set_optimizer(&self, config: &OptimizerConfig) -> Result<()> {
        config.validate()?;
        self.shared().optimizer = config.clone();
        Ok(())
    }

    fn set_gradient_checkpointing(&self, on: bool) {
        self.shared().checkpointing = on;
    }

    fn forward_loss(&self, batch: &[TrainingSequence]) -> Result<Loss> {
        let decoder = self.decoder()?;
        let batch = Batch::new(&decoder, self.context_len, batch)?;
        let mut shared = self.shared();
        let (checkpointing, generation) = (shared.checkpointing, shared.generation);
        let factors = shared.factors.as_mut().ok_or_else(no_adapter)?;
        let draws = Draws::new(factors.config.seed).stream(u64::MAX).stream(factors.passes);
        let mode = Mode::Train { checkpointing, draws };
        let (value, graph) = forward(&decoder, factors, batch, mode)?;
        factors.passes += 1;
        Ok(Loss::new(value, Box::new(Pass { graph, generation })))
    }

    fn evaluate(&self, batch: &[TrainingSequence]) -> Result<f32> {
        let decoder = self.decoder()?;
        let batch = Batch::new(&decoder, self.context_len, batch)?;
        let shared = self.shared();
        let factors = shared.factors.as_ref().ok_or_else(no_adapter)?;
        Ok(forward(&decoder, factors, batch, Mode::Evaluate)?.0)
    }

    fn backward(&self, loss: Loss) -> Result<()> {
        let (decoder, weight) = (self.decoder()?, loss.weight());
        let mut shared = self.shared();
        let pass = loss.into_graph().downcast::<Pass>().ok();
        let pass = pass.filter(|pass| pass.generation == shared.generation);
        let (Some(pass), Some(factors)) = (pass, shared.factors.as_mut()) else {
            return Err(Error::engine_message("the loss is not one of the adapter's"));
        };
        backward(&decoder, factors, pass.graph, weight)
    }

    fn step(&self) -> Result<UpdateReport> {
        let mut shared = self.shared();
        let optimizer = shared.optimizer.clone();
        shared.factors.as_mut().ok_or_else(no_adapter)?.update(&optimizer)
    }

    fn gradients(&self) -> Vec<(String, Vec<f32>)> {
        self.shared().factors.as_ref().map(Factors::gradients).unwrap_or_default()
    }

    fn training_state(&self) -> Result<TrainingState> {
        Ok(self.shared().factors.as_ref().ok_or_else(no_adapter)?.state())
    }

    fn restore(&self, state: &TrainingState) -> Result<()> {
        self.shared().factors.as_mut().ok_or_else(no_adapter)?.restore(state)
    }
}

/// The adapter that [`TrainableModel::apply_lora`] returned.
struct TrainedAdapter {
    shared: Arc<Mutex<Shared>>,
    generation: u64,
    total_params: usize,
    table: ModuleTable,
}

impl Adapter for TrainedAdapter {
    fn total_params(&self) -> usize {
        self.total_params
    }

    fn save(&self, path: &Path) -> Result<()> {
        let shared = lock(&self.shared);
        let factors = shared.factors.as_ref().filter(|_| shared.generation == self.generation);
        let Some(factors) = factors else {
            return Err(Error::engine_message("another adapter took this one's place"));
        };
        let (weights, config) = (factors.weights()?, PeftConfig::new(&factors.config)?);
        drop(shared);
        save_peft(path, &config, &weights, &self.table)
    }
}
