//! Gemma 3's text model: five windowed layers to each full one, each kind
//! with a rotary embedding of its own.

use inference_core::Result;

use super::gemma2::{gemma, gemma_defaults};
use super::shared::{Defaults, decoder, set_windows, softcap};
use super::{DecoderConfig, Fields, QkNorm, RopeSpec};

/// The text part of a model that also sees images.
pub(super) fn map_nested(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let Some(text) = fields.object("text_config")? else {
        return Err(fields.invalid("text_config", "an object"));
    };
    let mut config = map(&text)?;
    config.architecture = "gemma3".to_owned();
    config.names.roots = vec!["language_model.model.", "model.language_model."];
    Ok(config)
}

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        num_heads: Some(8),
        num_kv_heads: Some(4),
        vocab_size: Some(262_208),
        context_len: 131_072,
        rope_theta: 1e6,
        ..gemma_defaults()
    };
    let mut config = decoder(fields, &defaults)?;
    gemma(&mut config, fields)?;
    config.qk_norm = Some(QkNorm::PerHead);
    config.attention_softcap = softcap(fields, "attn_logit_softcapping", None)?;
    config.logit_softcap = softcap(fields, "final_logit_softcapping", None)?;
    let pattern = fields.size("sliding_window_pattern")?.unwrap_or(6);
    let window = fields.window("sliding_window", Some(4096))?;
    set_windows(&mut config, fields, window, |layer| (layer + 1) % pattern != 0)?;
    // `decoder` has read the rotary embedding of the full layers.
    config.ropes.push(local_rope(&config, fields)?);
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}

/// The rotary embedding of windowed layers, which is never scaled in
/// transformers 4.
fn local_rope(config: &DecoderConfig, fields: &Fields<'_>) -> Result<RopeSpec> {
    let theta = fields.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    let parameters = match fields.object("rope_parameters")? {
        Some(parameters) => match parameters.object("sliding_attention")? {
            Some(local) => Some(local),
            None => return Err(parameters.invalid("sliding_attention", "an object")),
        },
        None => None,
    };
    let (head_dim, context_len) = (config.head_dim, config.context_len);
    RopeSpec::read_parameters(fields, parameters.as_ref(), head_dim, context_len, theta)
}
