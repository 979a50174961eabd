//! Phi-1, Phi-1.5 and Phi-2, without norms of queries and keys.

use candle_core::Device;
use candle_transformers::models::phi::{Config, Model};
use inference_core::Result;
use serde_json::json;

use super::description::{
    Description, Sizes, activation, epsilon, fraction, from_json, heads, kv_heads, require, rope,
};
use super::instances::{Chunks, Cloned};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let (num_heads, head_dim) = heads(fields, "num_attention_heads", hidden)?;
    let num_kv_heads = kv_heads(fields, num_heads)?;
    require(fields, "qk_layernorm", false, false)?;
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(2048);
    let spec = rope(fields, head_dim, context_len, 10_000.0, 0.5)?;
    let tied_head = fields.flag("tie_word_embeddings")?.unwrap_or(false);
    let mut config = json!({
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": fields.required_size("intermediate_size")?,
        "num_hidden_layers": layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "hidden_act": activation(fields, "hidden_act", "gelu_new")?,
        "layer_norm_eps": epsilon(fields, "layer_norm_eps", 1e-5)?,
        "tie_word_embeddings": tied_head,
        "rope_theta": spec.theta,
        "partial_rotary_factor": fraction(spec.dim, head_dim),
        "qk_layernorm": false,
        "max_position_embeddings": context_len,
    });
    from_json::<Config>(fields, config.clone())?;
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
        // The head's bias is its own even where the weight is the embedding.
        renamed: if tied_head { &[("lm_head.weight", "model.embed_tokens.weight")] } else { &[] },
        tied_head,
        build: Box::new(move |tensors, context| {
            config["max_position_embeddings"] = context.into();
            let config: Config =
                serde_json::from_value(config).map_err(candle_core::Error::wrap)?;
            let model = Model::new(&config, tensors)?;
            let forward = |model: &mut Model, tokens: &_, _| model.forward(tokens);
            Ok(Box::new(Cloned { model, device, chunks: Chunks::First, forward }))
        }),
    })
}
