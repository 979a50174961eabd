//! Training an adapter on the model that serves it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::{Adapter, Error, LoraConfig, Result, TokenId};

/// The loss of one forward pass, with what its backend needs to go back.
pub struct Loss {
    value: f32,
    weight: f32,
    graph: Box<dyn Any + Send>,
}

impl Loss {
    /// A loss and its backend's own graph.
    #[must_use]
    pub fn new(value: f32, graph: Box<dyn Any + Send>) -> Self {
        Self { value, weight: 1.0, graph }
    }

    /// Sets the factor on its gradients: with several batches per step, the
    /// share of each in their mean.
    #[must_use]
    pub fn with_weight(mut self, weight: f32) -> Self {
        self.weight = weight;
        self
    }

    /// The factor on its gradients; 1 by default.
    #[must_use]
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// The loss: mean cross-entropy in nats per target token.
    #[must_use]
    pub fn value(&self) -> f32 {
        self.value
    }

    /// The backend's graph.
    #[must_use]
    pub fn into_graph(self) -> Box<dyn Any + Send> {
        self.graph
    }
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loss").field("value", &self.value).finish_non_exhaustive()
    }
}

/// One training sequence: ids, and for each whether it is a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TrainingSequence {
    /// Token ids, `[tokens]`.
    pub ids: Vec<TokenId>,
    /// For each id whether predicting it counts in the loss, `[tokens]`.
    pub targets: Vec<bool>,
}

impl TrainingSequence {
    /// A sequence in which every token is a target; of the first the flag has
    /// no effect, for nothing predicts it.
    #[must_use]
    pub fn new(ids: Vec<TokenId>) -> Self {
        let targets = vec![true; ids.len()];
        Self { ids, targets }
    }

    /// Sets which tokens are targets, `[tokens]`.
    #[must_use]
    pub fn with_targets(mut self, targets: Vec<bool>) -> Self {
        self.targets = targets;
        self
    }

    /// Tokens that count in the loss. The first token never does: nothing
    /// predicts it.
    #[must_use]
    pub fn num_targets(&self) -> usize {
        self.targets.iter().skip(1).filter(|target| **target).count()
    }

    /// Checks that ids and targets fit together.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where their
    /// numbers differ or nothing is a target.
    pub fn validate(&self) -> Result<()> {
        if self.ids.len() != self.targets.len() {
            let expected = format!("one per id ({})", self.ids.len());
            return Err(Error::invalid_input("targets", expected, self.targets.len().to_string()));
        }
        if self.num_targets() == 0 {
            return Err(Error::invalid_input("targets", "a target after the first token", "none"));
        }
        Ok(())
    }
}

/// How [`TrainableModel::step`] updates: AdamW. Loshchilov & Hutter,
/// *Decoupled Weight Decay Regularization*, 2019.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// Step size, at least 0. Default: 0.0002.
    pub learning_rate: f64,
    /// Decay of the mean of gradients, in [0, 1). Default: 0.9.
    pub beta1: f64,
    /// Decay of the mean of their squares, in [0, 1). Default: 0.999.
    pub beta2: f64,
    /// Added to the root of the latter, greater than 0. Default: 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay, at least 0. Default: 0.
    pub weight_decay: f64,
    /// The Euclidean norm that all gradients together are scaled down to,
    /// greater than 0; `None`: they are left as they are. Default: 1.
    pub max_gradient_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 2e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_gradient_norm: Some(1.0),
        }
    }
}

impl OptimizerConfig {
    /// The default configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the step size.
    #[must_use]
    pub fn with_learning_rate(mut self, learning_rate: f64) -> Self {
        self.learning_rate = learning_rate;
        self
    }

    /// Sets the decays of the means.
    #[must_use]
    pub fn with_betas(mut self, beta1: f64, beta2: f64) -> Self {
        (self.beta1, self.beta2) = (beta1, beta2);
        self
    }

    /// Sets what is added to the root of the mean of squares.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }

