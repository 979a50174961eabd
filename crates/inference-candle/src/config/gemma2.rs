//! Gemma 2: soft caps, alternating windows, norms before and after.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases, refuse_flag, set_windows, softcap};
use super::{DecoderConfig, Fields, NormLayout};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults { num_kv_heads: Some(4), context_len: 8192, ..gemma_defaults() };
    let mut config = decoder(fields, &defaults)?;
    gemma(&mut config, fields)?;
    config.attention_softcap = softcap(fields, "attn_logit_softcapping", Some(50.0))?;
    config.logit_softcap = softcap(fields, "final_logit_softcapping", Some(30.0))?;
    let window = fields.window("sliding_window", Some(4096))?;
    set_windows(&mut config, fields, window, |layer| layer % 2 == 0)?;
    Ok(config)
}

pub(super) fn gemma_defaults() -> Defaults {
    Defaults {
        head_dim: Some(256),
        tied_head: true,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        ..Defaults::default()
    }
}

/// What Gemma 2 and 3 have in common.
pub(super) fn gemma(config: &mut DecoderConfig, fields: &Fields<'_>) -> Result<()> {
    read_biases(config, fields, false)?;
    refuse_flag(fields, "use_bidirectional_attention")?;
    config.norms = NormLayout::PrePost;
    config.norm_unit_offset = true;
    config.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    let scalar = fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    config.attention_scale = scalar.powf(-0.5) as f32;
    config.names.mlp_norm = "pre_feedforward_layernorm";
    Ok(())
}
