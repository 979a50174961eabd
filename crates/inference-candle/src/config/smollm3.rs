//! SmolLM3: a Llama with layers that have no rotary embedding.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases, set_windows};
use super::{DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        context_len: 32768,
        num_kv_heads: Some(4),
        rope_theta: 2e6,
        tied_head: true,
        ..Defaults::default()
    };
    let mut config = decoder(fields, &defaults)?;
    read_biases(&mut config, fields, true)?;
    let rotated = rotated_layers(fields, config.layers.len())?;
    for (layer, rotated) in config.layers.iter_mut().zip(&rotated) {
        layer.rope = rotated.then_some(0);
    }
    let window = if fields.flag("use_sliding_window")?.unwrap_or(false) {
        fields.window("sliding_window", None)?
    } else {
        None
    };
    set_windows(&mut config, fields, window, |layer| !rotated[layer])?;
    Ok(config)
}

/// `no_rope_layers` holds 1 for layers with a rotary embedding, 0 for those
/// without.
fn rotated_layers(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<bool>> {
    let Some(flags) = fields.integers("no_rope_layers")? else {
        let interval = fields.size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((1..=num_layers).map(|layer| layer % interval != 0).collect());
    };
    if flags.len() != num_layers || flags.iter().any(|flag| *flag > 1) {
        let expected = format!("{num_layers} entries of 0 or 1, one a layer");
        return Err(fields.invalid("no_rope_layers", expected));
    }
    Ok(flags.iter().map(|flag| *flag == 1).collect())
}
