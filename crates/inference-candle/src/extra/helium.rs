//! Helium, whose rotary embedding turns neighbouring elements.

use candle_core::Device;
use candle_transformers::models::helium::{Config, Model};
use inference_core::Result;
use serde_json::json;

use super::description::{
    Description, Sizes, activation, epsilon, from_json, kv_heads, require, rope,
};
use super::instances::{Chunks, Cloned};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let num_heads = fields.required_size("num_attention_heads")?;
    let num_kv_heads = kv_heads(fields, num_heads)?;
    let head_dim = fields.size("head_dim")?.unwrap_or(128);
    require(fields, "mlp_bias", false, false)?;
    require(fields, "attention_bias", false, false)?;
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(4096);
    let spec = rope(fields, head_dim, context_len, 100_000.0, 1.0)?;
    if spec.dim != head_dim {
        return Err(fields.unsupported("partial_rotary_factor", "1"));
    }
    let tied_head = fields.flag("tie_word_embeddings")?.unwrap_or(false);
    let mut config: Config = from_json(
        fields,
        json!({
            "attention_bias": false,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "head_dim": head_dim,
            "hidden_act": activation(fields, "hidden_act", "silu")?,
            "hidden_size": hidden,
            "intermediate_size": fields.required_size("intermediate_size")?,
            "max_position_embeddings": context_len,
            "mlp_bias": false,
            "num_attention_heads": num_heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": num_kv_heads,
            "rms_norm_eps": epsilon(fields, "rms_norm_eps", 1e-8)?,
            "rope_theta": spec.theta,
            "tie_word_embeddings": tied_head,
            "vocab_size": vocab,
        }),
    )?;
    let device = device.clone();
    Ok(Description {
        vocab_size: vocab,
        hidden_size: hidden,
        num_layers: layers,
        num_heads,
        num_kv_heads,
        head_dim,
        context_len,
        state_bytes: 0,
        embedding: "model.embed_tokens.weight",
        renamed: &[],
        tied_head,
        build: Box::new(move |tensors, context| {
            config.max_position_embeddings = context;
            let model = Model::new(&config, tensors)?;
            let forward = |model: &mut Model, tokens: &_, position| model.forward(tokens, position);
            Ok(Box::new(Cloned { model, device, chunks: Chunks::Any, forward }))
        }),
    })
}
