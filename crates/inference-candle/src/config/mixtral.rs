//! Mixtral: Mistral with a mixture of experts in every layer.

use inference_core::Result;

use super::shared::{Defaults, decoder};
use super::{DecoderConfig, Fields, MlpSpec};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        context_len: 4096 * 32,
        num_kv_heads: Some(8),
        norm_eps: 1e-5,
        rope_theta: 1e6,
        ..Defaults::default()
    };
    let mut config = decoder(fields, &defaults)?;
    let window = fields.window("sliding_window", None)?;
    let mlp = MlpSpec::Moe {
        experts: fields.size("num_local_experts")?.unwrap_or(8),
        experts_per_token: fields.size("num_experts_per_tok")?.unwrap_or(2),
        intermediate: fields.required_size("intermediate_size")?,
        normalize: true,
    };
    for layer in &mut config.layers {
        layer.window = window;
        layer.mlp = mlp.clone();
    }
    config.names.router = "block_sparse_moe.gate";
    config.names.experts = "block_sparse_moe.experts";
    config.names.expert = ["w1", "w3", "w2"];
    Ok(config)
}
