//! Qwen 2 and 2.5: biases on queries, keys and values; windows in later layers.

use inference_core::Result;

use super::shared::{Defaults, decoder, set_windows};
use super::{Biases, DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults { context_len: 32768, num_kv_heads: Some(32), ..Defaults::default() };
    let mut config = decoder(fields, &defaults)?;
    config.bias = Biases { qkv: true, ..Biases::default() };
    read_windows(&mut config, fields)?;
    Ok(config)
}

/// The windows of Qwen 2 and 3: from layer `max_window_layers` on, and only
/// where `use_sliding_window` is set.
pub(super) fn read_windows(config: &mut DecoderConfig, fields: &Fields<'_>) -> Result<()> {
    let window = if fields.flag("use_sliding_window")?.unwrap_or(false) {
        fields.window("sliding_window", Some(4096))?
    } else {
        None
    };
    let first = fields.integer("max_window_layers")?.unwrap_or(28);
    set_windows(config, fields, window, |layer| layer as u64 >= first)
}
