//! OLMo, whose norms have no weights.

use candle_core::Device;
use candle_transformers::models::olmo::{Config, Model};
use inference_core::Result;
use serde_json::json;

use super::description::{Description, Sizes, activation, from_json, heads, kv_heads, rope};
use super::instances::{Chunks, Cloned};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let (num_heads, head_dim) = heads(fields, "num_attention_heads", hidden)?;
    let num_kv_heads = kv_heads(fields, num_heads)?;
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(2048);
    let spec = rope(fields, head_dim, context_len, 10_000.0, 1.0)?;
    if spec.dim != head_dim {
        return Err(fields.unsupported("partial_rotary_factor", "1"));
    }
    let tied_head = fields.flag("tie_word_embeddings")?.unwrap_or(false);
    let mut config: Config = from_json(
        fields,
        json!({
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": fields.required_size("intermediate_size")?,
            "attention_bias": fields.flag("attention_bias")?.unwrap_or(false),
            "num_hidden_layers": layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_kv_heads,
            "hidden_act": activation(fields, "hidden_act", "silu")?,
            "max_position_embeddings": context_len,
            "rope_theta": spec.theta,
            "tie_word_embeddings": tied_head,
            "clip_qkv": fields.positive("clip_qkv")?,
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
