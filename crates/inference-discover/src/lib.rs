//! Finds local language models, and fetches them from the Hugging Face hub.
//!
//! | question | answer |
//! |---|---|
//! | what models are in a folder? | [`discover`], with options [`Discover::new`] |
//! | what is the model at this path? | [`describe`], in detail [`inspect`] |
//! | what do other tools keep here? | [`discover_all`], [`Stores`] |
//! | what does `org/name` mean here? | [`resolve`], [`ModelRef`] |
//! | how do I get it? | `pull` (feature `hub`) |
//! | which backend could load it? | [`BackendChecks`] |
//!
//! # Headers only
//!
//! Of a safetensors file the header is read and compared with the file's
//! length, of a GGUF file metadata and the list of tensors; no weights. What is
//! malformed or incomplete is an error that names file and field, tensor or
//! part, and the walk goes on behind it.
//!
//! # Network
//!
//! `pull` alone touches it, and not for a path that exists nor in offline mode.
//! hf-hub is the client and lays out addresses; downloads themselves are made
//! here, because its own appends whatever the server sends to what is there,
//! compares no checksum, waits without limit and knows no offline mode. The
//! cache is the hub's own: blobs by checksum, snapshots of links, refs; locks
//! and unfinished files are where Python's `huggingface_hub` has them.
//!
//! # Environment
//!
//! [`Stores::from_env`] and `HubOptions::from_env` read it; both have a
//! `from_vars` that reads another.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod adapter_folder;
mod backend_checks;
mod bounded_file;
mod config;
mod discover;
mod folder;
mod geometry;
mod gguf_file_type;
mod gguf_model;
#[cfg(feature = "hub")]
mod hub;
mod inspection;
mod license;
mod names;
mod options;
mod parameters;
mod read_ahead;
mod reference;
mod repository_files;
mod resolve;
mod safetensors_folder;
mod safetensors_header;
mod store;
mod stores;
mod tensor;
mod weight_files;

pub use backend_checks::BackendChecks;
pub use discover::{Discover, describe, discover};
pub use geometry::Geometry;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use hub::{HubOptions, pull};
pub use inspection::{Inspection, Memory, inspect};
pub use options::DiscoverOptions;
pub use reference::{HubRef, ModelRef, OllamaRef};
pub use resolve::{Resolved, resolve};
pub use store::{Store, StoreKind};
pub use stores::{Stores, discover_all};
pub use tensor::StoredTensor;

/// Compiles the example of the README.
#[cfg(all(doctest, feature = "hub"))]
#[doc = include_str!("../README.md")]
struct Readme;
