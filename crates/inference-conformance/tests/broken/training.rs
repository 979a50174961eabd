//! Training of the specimen: an adapter of one number, drawn to what the
//! sequences say.

use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use inference_core::{
    Adapter, Error, FactorState, LoraConfig, Loss, OptimizerConfig, Result, TrainableModel,
    TrainingSequence, TrainingState, UpdateReport,
};

use crate::defect::Defect;
use crate::model::Model;

const MODULE: &str = "layers.0.map";

/// What is trained.
#[derive(Debug, Default)]
pub(crate) struct Training {
    /// The number, where there is an adapter.
    value: Option<f32>,
    gradient: Option<f32>,
    learning_rate: f32,
    updates: u64,
}

struct One;

impl Adapter for One {
    fn total_params(&self) -> usize {
        1
    }

    fn save(&self, _: &Path) -> Result<()> {
        Err(Error::unsupported("the specimen", "saving an adapter"))
    }
}

impl Model {
    fn training(&self) -> MutexGuard<'_, Training> {
        self.training.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What training did to the base's weights: nothing.
    pub(crate) fn moved(&self) -> u64 {
        if self.flaw().is(Defect::TrainingMovesBase) { self.training().updates } else { 0 }
    }

    /// How far the number is from what the sequences say.
    fn distance(&self, batch: &[TrainingSequence]) -> Result<f32> {
        if batch.is_empty() {
            return Err(Error::invalid_input("batch", "at least one sequence", "none"));
        }
        batch.iter().try_for_each(TrainingSequence::validate)?;
        let said = batch.iter().flat_map(|one| &one.ids).sum::<u32>() % 7;
        let value = self.training().value.ok_or_else(no_adapter)?;
        Ok(value - 1.0 - said as f32)
    }
}

fn no_adapter() -> Error {
    Error::engine_message("no adapter")
}

impl TrainableModel for Model {
    fn modules(&self) -> Vec<String> {
        vec![MODULE.to_owned()]
    }

    fn num_layers(&self) -> usize {
        1
    }

    fn apply_lora(&self, config: &LoraConfig) -> Result<Arc<dyn Adapter>> {
        config.validate()?;
        if let Some(name) = config.target_modules.iter().find(|name| !MODULE.ends_with(*name)) {
            return Err(Error::invalid_option("target_modules", name, MODULE));
        }
        let value = Some(config.seed as f32 / 100.0);
        *self.training() = Training { value, ..Training::default() };
        Ok(Arc::new(One))
    }

    fn set_optimizer(&self, config: &OptimizerConfig) -> Result<()> {
        config.validate()?;
        self.training().learning_rate = config.learning_rate as f32;
        Ok(())
    }

    fn set_gradient_checkpointing(&self, _: bool) {}

    fn forward_loss(&self, batch: &[TrainingSequence]) -> Result<Loss> {
        let distance = self.distance(batch)?;
        Ok(Loss::new(distance * distance, Box::new(2.0 * distance)))
    }

    fn evaluate(&self, batch: &[TrainingSequence]) -> Result<f32> {
        self.distance(batch).map(|distance| distance * distance)
    }

    fn backward(&self, loss: Loss) -> Result<()> {
        let gradient = loss.into_graph().downcast::<f32>();
        let gradient = gradient.map_err(|_| Error::engine_message("another model's loss"))?;
        *self.training().gradient.get_or_insert(0.0) += *gradient;
        Ok(())
    }

    fn step(&self) -> Result<UpdateReport> {
        let mut training = self.training();
        let gradient = match training.gradient.take() {
            Some(gradient) => gradient,
            None if self.flaw().is(Defect::StepsOnNothing) => 0.0,
            None => return Err(Error::engine_message("a step without gradients")),
        };
        let rate = training.learning_rate;
        if !self.flaw().is(Defect::StepForgotten) {
            training.value = training.value.map(|value| value - rate * gradient);
        }
        training.updates += 1;
        Ok(UpdateReport::new(training.updates, f64::from(gradient.abs())))
    }

    fn gradients(&self) -> Vec<(String, Vec<f32>)> {
        let gradient = self.training().gradient;
        gradient.map(|gradient| (MODULE.to_owned(), vec![gradient])).into_iter().collect()
    }

    fn training_state(&self) -> Result<TrainingState> {
        let training = self.training();
        let value = training.value.ok_or_else(no_adapter)?;
        let factor = FactorState::new(MODULE, [1, 1], vec![value]);
        Ok(TrainingState::new(training.updates, training.updates, vec![factor]))
    }

    fn restore(&self, state: &TrainingState) -> Result<()> {
        let [FactorState { name, values, .. }] = state.factors.as_slice() else {
            let found = state.factors.len().to_string();
            return Err(Error::invalid_input("factors", "one", found));
        };
        let [value] = values.as_slice() else {
            return Err(Error::invalid_input(name, "one value", values.len().to_string()));
        };
        let mut training = self.training();
        (training.value, training.gradient) = (Some(*value), None);
        training.updates = state.updates;
        Ok(())
    }
}
