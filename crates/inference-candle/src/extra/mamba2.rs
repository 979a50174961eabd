//! Mamba 2: a state of fixed size per head.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_transformers::models::mamba2::{Config, Model, State};
use inference_core::Result;
use serde_json::Value;

use super::description::{Description, Sizes, require, require_epsilon, require_size};
use super::instances::{Chunks, Instance, Prototype};
use super::mamba::MAX_CONTEXT;
use crate::config::Fields;

/// The size of the convolution that candle-transformers has built in.
const CONVOLUTION: usize = 4;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    let expand = fields.size("expand")?.unwrap_or(2);
    let inner = hidden.saturating_mul(expand);
    let head_dim = fields.size("head_dim")?.unwrap_or(64);
    let num_heads = fields.size("num_heads")?.unwrap_or(128);
    if num_heads.saturating_mul(head_dim) != inner {
        return Err(fields.invalid("num_heads", format!("{inner} / {head_dim}")));
    }
    let groups = fields.size("n_groups")?.unwrap_or(8);
    if groups != 1 {
        // transformers norms each group by itself, candle-transformers all.
        return Err(fields.unsupported("n_groups", "1"));
    }
    let state = fields.size("state_size")?.unwrap_or(128);
    require_size(fields, "conv_kernel", CONVOLUTION)?;
    require(fields, "use_bias", false, false)?;
    require(fields, "use_conv_bias", true, true)?;
    // The head of candle-transformers is the embedding.
    require(fields, "tie_word_embeddings", true, false)?;
    require_epsilon(fields, "layer_norm_epsilon", 1e-5)?;
    if fields.text("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(fields.unsupported("hidden_act", "silu"));
    }
    if fields.get("time_step_limit").is_some_and(|limit| !unlimited(limit)) {
        return Err(fields.unsupported("time_step_limit", "[0, infinity]"));
    }
    let config = Config {
        d_model: hidden,
        n_layer: layers,
        vocab_size: vocab,
        d_state: state,
        expand,
        headdim: head_dim,
        ngroups: groups,
        pad_vocab_size_multiple: 1,
    };
    let device = device.clone();
    let per_layer = (inner as u64).saturating_mul((state + CONVOLUTION) as u64);
    let convolved = (2 * CONVOLUTION as u64).saturating_mul((groups * state) as u64);
    Ok(Description {
        vocab_size: vocab,
        hidden_size: hidden,
        num_layers: layers,
        num_heads: 0,
        num_kv_heads: 0,
        head_dim: 0,
        context_len: MAX_CONTEXT,
        state_bytes: per_layer.saturating_add(convolved).saturating_mul(4 * layers as u64),
        embedding: "backbone.embeddings.weight",
        renamed: &[],
        tied_head: true,
        build: Box::new(move |tensors, _| {
            let model = Model::new(&config, tensors.pp("backbone"))?;
            Ok(Box::new(Mamba2 { model: Arc::new(model), config, device }))
        }),
    })
}

/// Whether the limits of the time step are 0 and infinity, which transformers
/// writes as `{"__float__": "Infinity"}`.
fn unlimited(limit: &Value) -> bool {
    let zero = limit.get(0).and_then(Value::as_f64) == Some(0.0);
    let infinity = limit.get(1).and_then(|top| top.get("__float__")).and_then(Value::as_str);
    zero && infinity == Some("Infinity")
}

struct Mamba2 {
    model: Arc<Model>,
    config: Config,
    device: Device,
}

impl Prototype for Mamba2 {
    fn instance(&self) -> CandleResult<Box<dyn Instance>> {
        let state = State::new(1, &self.config, DType::F32, &self.device)?;
        Ok(Box::new(Sequence {
            model: Arc::clone(&self.model),
            state,
            device: self.device.clone(),
        }))
    }

    fn chunks(&self) -> Chunks {
        Chunks::Never
    }
}

struct Sequence {
    model: Arc<Model>,
    state: State,
    device: Device,
}

impl Instance for Sequence {
    fn forward(&mut self, tokens: &[u32], _: usize) -> CandleResult<Tensor> {
        self.model.forward(&Tensor::new(tokens, &self.device)?, &mut self.state)
    }
}
