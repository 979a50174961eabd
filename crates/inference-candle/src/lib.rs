//! Language models on Candle (draft head; the manual follows).

mod attention_block;
pub mod config;
mod decoder;
mod files;
mod generation_config;
mod inspect;
mod kv_cache;
mod kv_plan;
mod layer_weights;
mod load;
mod mlp_block;
mod moe;
mod norm;
mod ops;
pub mod reference;
mod rope;
mod runner;
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
pub use kv_plan::{BLOCK_SIZE, DEFAULT_KV_BUDGET};
pub use load::load_model;
pub use mlp_block::{GatedMlp, Mlp, MlpBlock};
pub use moe::Moe;
pub use norm::Norm;
pub use ops::{Activation, AttentionSpec, BatchView, Linear, Ops};
pub use reference::ReferenceOps;
pub use rope::{Rope, RopeAngles};
pub use runner::CandleRunner;
pub use weight::{Weight, WeightBytes};
pub use weights::{SafetensorsFiles, TensorWeights, WeightSource};
