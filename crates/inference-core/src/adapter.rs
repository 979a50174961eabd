//! LoRA adapters: using and training them.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result, TokenId};

/// How a new LoRA adapter is shaped.
///
/// Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct LoraConfig {
    /// Rank of the factors, at least 1. Default: 8.
    pub rank: usize,
    /// Scaling numerator: the update is scaled by `alpha / rank`, or by
    /// `alpha / sqrt(rank)` with [`rslora`](Self::rslora). Default: 16.
    pub alpha: f32,
    /// Dropout on the adapter's input while training, in [0, 1). Default: 0.
    pub dropout: f32,
    /// The modules to adapt, by suffix of their names.
    /// Default: `q_proj` and `v_proj`.
    pub target_modules: Vec<String>,
    /// Rank-stabilized scaling (Kalajdzievski, 2023). Default: false.
    pub rslora: bool,
    /// Seed of the initial factors. Default: 0.
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            target_modules: vec!["q_proj".to_owned(), "v_proj".to_owned()],
            rslora: false,
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// The default configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the rank.
    #[must_use]
    pub fn with_rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }

    /// Sets the scaling numerator.
    #[must_use]
    pub fn with_alpha(mut self, alpha: f32) -> Self {
        self.alpha = alpha;
        self
    }

    /// Sets the dropout.
    #[must_use]
    pub fn with_dropout(mut self, dropout: f32) -> Self {
        self.dropout = dropout;
        self
    }

    /// Sets the modules to adapt.
    #[must_use]
    pub fn with_target_modules<I: IntoIterator<Item: Into<String>>>(mut self, names: I) -> Self {
        self.target_modules = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets rank-stabilized scaling.
    #[must_use]
    pub fn with_rslora(mut self, rslora: bool) -> Self {
        self.rslora = rslora;
        self
    }

    /// Sets the seed of the initial factors.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for the
    /// first value outside its range.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::invalid_option("rank", 0, "at least 1"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::invalid_option("alpha", self.alpha, "greater than 0, finite"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid_option(
                "dropout",
                self.dropout,
                "0 up to, not including, 1",
            ));
        }
        if self.target_modules.iter().any(String::is_empty) {
            return Err(Error::invalid_option("target_modules", "\"\"", "no empty name"));
        }
        if self.target_modules.is_empty() {
            return Err(Error::invalid_option("target_modules", "[]", "at least one module"));
        }
        Ok(())
    }
}

/// A LoRA adapter on a model.
pub trait Adapter: Send + Sync {
    /// Number of adapter parameters.
    fn total_params(&self) -> usize;

    /// Writes the adapter to the folder `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); an older adapter there survives.
    fn save(&self, path: &Path) -> Result<()>;
}

/// A loaded adapter, as [`Adapters::list`] shows it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AdapterInfo {
    /// The name that requests use.
    pub name: String,
    /// Rank of its factors.
    pub rank: usize,
    /// Factor on top of the adapter's own scaling; 1 by default.
    pub scale: f32,
    /// Number of adapter parameters.
    pub total_params: usize,
}

impl AdapterInfo {
    /// A description of a loaded adapter.
    pub fn new(name: impl Into<String>, rank: usize, scale: f32, total_params: usize) -> Self {
        Self { name: name.into(), rank, scale, total_params }
    }
}

/// The adapters that requests of a model can choose from.
pub trait Adapters: Send + Sync {
    /// Loads the adapter at `path` under `name`, replacing one of that name.
    ///
    /// # Errors
    ///
    /// An error that names the file, field or tensor which does not fit;
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a
    /// scale that is not finite.
    fn load(&self, name: &str, path: &Path, scale: f32) -> Result<AdapterInfo>;

    /// Unloads an adapter, once no running request uses it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where no
    /// adapter has that name.
    fn unload(&self, name: &str) -> Result<()>;

    /// Sets the scale of a loaded adapter, for requests from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where no
    /// adapter has that name,
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a
    /// scale that is not finite.
    fn set_scale(&self, name: &str, scale: f32) -> Result<()>;

    /// The loaded adapters, sorted by name.
    fn list(&self) -> Vec<AdapterInfo>;
}

/// The loss of one forward pass, with what its backend needs to go back.
pub struct Loss {
    value: f32,
    graph: Box<dyn Any + Send>,
}

impl Loss {
    /// A loss and its backend's own graph.
    #[must_use]
    pub fn new(value: f32, graph: Box<dyn Any + Send>) -> Self {
        Self { value, graph }
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

/// A model whose adapter can be trained while it serves.
///
/// The hand-written loop: [`apply_lora`](Self::apply_lora) once, then
/// [`forward_loss`](Self::forward_loss), [`backward`](Self::backward) as often
/// as gradients are to accumulate, and [`step`](Self::step).
pub trait TrainableModel: Send + Sync {
    /// Attaches a fresh adapter and makes it the one that is trained.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a bad
    /// configuration, an unknown target module included.
    fn apply_lora(&self, config: &LoraConfig) -> Result<Arc<dyn Adapter>>;

    /// Number of decoder layers.
    fn num_layers(&self) -> usize;

    /// Mean cross-entropy over the target tokens of `batch`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a batch
    /// without a target or longer than the context.
    fn forward_loss(&self, batch: &[TrainingSequence]) -> Result<Loss>;

    /// Adds the gradients of `loss` to those gathered since the last step.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) where the loss is not
    /// this model's, or a gradient is not finite.
    fn backward(&self, loss: Loss) -> Result<()>;

    /// Updates the adapter with the gathered gradients and clears them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) without gradients.
    fn step(&self) -> Result<()>;
}
