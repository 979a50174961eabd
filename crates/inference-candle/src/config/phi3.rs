//! Phi-3 and Phi-4-mini: fused weights, partial rotation, longrope.

use inference_core::Result;

use super::shared::{Defaults, decoder};
use super::{DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults { context_len: 4096, norm_eps: 1e-5, ..Defaults::default() };
    let mut config = decoder(fields, &defaults)?;
    config.fused_qkv = true;
    config.fused_gate_up = true;
    let window = fields.window("sliding_window", None)?;
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(config)
}
