//! Finds local language models, and fetches them from the Hugging Face hub.

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
