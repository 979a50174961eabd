//! What a loader hands over besides the runner.

use std::sync::Arc;

use inference_core::{GenerateOptions, ModelInfo, TokenId, TrainableModel};
use inference_text::{ChatTemplate, Tokenizer};

use crate::adapters::AdapterSource;

/// What a model is made of besides its [`ModelRunner`](crate::ModelRunner).
///
/// Without a tokenizer the model works on ids alone: prompts are
/// [`Prompt::Tokens`](inference_core::Prompt::Tokens), texts are empty, and
/// what needs text (stop strings, labels) is refused as unsupported.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelParts {
    /// Facts about the model. The engine sets `vocab_size` and `context_len`
    /// from the runner and `has_tokenizer` and `has_chat_template` from the
    /// parts.
    pub info: ModelInfo,
    /// Text to ids and back.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Messages to text.
    pub template: Option<Arc<ChatTemplate>>,
    /// Values of `generation_config.json`, for options a request leaves unset.
    pub defaults: GenerateOptions,
    /// The tokens that end a text.
    pub eos: Vec<TokenId>,
    /// Stands for architecture and weights: models of the same identity
    /// compute the same keys and values, but for rounding. Without one,
    /// snapshots of sequences cannot be written to files.
    pub identity: Option<String>,
    /// Training of the model that runs; it must not keep the model's memory
    /// alive.
    pub trainable: Option<Arc<dyn TrainableModel>>,
    /// The adapters that requests choose from; `None` where the runner knows
    /// none.
    pub adapters: Option<Arc<dyn AdapterSource>>,
}

impl ModelParts {
    /// A model without any of the others.
    #[must_use]
    pub fn new(info: ModelInfo) -> Self {
        let defaults = GenerateOptions::default();
        Self {
            info,
            tokenizer: None,
            template: None,
            defaults,
            eos: Vec::new(),
            identity: None,
            trainable: None,
            adapters: None,
        }
    }

    /// Sets the tokenizer.
    #[must_use]
    pub fn with_tokenizer(mut self, tokenizer: impl Into<Arc<Tokenizer>>) -> Self {
        self.tokenizer = Some(tokenizer.into());
        self
    }

    /// Sets the chat template.
    #[must_use]
    pub fn with_template(mut self, template: impl Into<Arc<ChatTemplate>>) -> Self {
        self.template = Some(template.into());
        self
    }

    /// Sets the values for options that a request leaves unset.
    #[must_use]
    pub fn with_defaults(mut self, defaults: GenerateOptions) -> Self {
        self.defaults = defaults;
        self
    }

    /// Sets what stands for architecture and weights.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Sets how the model is trained.
    #[must_use]
    pub fn with_trainable(mut self, trainable: Arc<dyn TrainableModel>) -> Self {
        self.trainable = Some(trainable);
        self
    }

    /// Sets the adapters that requests choose from.
    #[must_use]
    pub fn with_adapters(mut self, adapters: Arc<dyn AdapterSource>) -> Self {
        self.adapters = Some(adapters);
        self
    }

    /// Sets the tokens that end a text.
    #[must_use]
    pub fn with_eos(mut self, eos: Vec<TokenId>) -> Self {
        self.eos = eos;
        self
    }
}
