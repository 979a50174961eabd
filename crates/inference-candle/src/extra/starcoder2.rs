//! StarCoder 2.
//!
//! candle-transformers forgets the sliding window once keys are cached, so
//! that sequences are at most as long as the window.

use candle_core::Device;
use candle_transformers::models::starcoder2::{Config, Model};
use inference_core::Result;
use serde_json::json;

use super::description::{
    Description, Sizes, activation, epsilon, from_json, heads, kv_heads, require, rope,
};
use super::instances::{Chunks, Cloned};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let (num_heads, head_dim) = heads(fields, "num_attention_heads", hidden)?;
    let num_kv_heads = kv_heads(fields, num_heads)?;
    require(fields, "tie_word_embeddings", true, true)?;
    let trained = fields.length("max_position_embeddings")?.unwrap_or(4096);
    let context_len = fields.window("sliding_window", None)?.unwrap_or(trained).min(trained);
    let spec = rope(fields, head_dim, trained, 10_000.0, 1.0)?;
    if spec.dim != head_dim {
        return Err(fields.unsupported("partial_rotary_factor", "1"));
    }
    let mut config = json!({
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": fields.required_size("intermediate_size")?,
        "num_hidden_layers": layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "hidden_act": activation(fields, "hidden_act", "gelu_pytorch_tanh")?,
        "norm_epsilon": epsilon(fields, "norm_epsilon", 1e-5)?,
        "rope_theta": spec.theta,
        "use_bias": fields.flag("use_bias")?.unwrap_or(true),
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
        renamed: &[],
        tied_head: true,
        build: Box::new(move |tensors, context| {
            config["max_position_embeddings"] = context.into();
            let config: Config =
                serde_json::from_value(config).map_err(candle_core::Error::wrap)?;
            let model = Model::new(&config, tensors)?;
            let forward = |model: &mut Model, tokens: &_, position| model.forward(tokens, position);
            Ok(Box::new(Cloned { model, device, chunks: Chunks::Any, forward }))
        }),
    })
}
