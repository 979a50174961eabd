//! Qwen 3 with mixtures of experts.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases, refuse_flag};
use super::{DecoderConfig, Fields, MlpSpec, QkNorm};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults { context_len: 32768, num_kv_heads: Some(4), ..Defaults::default() };
    let mut config = decoder(fields, &defaults)?;
    config.qk_norm = Some(QkNorm::PerHead);
    read_biases(&mut config, fields, false)?;
    // Versions of the reference disagree on which layers it means.
    refuse_flag(fields, "use_sliding_window")?;
    // transformers 5 writes `num_local_experts`.
    let experts = match fields.size("num_experts")? {
        Some(experts) => experts,
        None => fields.size("num_local_experts")?.unwrap_or(128),
    };
    let moe = MlpSpec::Moe {
        experts,
        experts_per_token: fields.size("num_experts_per_tok")?.unwrap_or(8),
        intermediate: fields.size("moe_intermediate_size")?.unwrap_or(768),
        normalize: fields.flag("norm_topk_prob")?.unwrap_or(false),
    };
    let step = fields.size("decoder_sparse_step")?.unwrap_or(1);
    let dense = fields.integers("mlp_only_layers")?.unwrap_or_default();
    for (index, layer) in config.layers.iter_mut().enumerate() {
        if !dense.contains(&(index as u64)) && (index + 1) % step == 0 {
            layer.mlp = moe.clone();
        }
    }
    Ok(config)
}
