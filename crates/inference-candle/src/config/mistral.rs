//! Mistral: a Llama with a sliding window in every layer.

use inference_core::Result;

use super::shared::{Defaults, decoder};
use super::{DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults =
        Defaults { context_len: 4096 * 32, num_kv_heads: Some(8), ..Defaults::default() };
    let mut config = decoder(fields, &defaults)?;
    let window = fields.window("sliding_window", Some(4096))?;
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(config)
}
