//! What a consumer can ask of a service.
//!
//! Each action is a struct of its own, with the reply that belongs to it
//! ([`TypedAction::Reply`]); [`Action`] is any of them.

use inference_core::{
    BatchItem, ChatPrompt, ClassifyOptions, Error, GenerateOptions, LoadOptions, ModelSource,
    Prompt, Result,
};

use crate::reply::Reply;
use crate::service::InferenceService;

/// Identifies a request within its service. (The ids of probe events count
/// within a model, and are others.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct RequestId(pub u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which model a request is for. Strings are names; `None` is the default
/// model. With the feature `serde` it is a string or `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Option<String>", into = "Option<String>"))]
pub enum Target {
    /// The service's [default model](crate::ServiceOptions::default_model).
    #[default]
    Default,
    /// The model that was loaded under this name.
    Named(String),
}

impl From<&str> for Target {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

impl From<String> for Target {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

impl From<Option<String>> for Target {
    fn from(name: Option<String>) -> Self {
        name.map_or(Self::Default, Self::Named)
    }
}

impl From<Target> for Option<String> {
    fn from(target: Target) -> Self {
        match target {
            Target::Default => None,
            Target::Named(name) => Some(name),
        }
    }
}

/// Loads a model under a name. If it is there already, or another consumer is
/// loading it, the answer is that same model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Load {
    /// What the model is to be called; not empty.
    pub name: String,
    /// Where it comes from.
    pub source: ModelSource,
    /// How to load it; what is unset is taken from the
    /// [service's](crate::ServiceOptions::load_options). Default: all of it.
    pub options: LoadOptions,
    /// Bytes to keep free for it until it is loaded and can be measured.
    /// Default: the size of its weights' files and the KV budget.
    pub memory_bytes: Option<u64>,
    /// Whether it is never unloaded to make room for others. Default: false.
    pub pinned: bool,
}

impl Load {
    /// A load with the service's options.
    pub fn new(name: impl Into<String>, source: impl Into<ModelSource>) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            options: LoadOptions::new(),
            memory_bytes: None,
            pinned: false,
        }
    }

    /// Sets the options that differ from the service's.
    #[must_use]
    pub fn with_options(mut self, options: LoadOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the bytes to keep free until the model can be measured.
    #[must_use]
    pub fn with_memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Sets whether it is never unloaded to make room.
    #[must_use]
    pub fn with_pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.name.is_empty() {
            return Err(Error::invalid_input("model name", "at least one character", "\"\""));
        }
        self.options.validate()
    }
}

/// What becomes of the requests of a model that is unloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum UnloadMode {
    /// Those that were submitted run to their end; see
    /// [`TextModel::drain`](inference_core::TextModel::drain).
    Drain,
    /// They end as [`Cancelled`](inference_core::FinishReason::Cancelled); see
    /// [`TextModel::close`](inference_core::TextModel::close).
    #[default]
    Close,
}

/// Unloads a model, and waits until it is gone. A second unload of the same
/// model joins the first; if it says [`UnloadMode::Close`], a drain is cut
/// short.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Unload {
    /// The model's name.
    pub name: String,
    /// What becomes of its requests. Default: [`UnloadMode::Close`].
    #[cfg_attr(feature = "serde", serde(default))]
    pub mode: UnloadMode,
}

impl Unload {
    /// An unload that cancels the model's requests.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: UnloadMode::Close }
    }

    /// Sets what becomes of the model's requests.
    #[must_use]
    pub fn with_mode(mut self, mode: UnloadMode) -> Self {
        self.mode = mode;
        self
    }
}

/// Streams text that continues a prompt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generate {
    /// The model.
    pub model: Target,
    /// What to continue.
    pub prompt: Prompt,
    /// The request's options.
    pub options: GenerateOptions,
}

impl Generate {
    /// A request with default options.
    pub fn new(model: impl Into<Target>, prompt: impl Into<Prompt>) -> Self {
        let options = GenerateOptions::new();
        Self { model: model.into(), prompt: prompt.into(), options }
    }

    /// Sets the options.
    #[must_use]
    pub fn with_options(mut self, options: GenerateOptions) -> Self {
        self.options = options;
        self
    }
}

/// Streams the assistant's reply to a conversation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Chat {
    /// The model.
    pub model: Target,
    /// The conversation.
    pub chat: ChatPrompt,
    /// The request's options.
    pub options: GenerateOptions,
}

impl Chat {
    /// A request with default options.
    pub fn new(model: impl Into<Target>, chat: impl Into<ChatPrompt>) -> Self {
        Self { model: model.into(), chat: chat.into(), options: GenerateOptions::new() }
    }

