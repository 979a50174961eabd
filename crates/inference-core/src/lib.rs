//! The contract between programs that generate text with local language models
//! and the backends that run those models: traits, plain types, options, errors, the registry,
//! capabilities and probes. No tensor library, no async runtime, no JSON library, no unsafe code;
//! it builds in seconds on every platform.
//!
//! | you want to | read |
//! |---|---|
//! | use a model | [Using a model](#using-a-model), [`TextModel`], [`GenerateOptions`] |
//! | choose a backend | [`Registry`], [`Capabilities`] |
//! | write a backend | [Writing a backend](#writing-a-backend), [`Backend`], [`doc`] |
//! | watch an engine | [`probe`] |
//! | handle what goes wrong | [Errors](#errors), [`ErrorKind`] |
//!
//! # How a request flows
//!
//! ```text
//! Registry ── load_model ──▶ Backend ──▶ Arc<dyn TextModel>            once per model
//!
//! Prompt + GenerateOptions                                             once per request
//!   │  chat template (conversations) ─▶ tokenizer ─▶ ids
//!   ▼
//! generate / chat / batch_generate / classify     checks the request, refuses at once what cannot run
//!   ▼
//! TokenStream            submits when first read; the model computes at most a buffer ahead
//!   │  TokenEvent::Token  …  TokenEvent::Finished(Completion) or TokenEvent::Failed(Error)
//!   ▼
//! finish()               why it ended, what it cost, the seed that reproduces it
//! ```
//!
//! One way, no back and forth. All calls of a model, from whatever thread, share one scheduler, and
//! an answer does not depend on what else runs.
//!
//! # Using a model
//!
//! A program links the backend crates it wants (`use inference_cpu as _;`), which makes them known to
//! [`Registry::global`]. The examples here use the tiny backend of [`doc`], which gives a prompt's own
//! characters back.
//!
//! ```
//! use inference_core::{GenerateOptions, LoadOptions, Registry, doc};
//!
//! let registry = Registry::new();
//! doc::register(&registry);
//!
//! // No backend named: the first available in `AUTOMATIC_ORDER`.
//! let model = registry.load_model("echo", &LoadOptions::new())?;
//!
//! let options = GenerateOptions::new().with_max_tokens(5);
//! let mut stream = model.generate("Hello, world".into(), options)?;
//! for token in stream.by_ref() {
//!     print!("{}", token?.text);
//! }
//! let completion = stream.finish()?;
//! assert_eq!(completion.finish_reason.name(), "length");
//! assert_eq!(completion.metrics.generated_tokens, 5);
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! Conversations, many requests at once, and the distribution of what would come next:
//!
//! ```
//! # use inference_core::{LoadOptions, Registry, doc};
//! use inference_core::{BatchItem, ClassifyOptions, GenerateOptions, Message};
//! # let registry = Registry::new();
//! # doc::register(&registry);
//! # let model = registry.load_model("echo", &LoadOptions::new())?;
//!
//! let chat = vec![Message::system("Be brief."), Message::user("Yes or no?")];
//! let (reply, _) = model.chat(chat.into(), GenerateOptions::new())?.collect_text()?;
//! assert_eq!(reply, "Yes or no?");
//!
//! let items = vec![BatchItem::new("one"), BatchItem::new("two")];
//! for output in model.batch_generate(items)?.collect_all() {
//!     println!("{}", output?.text);
//! }
//!
//! let labels = ClassifyOptions::new().with_labels(["positive", "negative"]);
//! for result in model.classify(vec!["nice".into(), "poor".into()], &labels)? {
//!     let classification = result?;
//!     println!("{:?}", classification.best().map(|best| &best.label));
//! }
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! What only some models can do is behind an accessor that answers `None` elsewhere:
//! [`as_scorer`](TextModel::as_scorer) (logits of a prompt's own positions),
//! [`as_trainable`](TextModel::as_trainable),
//! [`as_attention_inspector`](TextModel::as_attention_inspector),
//! [`as_adapters`](TextModel::as_adapters), [`as_state`](TextModel::as_state) (snapshots).
//!
//! # Options
//!
//! Unset differs from zero. What applies to a request is, field by field, the first of
//!
//! 1. the request's own [`GenerateOptions`],
//! 2. the model's `generation_config.json`,
//! 3. the default that the field's documentation names (256 tokens, greedy).
//!
//! [`GenerateOptions::or`] is that rule. An invalid value is refused with field, value and accepted
//! range ([`ErrorKind::InvalidOption`]); a valid one that a backend cannot honour is refused by name
//! ([`ErrorKind::Unsupported`]). Neither is clamped or ignored. The same holds for [`LoadOptions`].
//!
//! # Streams
//!
//! A [`TokenStream`] or [`BatchStream`] is
//!
//! - **lazy:** nothing is submitted before it is first read (or [`started`](TokenStream::start));
//! - **of both kinds:** a blocking [`Iterator`] and a [`futures_core::Stream`]. Neither needs a
//!   runtime, and the blocking one does not panic inside one, although it holds up the thread;
//! - **bounded:** the model waits for a slow reader, without holding up other requests, and gives up on
//!   one that stays away too long ([`FinishReason::Lagging`]);
//! - **cancelled** by dropping it, by [`TokenStream::cancel`], by a [`CancelToken`], by a deadline, by
//!   [`TextModel::close`]; whatever it held is free at once;
//! - **conclusive:** it ends once, with a [`Completion`] or an [`Error`], and
//!   [`finish`](TokenStream::finish) tells which. Tokens that end the text are never yielded.
//!
//! # Errors
//!
//! Every fallible call returns [`Error`]. Its message names the thing, what was expected and what was
//! found; [`source`](std::error::Error::source) has the cause; [`Error::kind`] says what can be done:
//!
//! | kind | meaning | what to do |
//! |---|---|---|
//! | [`NoBackendRegistered`](ErrorKind::NoBackendRegistered) | no backend crate is linked | link one, or call its `register` |
//! | [`NoBackendAvailable`](ErrorKind::NoBackendAvailable) | none can run here; the error has each reason | mend a reason, or link another backend |
//! | [`UnknownBackend`](ErrorKind::UnknownBackend) | no backend of that name | choose a name that the error lists |
//! | [`BackendUnavailable`](ErrorKind::BackendUnavailable) | the named backend cannot run here | choose another |
//! | [`InvalidModel`](ErrorKind::InvalidModel) | file, field or tensor missing or inconsistent | mend or fetch the model again |
//! | [`UnsupportedModel`](ErrorKind::UnsupportedModel) | well formed, but not implemented | choose another model or backend |
//! | [`Unsupported`](ErrorKind::Unsupported) | an ability or option that is not there | do without; ask [`Capabilities`] beforehand |
//! | [`InvalidOption`](ErrorKind::InvalidOption) | an option outside its range | correct the call |
//! | [`InvalidInput`](ErrorKind::InvalidInput) | prompt, message, id or template input | correct the input |
//! | [`Exhausted`](ErrorKind::Exhausted) | context, KV budget or queue cannot hold it | shorten it, or load with more; a full queue: later |
//! | [`Closed`](ErrorKind::Closed) | the model was closed | load it again |
//! | [`Cancelled`](ErrorKind::Cancelled) | a token or deadline ended a call without a stream | as its caller wanted |
//! | [`Io`](ErrorKind::Io) | reading or writing failed | as the operating system's error says |
//! | [`Engine`](ErrorKind::Engine) | the engine or device failed | report it; another request may succeed |
//!
//! A load that fails is an [`Error::Load`] that names backend and model. Its kind is that of its source,
//! which is the backend's own error.
//!
//! # Writing a backend
//!
//! Implement [`Backend`] and [`TextModel`], register, and promise what their methods say:
//!
//! - [`Backend::availability`] is cheap, finds out rather than guesses, and returns a reason instead of
//!   panicking where a driver is missing.
//! - [`Backend::capabilities`] declares what works. What is declared usable is what the conformance
//!   suite executes; what is not answers [`ErrorKind::Unsupported`] or an accessor's `None`.
//! - [`Backend::load_model`] validates the options, refuses by name those it cannot honour, checks the
//!   model's files against each other before it allocates, and names file, field or tensor in what
//!   it refuses. It never touches the network for a local path.
//! - [`TextModel`] methods take `&self`, from many threads. They check a request completely before they
//!   return a stream, and compute nothing yet.
//! - A [`TokenSource`] delivers the stream: it submits on its first poll, wakes the latest waker,
//!   ends with exactly one `Finished` or `Failed`, and cancels its request when dropped.
//!   [`TokenStream::new`] and [`BatchStream::new`] do the rest.
//! - [`TextModel::metrics`], [`GenerateMetrics`]: measured, not estimated; bytes on the CPU too.
//! - A failure while computing becomes a typed error for every request that it concerns, never a panic.
//!
//! ```
//! use std::sync::Arc;
//! use inference_core::{
//!     Availability, Backend, Capabilities, Error, LoadOptions, ModelSource, Registry, Result,
//!     TextModel,
//! };
//!
//! struct Teapot;
//!
//! impl Backend for Teapot {
//!     fn name(&self) -> &str {
//!         "teapot"
//!     }
//!     fn availability(&self) -> Availability {
//!         Availability::unavailable("it is short and stout")
//!     }
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities::none()
//!     }
//!     fn load_model(&self, _: &ModelSource, _: &LoadOptions) -> Result<Arc<dyn TextModel>> {
//!         Err(Error::unsupported("the teapot", "load"))
//!     }
//! }
//!
//! // For programs that register by hand; link-time registration is
//! // `inventory::submit! { BackendRegistration::new(|| Arc::new(Teapot)) }`.
//! pub fn register(registry: &Registry) {
//!     registry.register(Arc::new(Teapot));
//! }
//!
//! let registry = Registry::new();
//! register(&registry);
//! let error = registry.load_model("model", &LoadOptions::new()).err().unwrap();
//! assert_eq!(
//!     error.to_string(),
//!     "no registered backend is available: teapot (it is short and stout)"
//! );
//! ```
//!
//! The module [`doc`] is a whole backend, small enough to read. A wrapper around a model should forward
//! every accessor, or its users lose abilities.
//!
//! # Capabilities
//!
//! [`Backend::capabilities`] has one [`Capability`] per [`CapabilityId`]: `supported`, `experimental`
//! (works within the limits that its detail names), `planned` or `unsupported`. They speak of the
//! backend; one model may have less (no tokenizer, no chat template), which its [`ModelInfo`] and
//! accessors say.
//!
//! # Probes
//!
//! A [`ProbeBus`] in the load options carries events (tokens, logits, attention, cache and memory
//! pressure, training, scheduling) to sinks, without ever waiting for one; see [`probe`].
//!
//! # Features
//!
//! - `serde`: `Serialize` and `Deserialize` for the plain types (what a backend declares about itself, such
//!   as [`Capability`], only `Serialize`). Times are numbers of seconds. A field that is missing from the
//!   input takes its default where the type has one.
//!
//! # Stability
//!
//! The contract changes rarely. It grows by what is not breaking: structs and enums are
//! `#[non_exhaustive]`, options are built with `with_*`, facts by assigning to the fields of a
//! `default()`, traits gain only methods with a default. Names in [`Capability`], [`FinishReason::name`],
//! the probe's events and the options' fields are stable. The least Rust version is that of the
//! manifest; raising it is a minor release.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod adapter;
mod attention;
mod backend;
mod batch;
mod cancel;
mod capability;
mod classification;
mod completion;
pub mod doc;
mod error;
mod generate_options;
mod histogram;
mod info;
mod load_options;
mod message;
mod model;
pub mod probe;
mod progress;
mod registry;
#[cfg(feature = "serde")]
mod seconds;
mod state;
mod stream;
mod token;
mod training;