    /// Sets the norm that gradients are scaled down to.
    #[must_use]
    pub fn with_max_gradient_norm(mut self, norm: Option<f64>) -> Self {
        self.max_gradient_norm = norm;
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for the
    /// first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let finite = |value: f64, ok: bool| value.is_finite() && ok;
        let unit = |value: f64| (0.0..1.0).contains(&value);
        let norm = self.max_gradient_norm.unwrap_or(1.0);
        let checks = [
            ("learning_rate", self.learning_rate, self.learning_rate >= 0.0, "at least 0"),
            ("beta1", self.beta1, unit(self.beta1), "0 up to, not including, 1"),
            ("beta2", self.beta2, unit(self.beta2), "0 up to, not including, 1"),
            ("epsilon", self.epsilon, self.epsilon > 0.0, "greater than 0"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "at least 0"),
            ("max_gradient_norm", norm, norm > 0.0, "greater than 0"),
        ];
        for (option, value, ok, expected) in checks {
            if !finite(value, ok) {
                return Err(Error::invalid_option(option, value, expected));
            }
        }
        Ok(())
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct UpdateReport {
    /// Updates since the adapter was made, this one included.
    pub update: u64,
    /// The Euclidean norm of all gradients together, before clipping.
    pub gradient_norm: f64,
}

impl UpdateReport {
    /// What update number `update` did.
    #[must_use]
    pub fn new(update: u64, gradient_norm: f64) -> Self {
        Self { update, gradient_norm }
    }
}

/// Everything that continuing to train needs besides configuration and data:
/// from the same state, the same batches give the same bits.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TrainingState {
    /// Updates so far.
    pub updates: u64,
    /// Forward passes so far, from which dropout draws.
    pub passes: u64,
    /// The factors, sorted by name.
    pub factors: Vec<FactorState>,
}

impl TrainingState {
    /// A state.
    #[must_use]
    pub fn new(updates: u64, passes: u64, factors: Vec<FactorState>) -> Self {
        Self { updates, passes, factors }
    }
}

/// One factor of an adapter under training.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FactorState {
    /// Module and factor, for example `layers.0.self_attn.q_proj.lora_A`.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The optimizer's copy of the values, row-major.
    pub values: Vec<f32>,
    /// Means of gradients; empty before the first update.
    pub mean: Vec<f32>,
    /// Means of their squares; empty before the first update.
    pub mean_square: Vec<f32>,
}

impl FactorState {
    /// A factor before its first update.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: [usize; 2], values: Vec<f32>) -> Self {
        Self { name: name.into(), shape, values, ..Self::default() }
    }

    /// Sets the optimizer's means.
    #[must_use]
    pub fn with_means(mut self, mean: Vec<f32>, mean_square: Vec<f32>) -> Self {
        (self.mean, self.mean_square) = (mean, mean_square);
        self
    }
}

impl fmt::Debug for dyn TrainableModel + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrainableModel({} layers)", self.num_layers())
    }
}

/// A model whose adapter can be trained while it serves.
///
/// The hand-written loop: [`apply_lora`](Self::apply_lora) once, then
/// [`forward_loss`](Self::forward_loss), [`backward`](Self::backward) as often
/// as gradients are to accumulate, and [`step`](Self::step).
pub trait TrainableModel: Send + Sync {
    /// The modules that an adapter can have, by name.
    fn modules(&self) -> Vec<String>;

    /// Number of decoder layers.
    fn num_layers(&self) -> usize;

    /// Attaches a fresh adapter and makes it the one that is trained.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a bad
    /// configuration, an unknown target module included.
    fn apply_lora(&self, config: &LoraConfig) -> Result<Arc<dyn Adapter>>;

    /// Sets how [`step`](Self::step) updates, from the next on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption).
    fn set_optimizer(&self, config: &OptimizerConfig) -> Result<()>;

    /// Whether a layer's activations are computed again on the way back
    /// instead of being kept: less memory for about a third more time; the
    /// bits are the same. Chen et al., 2016. Default: no.
    fn set_gradient_checkpointing(&self, on: bool);

    /// Mean cross-entropy over the target tokens of `batch`, with dropout.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a batch
    /// without a target, or longer than the context;
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) without an adapter.
    fn forward_loss(&self, batch: &[TrainingSequence]) -> Result<Loss>;

    /// The same without dropout, and without what going back needs.
    ///
    /// # Errors
    ///
    /// As [`forward_loss`](Self::forward_loss).
    fn evaluate(&self, batch: &[TrainingSequence]) -> Result<f32>;

    /// Adds the gradients of `loss`, times its [weight](Loss::weight), to
    /// those gathered since the last step.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) where the loss is not
    /// this adapter's, or a gradient is not finite.
    fn backward(&self, loss: Loss) -> Result<()>;

    /// Updates the adapter with the gathered gradients and clears them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) without gradients.
    fn step(&self) -> Result<UpdateReport>;

    /// The gathered gradients: name of the factor, as in [`FactorState`], and
    /// values, row-major. Empty before the first [`backward`](Self::backward).
    fn gradients(&self) -> Vec<(String, Vec<f32>)>;

    /// What continuing needs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) without an adapter.
    fn training_state(&self) -> Result<TrainingState>;

    /// Continues from `state`; gathered gradients are dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where the
    /// factors are not those of the adapter, by name and shape, or a value is
    /// not finite.
    fn restore(&self, state: &TrainingState) -> Result<()>;
}
