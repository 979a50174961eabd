//! Mamba: a state of fixed size instead of keys and values.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_transformers::models::mamba::{Config, Model, State};
use inference_core::Result;

use super::description::{Description, Sizes, require, require_epsilon, require_size};
use super::instances::{Chunks, Instance, Prototype};
use crate::config::Fields;

/// The longest sequence. The state does not grow; this bounds requests.
pub(super) const MAX_CONTEXT: usize = 1 << 20;

/// The size of the state and of the convolution that candle-transformers has
/// built in.
const STATE: usize = 16;
const CONVOLUTION: usize = 4;

pub(super) fn describe(fields: &Fields<'_>, device: &Device) -> Result<Description> {
    let Sizes { vocab, hidden, layers } = Sizes::read(fields)?;
    require_size(fields, "state_size", STATE)?;
    require_size(fields, "conv_kernel", CONVOLUTION)?;
    require_size(fields, "expand", 2)?;
    require_size(fields, "intermediate_size", 2 * hidden)?;
    if fields.text("time_step_rank").ok().flatten() != Some("auto") {
        require_size(fields, "time_step_rank", hidden.div_ceil(16))?;
    }
    require(fields, "use_bias", false, false)?;
    require(fields, "use_conv_bias", true, true)?;
    require(fields, "tie_word_embeddings", true, true)?;
    require_epsilon(fields, "layer_norm_epsilon", 1e-5)?;
    if fields.text("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(fields.unsupported("hidden_act", "silu"));
    }
    let config =
        Config { d_model: hidden, n_layer: layers, vocab_size: vocab, pad_vocab_size_multiple: 1 };
    let device = device.clone();
    let inner = 2 * hidden as u64;
    Ok(Description {
        vocab_size: vocab,
        hidden_size: hidden,
        num_layers: layers,
        num_heads: 0,
        num_kv_heads: 0,
        head_dim: 0,
        context_len: MAX_CONTEXT,
        state_bytes: 4 * inner.saturating_mul(layers as u64 * (STATE + CONVOLUTION) as u64),
        embedding: "backbone.embeddings.weight",
        renamed: &[("backbone.embedding.", "backbone.embeddings.")],
        tied_head: true,
        build: Box::new(move |tensors, _| {
            let model = Model::new(&config, tensors.pp("backbone"))?;
            Ok(Box::new(Mamba { model: Arc::new(model), config, device }))
        }),
    })
}

struct Mamba {
    model: Arc<Model>,
    config: Config,
    device: Device,
}

impl Prototype for Mamba {
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
