//! The handle that consumers hold.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use inference_core::{
    BatchItem, ChatPrompt, ClassifyOptions, GenerateOptions, ModelSource, Prompt, Registry, Result,
    TextModel,
};

use crate::action::{
    Action, Batch, Cancel, Capabilities, Chat, Classify, Generate, Info, Load, Metrics, RequestId,
    Target, TypedAction, Unload, UnloadMode,
};
use crate::host::{Backends, Hold, Host};
use crate::options::ServiceOptions;
use crate::reply::{
    Backends as BackendsReply, BatchGeneration, Cancelled, Classifications, Generation, Loaded,
    Reply, ServiceInfo, ServiceMetrics, Unloaded,
};

/// Hosts models, and carries out the actions of every consumer; see the
/// [crate](crate). Clones are handles of the same service; the last one to be
/// dropped [closes](Self::close) it.
#[derive(Clone)]
pub struct InferenceService(Arc<Owner>);

/// Ends the service with its last handle. Open requests share the host alone.
struct Owner(Arc<Host>);

impl Drop for Owner {
    fn drop(&mut self) {
        // What cannot be closed was logged. Nobody else can be amid an action,
        // for that would be a handle.
        let _ = self.0.close(UnloadMode::Close, false);
    }
}

impl fmt::Debug for InferenceService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.host().lock();
        let models: Vec<_> = table.models.keys().cloned().collect();
        let requests = table.requests.len();
        drop(table);
        f.debug_struct("InferenceService")
            .field("models", &models)
            .field("open_requests", &requests)
            .finish_non_exhaustive()
    }
}

impl InferenceService {
    /// A service over the backends that are linked in
    /// ([`Registry::global`]). Nothing is loaded yet.
    ///
    /// # Errors
    ///
    /// Those of [`ServiceOptions::validate`].
    pub fn new(options: ServiceOptions) -> Result<Self> {
        Self::over(options, Backends::Global)
    }

    /// A service over backends of one's own.
    ///
    /// # Errors
    ///
    /// Those of [`ServiceOptions::validate`].
    pub fn with_registry(options: ServiceOptions, registry: Arc<Registry>) -> Result<Self> {
        Self::over(options, Backends::Given(registry))
    }

    fn over(options: ServiceOptions, backends: Backends) -> Result<Self> {
        options.validate()?;
        Ok(Self(Arc::new(Owner(Arc::new(Host::new(options, backends))))))
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.0.0
    }

    /// Carries out any action.
    ///
    /// # Errors
    ///
    /// Those of the action; see the [crate](crate#errors).
    pub fn dispatch(&self, action: impl Into<Action>) -> Result<Reply> {
        action.into().perform(self)
    }

    /// Carries out an action of a known type, for the reply that belongs to it.
    /// The methods below are short forms of this.
    ///
    /// # Errors
    ///
    /// Those of the action; see the [crate](crate#errors).
    pub fn perform<A: TypedAction>(&self, action: A) -> Result<A::Reply> {
        action.perform(self)
    }

    /// Loads a model under a name, with the service's load options. Blocks
    /// until it is there.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for an empty
    /// name, or one that stands for another model or other options;
    /// [`Exhausted`](inference_core::ErrorKind::Exhausted) where idle models
    /// cannot make room; those of [`Registry::load_model`].
    pub fn load(&self, name: impl Into<String>, source: impl Into<ModelSource>) -> Result<Loaded> {
        self.perform(Load::new(name, source))
    }

    /// Unloads a model and cancels its requests. Blocks until it is gone.
    ///
    /// # Errors
    ///
    /// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound) with the
    /// names that are loaded.
    pub fn unload(&self, name: impl Into<String>) -> Result<Unloaded> {
        self.perform(Unload::new(name))
    }

