//! Downloads from the Hugging Face hub, into the cache that its own tools use.

mod cache;
mod checksum;
mod client;
mod download;
mod listing;
mod options;
mod pull;
mod selection;

pub use options::HubOptions;
pub use pull::pull;
