//! GPT BigCode (StarCoder 1), with one key/value head.

use candle_core::Device;
use candle_transformers::models::bigcode::{Config, GPTBigCode};
use inference_core::Result;

use super::description::{Description, epsilon, heads, require};
use super::instances::{Chunks, Instance, Owned, Rebuilt};
use crate::config::Fields;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let vocab = fields.required_size("vocab_size")?;
    let hidden = fields.required_size("n_embd")?;
    let layers = fields.required_size("n_layer")?;
    let (num_heads, head_dim) = heads(fields, "n_head", hidden)?;
    require(fields, "multi_query", true, true)?;
    require(fields, "tie_word_embeddings", true, true)?;
    require(fields, "scale_attn_weights", true, true)?;
    require(fields, "add_cross_attention", false, false)?;
    let name = "activation_function";
    if !matches!(fields.text(name)?, None | Some("gelu_pytorch_tanh" | "gelu_new")) {
        return Err(fields.unsupported(name, "gelu_pytorch_tanh, gelu_new"));
    }
    // The table of positions, and a mask of its square.
    let positions = fields.length("n_positions")?.unwrap_or(1024);
    if positions > MAX_POSITIONS {
        return Err(fields.unsupported("n_positions", format!("at most {MAX_POSITIONS}")));
    }
    let norm_eps = epsilon(fields, "layer_norm_epsilon", 1e-5)?;
    let n_inner = fields.size("n_inner")?;
    let config = move || Config {
        vocab_size: vocab,
        max_position_embeddings: positions,
        num_hidden_layers: layers,
        hidden_size: hidden,
        layer_norm_epsilon: norm_eps,
        n_inner,
        num_attention_heads: num_heads,
        multi_query: true,
        use_cache: true,
    };
    let device = device.clone();
    Ok(Description {
        vocab_size: vocab,
        hidden_size: hidden,
        num_layers: layers,
        num_heads,
        num_kv_heads: 1,
        head_dim,
        context_len: positions,
        state_bytes: (positions * positions) as u64,
        embedding: "transformer.wte.weight",
        renamed: &[],
        tied_head: true,
        build: Box::new(move |tensors, _| {
            // Its cache can be neither cloned nor cleared.
            let build = move || -> candle_core::Result<Box<dyn Instance>> {
                let model = GPTBigCode::load(tensors.clone(), config())?;
                let forward =
                    |model: &mut GPTBigCode, tokens: &_, position| model.forward(tokens, position);
                Ok(Box::new(Owned { model, device: device.clone(), forward }))
            };
            build()?;
            Ok(Box::new(Rebuilt { build, chunks: Chunks::Any }))
        }),
    })
}

/// The largest table of positions: an instance's mask then has 64 MiB.
const MAX_POSITIONS: usize = 8192;
