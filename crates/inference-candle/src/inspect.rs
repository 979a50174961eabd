//! Looking at the queries and keys of a prefill.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result as CandleResult, Tensor};
use inference_core::{AttentionSnapshot, Error, LayerAttention, Result};
use inference_engine::StepSequence;

use crate::{
    Activation, AdapterRows, AttentionSpec, BatchView, Decoder, KvCache, KvLayout, Linear, Ops,
    Weight, reference,
};

/// Post-rotary queries and keys of one prefill of `ids`, per layer and head;
/// `ids` is not empty.
///
/// # Errors
///
/// As [`Decoder::forward`].
pub(crate) fn inspect_attention(
    decoder: &Decoder,
    ids: &[u32],
    adapters: &[AdapterRows<'_>],
) -> Result<AttentionSnapshot> {
    let len = ids.len();
    let sequences = [StepSequence {
        start: 0,
        len,
        position: 0,
        prompt_len: len,
        adapter: None,
        block_table: Vec::new(),
    }];
    let positions: Vec<usize> = (0..len).collect();
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters };
    decoder.check(ids, &batch, &[])?;
    let tap = Tap { ops: Arc::clone(decoder.ops()), layers: Mutex::default() };
    reference::step(&tap, decoder, ids, &batch, None, &[len - 1])?;
    let layers = tap.layers.into_inner().unwrap_or_else(PoisonError::into_inner);
    let config = decoder.config();
    let shape = [config.num_heads, config.num_kv_heads, config.head_dim];
    let by_head = |x: &Tensor| -> CandleResult<Vec<f32>> {
        x.transpose(0, 1)?.contiguous()?.flatten_all()?.to_vec1()
    };
    let snapshot = |(index, (q, k)): (usize, &(Tensor, Tensor))| {
        let error = |e| Error::engine("reading queries and keys", e);
        let (queries, keys) = (by_head(q).map_err(error)?, by_head(k).map_err(error)?);
        Ok(LayerAttention::new(index, shape, queries, keys))
    };
    let layers = layers.iter().enumerate().map(snapshot).collect::<Result<_>>()?;
    Ok(AttentionSnapshot::new(ids.to_vec(), layers))
}

/// The operations of a device, which keep the queries and keys that pass.
/// Blocks are the reference's, so that attention is called for every layer.
#[derive(Debug)]
struct Tap {
    ops: Arc<dyn Ops>,
    layers: Mutex<Vec<(Tensor, Tensor)>>,
}

impl Ops for Tap {
    fn device(&self) -> &Device {
        self.ops.device()
    }

    fn linear(&self, weight: &Weight, bias: Option<&Weight>) -> Result<Arc<dyn Linear>> {
        self.ops.linear(weight, bias)
    }

    fn kv_cache(&self, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
        self.ops.kv_cache(layout)
    }

    fn embedding(&self, table: &Weight, ids: &[u32]) -> Result<Tensor> {
        self.ops.embedding(table, ids)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.ops.rms_norm(x, weight, eps)
    }

    fn rope(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        self.ops.rope(x, cos, sin)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: Option<(&mut dyn KvCache, usize)>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.push((q.clone(), k.clone()));
        drop(layers);
        self.ops.attention(q, k, v, cache, batch, spec)
    }

    fn gated_activation(
        &self,
        gate: &Tensor,
        up: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        self.ops.gated_activation(gate, up, activation)
    }

    fn add_scaled(&self, x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
        self.ops.add_scaled(x, y, scale)
    }
}
