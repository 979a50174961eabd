//! An in-process service over local language models: several models by name,
//! within a memory budget, reached by every consumer through typed actions.
//!
//! An [`InferenceService`] is a handle that any number of threads may clone and
//! share. It depends on the contract ([`inference_core`]) alone: which backends
//! there are is the [`Registry`](inference_core::Registry)'s matter.
//!
//! ```
//! use std::sync::Arc;
//! use inference_core::{GenerateOptions, Registry, doc};
//! use inference_service::action::{Load, Unload};
//! use inference_service::{InferenceService, Reply, ServiceOptions, UnloadMode};
//!
//! // Real programs link a backend and use `InferenceService::new`. The example
//! // backend gives a prompt's own characters back.
//! let registry = Registry::new();
//! doc::register(&registry);
//! let options = ServiceOptions::new()
//!     .with_default_model(Load::new("main", "echo"))
//!     .with_memory_budget(1 << 30);
//! let service = InferenceService::with_registry(options, Arc::new(registry))?;
//!
//! // Methods are short forms of actions. Without a name it is the default
//! // model, which is loaded now, for it is first used.
//! let generation = service.generate(None, "Hello, world", GenerateOptions::new())?;
//! let (text, _) = generation.stream.collect_text()?;
//! assert_eq!(text, "Hello, world");
//!
//! // An action as a value, with the reply of its type …
//! let loaded = service.perform(Load::new("second", "echo").with_pinned(true))?;
//! assert_eq!(loaded.info.architecture, "echo");
//!
//! // … or as any action, with any reply.
//! let Reply::Info(info) = service.dispatch(inference_service::action::Info::all())? else {
//!     unreachable!("the reply to `Info`")
//! };
//! assert_eq!(info.models.len(), 2);
//!
//! // Whoever knows a request's id can end it.
//! let running = service.generate("second", "Hello, world", GenerateOptions::new())?;
//! let (id, other_consumer) = (running.id, service.clone());
//! std::thread::spawn(move || other_consumer.cancel(id)).join().unwrap()?;
//! let completion = running.stream.finish()?;
//! assert_eq!(completion.finish_reason.name(), "cancelled");
//!
//! service.perform(Unload::new("second").with_mode(UnloadMode::Drain))?;
//! # Ok::<(), inference_core::Error>(())
//! ```
//!
//! # Actions
//!
//! | action | reply | blocks until |
//! |---|---|---|
//! | [`Load`](action::Load) | [`Loaded`](reply::Loaded) | the model is there |
//! | [`Unload`](action::Unload) | [`Unloaded`](reply::Unloaded) | it is gone |
//! | [`Generate`](action::Generate), [`Chat`](action::Chat) | [`Generation`](reply::Generation): id and [`TokenStream`](inference_core::TokenStream) | the request is checked |
//! | [`Batch`](action::Batch) | [`BatchGeneration`](reply::BatchGeneration): id and [`BatchStream`](inference_core::BatchStream) | the items are checked |
//! | [`Classify`](action::Classify) | [`Classifications`](reply::Classifications) | all is computed |
//! | [`Info`](action::Info) | [`ServiceInfo`](reply::ServiceInfo) | at once |
//! | [`Capabilities`](action::Capabilities) | [`Backends`](reply::Backends) | at once |
//! | [`Metrics`](action::Metrics) | [`ServiceMetrics`](reply::ServiceMetrics) | at once |
//! | [`Cancel`](action::Cancel) | [`Cancelled`](reply::Cancelled) | at once |
//!
//! All of them go through [`perform`](InferenceService::perform). What has no
//! action (tokenizer, adapters, snapshots) is reached through
//! [`InferenceService::model`]. No async
//! runtime is needed; inside of one, call those that block for long from a
//! thread that may block, and read the streams as async streams. An action of a
//! request waits for its model where somebody is loading it, and loads the
//! [default model](ServiceOptions::default_model).
//!
//! The streams are those of the model: lazy, bounded, and cancelled when they
//! are dropped. A request is open from its action on, read or not, until its
//! stream was read to the end or dropped. Meanwhile it is listed in
//! [`ServiceMetrics::open`](reply::ServiceMetrics::open), can be cancelled by
//! its id, and its model is not unloaded to make room.
//!
//! # Models
//!
//! A model is loaded under a name of the consumer's choice. Loads of the same
//! name, from the same source with the same options, load once, whoever asks
//! and when; another source or other options are refused until the name is
//! free. A load that fails answers all who wait for it with its error, and the
//! name is as free as before.
//!
//! [`Unload`](action::Unload) ends the model's requests, or drains them. A
//! request that was not submitted before a drain (its stream was never read)
//! ends as [`Closed`](inference_core::ErrorKind::Closed). Dropping the last
//! handle of the service closes every model, although streams may live on; they
//! end as [`Cancelled`](inference_core::FinishReason::Cancelled).
//!
//! # Memory
//!
//! With a [`memory_budget`](ServiceOptions::memory_budget), all models together
//! stay within so many bytes. A model counts for
//!
//! - **before it is loaded:** what [`Load::memory_bytes`](action::Load) says;
//!   else the sizes of its `.safetensors` files (where there are none, of its
//!   `.gguf` files; of a split file all parts), plus
//!   [`kv_budget`](inference_core::LoadOptions::kv_budget) where that is set.
//!   Adapters, quantizing while loading and what a backend allocates beside are
//!   not foreseen: say `memory_bytes` where they matter.
//! - **once it is loaded:** what it held right after the load
//!   ([`active_bytes`](inference_core::ModelMetrics::active_bytes): its weights)
//!   and the whole KV pool
//!   ([`kv_bytes_total`](inference_core::ModelMetrics::kv_bytes_total), or the
//!   `kv_budget` where a backend does not tell); or the most that it ever held
//!   ([`peak_bytes`](inference_core::ModelMetrics::peak_bytes)), if that is
//!   more. Mapped weights count, resident or not.
//!
//! A load that does not fit unloads idle models, the least recently used first
//! and no more than are needed, before it begins; if the model then turns out
//! larger than expected, more of them, or it is itself unloaded again. A model
//! is idle if it has no open request and is not
//! [pinned](action::Load::pinned); it is used when a request of it begins and
//! ends, and by a load that finds it there. Where idle models do not suffice,
//! the load is refused with the numbers, and none of them goes.
//! [`max_models`](ServiceOptions::max_models) bounds their number in the same
//! way.
//!
//! What is wrong with a load's options or backend is found before anybody
//! goes. When the load itself fails, those that made room for it stay unloaded.
//! Growth of a loaded model (activations) is noticed by the next load, and
//! evicts nobody by itself.
//!
//! # Threads and callbacks
//!
//! The service's one lock guards bookkeeping alone: no model, backend, stream or
//! callback is called, or dropped, while it is held. A stream may be dropped,
//! and any action that does not block be called, from wherever code runs: in a
//! waker, in a probe sink, in the progress callback of a load. On a thread that
//! is amid a load, an action that would have to wait for another thread is
//! refused instead ([`InvalidInput`](inference_core::ErrorKind::InvalidInput)).
//!
//! # Errors
//!
//! All are [`inference_core::Error`]s, those of the model and backend as they
//! are. The service's own:
//!
//! | kind | meaning |
//! |---|---|
//! | [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound) | no model of this name takes requests; those that do are named |
//! | [`Exhausted`](inference_core::ErrorKind::Exhausted) | no room for a model, or the model has too many open requests; with the numbers |
//! | [`InvalidInput`](inference_core::ErrorKind::InvalidInput) | a name that is empty, stands for another model, or is being drained; no default model; an id that was never given out |
//! | [`Closed`](inference_core::ErrorKind::Closed) | the service was closed, or the model under a request |
//! | [`Engine`](inference_core::ErrorKind::Engine) | a backend panicked while it loaded or closed a model |
//!
//! # Features
//!
//! - `serde`: `Serialize` and `Deserialize` for what is plain data: the payloads
//!   without options or prompts, and the replies without streams (what has
//!   [`Capabilities`](inference_core::Capabilities), only `Serialize`).
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod action;
mod host;
mod loading;
mod memory;
mod options;
mod perform;
pub mod reply;
mod service;
mod table;
mod unloading;

pub use action::{Action, RequestId, Target, TypedAction, UnloadMode};
pub use options::ServiceOptions;
pub use reply::Reply;
pub use service::{HeldModel, InferenceService};

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
