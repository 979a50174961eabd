//! Falcon, with one key/value head and rotary embeddings (7B).
//!
//! candle-transformers computes GELU by its tanh approximation, whatever the
//! configuration says, and has no ALiBi and no grouped heads.

use candle_core::Device;
use candle_transformers::models::falcon::{Config, Falcon};
use inference_core::Result;

use super::description::{Description, Sizes, epsilon, heads, require, require_size, rope};
use super::instances::{Chunks, Cloned, Instance as _};
use crate::config::Fields;

/// The longest rotary table that candle-transformers makes.
const MAX_CONTEXT: usize = 5000;

/// The base of the rotary embedding that it has built in.
const THETA: f64 = 10_000.0;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let (num_heads, head_dim) = heads(fields, "num_attention_heads", hidden)?;
    require(fields, "alibi", false, false)?;
    require(fields, "new_decoder_architecture", false, false)?;
    require(fields, "multi_query", true, true)?;
    require_size(fields, "ffn_hidden_size", 4 * hidden)?;
    if !matches!(fields.text("activation")?, Some("gelu_pytorch_tanh" | "gelu_new")) {
        return Err(fields.unsupported("activation", "gelu_pytorch_tanh, gelu_new"));
    }
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(2048).min(MAX_CONTEXT);
    let spec = rope(fields, head_dim, context_len, THETA, 1.0)?;
    if spec.theta != THETA || spec.dim != head_dim {
        return Err(fields.unsupported("rope_parameters", "theta 10000 on whole heads"));
    }
    let config = Config {
        vocab_size: vocab,
        hidden_size: hidden,
        num_hidden_layers: layers,
        num_attention_heads: num_heads,
        layer_norm_epsilon: epsilon(fields, "layer_norm_epsilon", 1e-5)?,
        parallel_attn: fields.flag("parallel_attn")?.unwrap_or(true),
        bias: fields.flag("bias")?.unwrap_or(false),
        ..Config::default()
    };
    let tied_head = fields.flag("tie_word_embeddings")?.unwrap_or(true);
    let device = device.clone();
    Ok(Description {
        vocab_size: vocab,
        hidden_size: hidden,
        num_layers: layers,
        num_heads,
        num_kv_heads: 1,
        head_dim,
        context_len,
        state_bytes: 0,
        embedding: "transformer.word_embeddings.weight",
        renamed: if tied_head { &[("lm_head.", "transformer.word_embeddings.")] } else { &[] },
        tied_head,
        build: Box::new(move |tensors, _| {
            let model = Falcon::load(tensors, config)?;
            let forward = |model: &mut Falcon, tokens: &_, _| model.forward(tokens);
            let mut prototype = Cloned { model, device, chunks: Chunks::First, forward };
            // Makes the rotary tables, which clones then share.
            prototype.forward(&[0], 0)?;
            prototype.model.clear_kv_cache();
            Ok(Box::new(prototype))
        }),
    })
}
