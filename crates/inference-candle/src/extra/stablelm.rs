//! StableLM, without parallel residuals and norms of queries and keys.

use candle_core::Device;
use candle_transformers::models::stable_lm::{Config, Model};
use inference_core::Result;
use serde_json::json;

use super::description::{
    Description, Sizes, activation, epsilon, fraction, from_json, heads, kv_heads, require, rope,
};
use super::instances::{Chunks, Instance, Owned, Rebuilt};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let (num_heads, head_dim) = heads(fields, "num_attention_heads", hidden)?;
    let num_kv_heads = kv_heads(fields, num_heads)?;
    require(fields, "use_parallel_residual", false, false)?;
    require(fields, "qk_layernorm", false, false)?;
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(4096);
    let spec = rope(fields, head_dim, context_len, 10_000.0, 0.25)?;
    let mut config = json!({
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": fields.required_size("intermediate_size")?,
        "num_hidden_layers": layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "hidden_act": activation(fields, "hidden_act", "silu")?,
        "layer_norm_eps": epsilon(fields, "layer_norm_eps", 1e-5)?,
        "rope_theta": spec.theta,
        "partial_rotary_factor": fraction(spec.dim, head_dim),
        "use_qkv_bias": fields.flag("use_qkv_bias")?.unwrap_or(false),
        "use_cache": true,
        "max_position_embeddings": context_len,
    });
    from_json::<Config>(fields, config.clone())?;
    let tied_head = fields.flag("tie_word_embeddings")?.unwrap_or(false);
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
        renamed: if tied_head { &[("lm_head.", "model.embed_tokens.")] } else { &[] },
        tied_head,
        build: Box::new(move |tensors, context| {
            config["max_position_embeddings"] = context.into();
            let config: Config =
                serde_json::from_value(config).map_err(candle_core::Error::wrap)?;
            // Its cache can be neither cloned nor cleared.
            let build = move || -> candle_core::Result<Box<dyn Instance>> {
                let model = Model::new(&config, tensors.clone())?;
                let forward =
                    |model: &mut Model, tokens: &_, position| model.forward(tokens, position);
                Ok(Box::new(Owned { model, device: device.clone(), forward }))
            };
            build()?;
            Ok(Box::new(Rebuilt { build, chunks: Chunks::Any }))
        }),
    })
}
