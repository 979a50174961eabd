//! Granite 3: a Llama with four multipliers.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases};
use super::{DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = decoder(fields, &Defaults::default())?;
    read_biases(&mut config, fields, true)?;
    let factor = |name: &str| Ok(fields.positive(name)?.unwrap_or(1.0));
    config.embedding_scale = factor("embedding_multiplier")? as f32;
    config.residual_scale = factor("residual_multiplier")? as f32;
    config.attention_scale = factor("attention_multiplier")? as f32;
    config.logit_scale = (1.0 / factor("logits_scaling")?) as f32;
    Ok(config)
}
