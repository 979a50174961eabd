//! Qwen 3: norms of queries and keys, per head.

use inference_core::Result;

use super::qwen2::read_windows;
use super::shared::{Defaults, decoder, read_biases};
use super::{DecoderConfig, Fields, QkNorm};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        context_len: 32768,
        num_kv_heads: Some(32),
        head_dim: Some(128),
        ..Defaults::default()
    };
    let mut config = decoder(fields, &defaults)?;
    config.qk_norm = Some(QkNorm::PerHead);
    read_biases(&mut config, fields, false)?;
    read_windows(&mut config, fields)?;
    Ok(config)
}
