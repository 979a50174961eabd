//! Language models on Candle (draft head; the manual follows).

mod kv_cache;
mod ops;
pub mod reference;
mod weight;

pub use kv_cache::{KvCache, KvLayout};
pub use ops::{Activation, AttentionSpec, BatchView, Linear, Ops};
pub use reference::ReferenceOps;
pub use weight::{Weight, WeightBytes};
