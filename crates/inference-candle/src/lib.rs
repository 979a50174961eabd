//! Language models on Candle (draft head; the manual follows).

mod attention_block;
pub mod config;
mod decoder;
mod files;
mod kv_cache;
mod layer_weights;
mod mlp_block;
mod moe;
mod norm;
mod ops;
pub mod reference;
mod rope;
mod weight;
mod weights;

pub use attention_block::{AttentionBlock, StepContext};
pub use config::{
    Biases, DecoderConfig, LayerSpec, MlpSpec, NormLayout, QkNorm, RopeScaling, RopeSpec,
    WeightNames, architectures,
};
pub use decoder::{Decoder, DecoderLayer};
pub use files::ModelFiles;
pub use kv_cache::{KvCache, KvLayout};
pub use mlp_block::{GatedMlp, Mlp, MlpBlock};
pub use moe::Moe;
pub use norm::Norm;
pub use ops::{Activation, AttentionSpec, BatchView, Linear, Ops};
pub use reference::ReferenceOps;
pub use rope::{Rope, RopeAngles};
pub use weight::{Weight, WeightBytes};
pub use weights::{SafetensorsFiles, TensorWeights, WeightSource};