/// The registration crate that [`BackendRegistration`] is submitted to.
pub use inventory;

pub use adapter::{
    Adapter, AdapterDtype, AdapterInfo, Adapters, BASE_MODEL, DEFAULT_ADAPTER, LoraConfig, LoraInit,
};
pub use attention::{AttentionInspector, AttentionSnapshot, LayerAttention};
pub use backend::{Availability, Backend, DeviceInfo};
pub use batch::{BatchItem, BatchOutput, BatchStream};
pub use cancel::CancelToken;
pub use capability::{Capabilities, Capability, CapabilityId, CapabilityStatus};
pub use classification::{Classification, ClassifyOptions, LabelScore};
pub use completion::{Completion, FinishReason, GenerateMetrics, ModelMetrics};
pub use error::{Error, ErrorKind, Result, Source};
pub use generate_options::{DEFAULT_MAX_TOKENS, GenerateOptions};
pub use histogram::Histogram;
pub use info::{DiscoveredModel, ModelInfo, Quantization};
pub use load_options::{EmbeddedFiles, KvDtype, LoadOptions, ModelSource, Precision, QuantizeType};
pub use message::{ChatPrompt, Message, Prompt, RawJson, Role};
pub use model::{LogitRows, PromptLogits, Scorer, TextModel};
pub use probe::ProbeBus;
pub use progress::{ProgressEvent, ProgressSink};
pub use registry::{AUTOMATIC_ORDER, BackendRegistration, Registry};
pub use state::{SequenceState, StateSnapshot};
pub use stream::{TokenEvent, TokenSource, TokenStream};
pub use token::{Token, TokenId, TokenLogprob};
pub use training::{
    FactorState, Loss, OptimizerConfig, TrainableModel, TrainingSequence, TrainingState,
    UpdateReport,
};

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
