//! LoRA adapters: their shape, and using them.

use std::path::Path;

use crate::{Error, Result};

/// The type of an adapter's factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AdapterDtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// The upper half of 32-bit floats.
    Bf16,
}

/// How the factors of a new adapter begin. `B` is zero always, so that a new
/// adapter changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LoraInit {
    /// `A` uniform in `±1 / sqrt(in)`, as PEFT's default. He et al., 2015,
    /// with `a = sqrt(5)`.
    #[default]
    Kaiming,
    /// `A` normal with a standard deviation of `1 / rank`.
    Gaussian,
}

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
    /// The modules to adapt, by suffix of their names: whole parts, so that
    /// `q_proj` means every `….q_proj`. Default: `q_proj` and `v_proj`.
    pub target_modules: Vec<String>,
    /// The modules to adapt, by a regular expression that a whole path, such
    /// as `model.layers.0.self_attn.q_proj`, has to match; it takes the place of
    /// [`target_modules`](Self::target_modules). Default: none.
    pub target_pattern: Option<String>,
    /// What the factors are stored and computed as. The optimizer's own copy
    /// is f32 all the same. Default: f32.
    pub dtype: AdapterDtype,
    /// How the factors begin. Default: [`LoraInit::Kaiming`].
    pub init: LoraInit,
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
            target_pattern: None,
            dtype: AdapterDtype::F32,
            init: LoraInit::Kaiming,
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

    /// Sets the modules to adapt by a regular expression.
    #[must_use]
    pub fn with_target_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.target_pattern = Some(pattern.into());
        self
    }

    /// Sets the type of the factors.
    #[must_use]
    pub fn with_dtype(mut self, dtype: AdapterDtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets how the factors begin.
    #[must_use]
    pub fn with_init(mut self, init: LoraInit) -> Self {
        self.init = init;
        self
    }

    /// The factor on the product of the factors: `alpha / rank`, or
    /// `alpha / sqrt(rank)` where rank-stabilized.
    #[must_use]
    pub fn scaling(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
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
        if let Some(pattern) = &self.target_pattern {
            if pattern.is_empty() {
                return Err(Error::invalid_option(
                    "target_pattern",
                    "\"\"",
                    "a regular expression",
                ));
            }
            return Ok(());
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
    /// Bytes of its tensors; 0 where the backend does not say.
    pub bytes: u64,
    /// Whether it is in memory. One that had to make room for others is read
    /// again for the next request that names it.
    pub resident: bool,
}

impl AdapterInfo {
    /// A description of an adapter in memory.
    pub fn new(name: impl Into<String>, rank: usize, scale: f32, total_params: usize) -> Self {
        Self { name: name.into(), rank, scale, total_params, bytes: 0, resident: true }
    }
}

/// The name under which [`LoadOptions::adapter_path`](crate::LoadOptions::adapter_path)
/// is loaded: what a request uses that names no adapter, as long as an adapter
/// has it. Without one, such requests use the model itself.
pub const DEFAULT_ADAPTER: &str = "default";

/// The name that stands for no adapter: a request that names it uses the model
/// itself, also where an adapter is called [`DEFAULT_ADAPTER`]. Nothing can be
/// loaded under it.
pub const BASE_MODEL: &str = "";

/// The adapters that requests of a model can choose from.
///
/// A request keeps what it began with: an adapter that is replaced, or has
/// another scale, changes later requests.
pub trait Adapters: Send + Sync {
    /// Loads the adapter at `path` under `name`, replacing one of that name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for the
    /// name [`BASE_MODEL`];
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
