//! Options of one service.

use inference_core::{Error, LoadOptions, Result};

use crate::action::Load;

/// How one service hosts its models.
///
/// ```
/// use inference_core::LoadOptions;
/// use inference_service::{ServiceOptions, action::Load};
///
/// let options = ServiceOptions::new()
///     .with_default_model(Load::new("small", "models/small"))
///     .with_load_options(LoadOptions::new().with_backend("cpu").with_max_queue(64))
///     .with_memory_budget(8 << 30)
///     .with_max_models(3);
/// options.validate()?;
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// The model that actions without a model's name use. It is loaded when it
    /// is first used, by name or without one, and again after it was unloaded.
    /// Default: none.
    pub default_model: Option<Load>,
    /// What a [`Load`] does not set itself: the backend, the KV budget, the
    /// queue of each model, and so on. Default: nothing is set.
    pub load_options: LoadOptions,
    /// Bytes that all models together may take, at least 1; see the
    /// [crate](crate#memory) for what is counted. Default: without limit.
    pub memory_budget: Option<u64>,
    /// Models that may be there at the same time, at least 1. Default: without
    /// limit.
    pub max_models: Option<usize>,
    /// Requests that each model may have open at the same time, at least 1: a
    /// request is open from its action until its stream was read to the end or
    /// dropped, or its answer is there. A further one is refused with
    /// [`Exhausted`](inference_core::ErrorKind::Exhausted). How many of them
    /// wait for a slot is the model's own
    /// [`max_queue`](LoadOptions::max_queue). Default: 4096.
    pub max_requests: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            default_model: None,
            load_options: LoadOptions::new(),
            memory_budget: None,
            max_models: None,
            max_requests: 4096,
        }
    }
}

impl ServiceOptions {
    /// Default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the model that is used where none is named.
    #[must_use]
    pub fn with_default_model(mut self, load: Load) -> Self {
        self.default_model = Some(load);
        self
    }

    /// Sets what a load does not set itself.
    #[must_use]
    pub fn with_load_options(mut self, options: LoadOptions) -> Self {
        self.load_options = options;
        self
    }

    /// Sets the bytes that all models together may take.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// Sets how many models may be there at the same time.
    #[must_use]
    pub fn with_max_models(mut self, models: usize) -> Self {
        self.max_models = Some(models);
        self
    }

    /// Sets how many requests each model may have open.
    #[must_use]
    pub fn with_max_requests(mut self, requests: usize) -> Self {
        self.max_requests = requests;
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for the
    /// first value outside its range,
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for a default
    /// model without a name.
    pub fn validate(&self) -> Result<()> {
        if self.memory_budget == Some(0) {
            return Err(Error::invalid_option("memory_budget", 0, "at least 1 byte"));
        }
        if self.max_models == Some(0) {
            return Err(Error::invalid_option("max_models", 0, "at least 1"));
        }
        if self.max_requests == 0 {
            return Err(Error::invalid_option("max_requests", 0, "at least 1"));
        }
        self.load_options.validate()?;
        self.default_model.as_ref().map_or(Ok(()), Load::validate)
    }
}