    /// Sets the options.
    #[must_use]
    pub fn with_options(mut self, options: GenerateOptions) -> Self {
        self.options = options;
        self
    }
}

/// Scores what would come next after each prompt. Answers when all is
/// computed, or cancelled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Classify {
    /// The model.
    pub model: Target,
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// Labels and what to report.
    pub options: ClassifyOptions,
}

impl Classify {
    /// A request without labels.
    pub fn new(model: impl Into<Target>, prompts: Vec<Prompt>) -> Self {
        Self { model: model.into(), prompts, options: ClassifyOptions::new() }
    }

    /// Sets the options.
    #[must_use]
    pub fn with_options(mut self, options: ClassifyOptions) -> Self {
        self.options = options;
        self
    }
}

/// Runs many requests together. They are one request of the service, with one
/// id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The model.
    pub model: Target,
    /// The items, each with its own options.
    pub items: Vec<BatchItem>,
}

impl Batch {
    /// A batch.
    pub fn new(model: impl Into<Target>, items: Vec<BatchItem>) -> Self {
        Self { model: model.into(), items }
    }
}

/// What the service has loaded. Loads nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Info {
    /// Of this model alone. Default: of every model.
    pub model: Option<String>,
}

impl Info {
    /// Asks about every model.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Asks about one model.
    pub fn of(model: impl Into<String>) -> Self {
        Self { model: Some(model.into()) }
    }
}

/// What backends can do, and whether they can run here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Capabilities {
    /// Of this backend alone. Default: of every registered one.
    pub backend: Option<String>,
}

impl Capabilities {
    /// Asks about every backend.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Asks about one backend.
    pub fn of(backend: impl Into<String>) -> Self {
        Self { backend: Some(backend.into()) }
    }
}

/// Totals of the service and its models, and which requests are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Metrics {
    /// Models and requests of this name alone. Default: all.
    pub model: Option<String>,
}

impl Metrics {
    /// Asks about every model.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Asks about one model.
    pub fn of(model: impl Into<String>) -> Self {
        Self { model: Some(model.into()) }
    }
}

/// Asks requests to end; their streams then end as
/// [`Cancelled`](inference_core::FinishReason::Cancelled), whoever reads them.
/// What a [`Classify`] has no answer for yet fails as
/// [`Cancelled`](inference_core::ErrorKind::Cancelled).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cancel {
    /// The request of this id. One that has ended is no error.
    Request(RequestId),
    /// Every request of the model of this name.
    Model(String),
    /// Every request.
    All,
}

/// An action with a reply of its own. This crate alone implements it.
pub trait TypedAction: Into<Action> + sealed::Sealed {
    /// What answers it.
    type Reply: Into<Reply>;

    /// Carries it out; see
    /// [`InferenceService::perform`](crate::InferenceService::perform).
    ///
    /// # Errors
    ///
    /// Those of the action; see the [crate](crate#errors).
    fn perform(self, service: &InferenceService) -> Result<Self::Reply>;
}

mod sealed {
    /// Keeps others from implementing [`super::TypedAction`].
    pub trait Sealed {}
}

macro_rules! actions {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal;)*) => {
        /// Any action.
        ///
        /// ```
        /// use inference_service::{Action, action::Generate};
        ///
        /// let action = Action::from(Generate::new("small", "Once upon a time"));
        /// assert_eq!(action.name(), "generate");
        /// ```
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub enum Action {
            $($(#[doc = $doc])* $name($name),)*
        }

        impl Action {
            /// The stable name, in snake case.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $id,)* }
            }

            pub(crate) fn perform(self, service: &InferenceService) -> Result<Reply> {
                match self { $(Self::$name(action) => Ok(action.perform(service)?.into()),)* }
            }
        }

        $(
            impl From<$name> for Action {
                fn from(action: $name) -> Self {
                    Self::$name(action)
                }
            }

            impl sealed::Sealed for $name {}
        )*
    };
}

actions! {
    /// Loads a model.
    Load = "load";
    /// Unloads a model.
    Unload = "unload";
    /// Streams text that continues a prompt.
    Generate = "generate";
    /// Streams the reply to a conversation.
    Chat = "chat";
    /// Scores what would come next.
    Classify = "classify";
    /// Runs many requests together.
    Batch = "batch";
    /// What is loaded.
    Info = "info";
    /// What backends can do.
    Capabilities = "capabilities";
    /// Totals, and which requests are open.
    Metrics = "metrics";
    /// Asks requests to end.
    Cancel = "cancel";
}