    /// Streams text that continues a prompt.
    ///
    /// # Errors
    ///
    /// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound) with the
    /// names that are loaded;
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for
    /// [`Target::Default`] where there is no default model;
    /// [`Exhausted`](inference_core::ErrorKind::Exhausted) where the model has
    /// [as many open requests as it may](ServiceOptions::max_requests); those
    /// of loading the default model; those of
    /// [`TextModel::generate`](inference_core::TextModel::generate).
    pub fn generate(
        &self,
        model: impl Into<Target>,
        prompt: impl Into<Prompt>,
        options: GenerateOptions,
    ) -> Result<Generation> {
        self.perform(Generate::new(model, prompt).with_options(options))
    }

    /// Streams the assistant's reply to a conversation.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and those of
    /// [`TextModel::chat`](inference_core::TextModel::chat).
    pub fn chat(
        &self,
        model: impl Into<Target>,
        chat: impl Into<ChatPrompt>,
        options: GenerateOptions,
    ) -> Result<Generation> {
        self.perform(Chat::new(model, chat).with_options(options))
    }

    /// Scores what would come next after each prompt. Blocks until all is
    /// computed.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and those of
    /// [`TextModel::classify`](inference_core::TextModel::classify).
    pub fn classify(
        &self,
        model: impl Into<Target>,
        prompts: Vec<Prompt>,
        options: ClassifyOptions,
    ) -> Result<Classifications> {
        self.perform(Classify::new(model, prompts).with_options(options))
    }

    /// Runs many requests together.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate); what is wrong with one item comes
    /// through the stream.
    pub fn batch(
        &self,
        model: impl Into<Target>,
        items: Vec<BatchItem>,
    ) -> Result<BatchGeneration> {
        self.perform(Batch::new(model, items))
    }

    /// What the service has loaded.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn info(&self) -> Result<ServiceInfo> {
        self.perform(Info::all())
    }

    /// What every backend can do, and whether it can run here.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn capabilities(&self) -> Result<BackendsReply> {
        self.perform(Capabilities::all())
    }

    /// Totals, and the requests that are open.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn metrics(&self) -> Result<ServiceMetrics> {
        self.perform(Metrics::all())
    }

    /// Asks a request to end, whoever reads it. One that has ended is no
    /// error.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for an id that
    /// was never given out,
    /// [`Unsupported`](inference_core::ErrorKind::Unsupported) for that of a
    /// [`Classify`].
    pub fn cancel(&self, id: RequestId) -> Result<Cancelled> {
        self.perform(Cancel::Request(id))
    }

    /// The model itself, for what has no action: its tokenizer, adapters,
    /// snapshots, training. Waits for it or loads it as a request does, and
    /// keeps it from being unloaded to make room while it is held. Requests
    /// that are made of it directly have no id and are not counted.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), but for the number of requests.
    pub fn model(&self, model: impl Into<Target>) -> Result<HeldModel> {
        let (hold, model) = self.host().acquire(&model.into())?;
        Ok(HeldModel { model, hold })
    }

    /// Takes on no more models and requests, unloads every model, and waits
    /// until all are gone. Idempotent; a second call with
    /// [`UnloadMode::Close`] cuts a drain short.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) where a model panicked;
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) inside of a
    /// callback of a load, which cannot be waited for; the service is closed
    /// nevertheless.
    pub fn close(&self, mode: UnloadMode) -> Result<()> {
        self.host().close(mode, true)
    }
}

/// A model of a service that stays while this is held; see
/// [`InferenceService::model`].
pub struct HeldModel {
    /// Dropped first: whoever may be unloaded is not used any more.
    model: Arc<dyn TextModel>,
    hold: Hold,
}

impl HeldModel {
    /// The name that it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.hold.name
    }
}

impl Deref for HeldModel {
    type Target = dyn TextModel;

    fn deref(&self) -> &Self::Target {
        &*self.model
    }
}

impl fmt::Debug for HeldModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldModel").field("name", &self.hold.name).finish_non_exhaustive()
    }
}
