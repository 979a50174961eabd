//! The attention half of a layer.

use std::sync::Arc;

use candle_core::Tensor;
use inference_core::{Error, Result};

use crate::decoder_adapter::{AdaptedMap, LayerMap};
use crate::norm::maybe;
use crate::project::project;
use crate::{AttentionSpec, BatchView, KvCache, Linear, Norm, Ops, QkNorm, RopeAngles};

/// `x + scale * norm(output(attention(rope(q), rope(k), v)))`, with queries,
/// keys and values from `norm(x)`.
#[derive(Debug)]
pub struct AttentionBlock {
    /// The layer, counted from 0; also its index in the KV pool.
    pub layer: usize,
    /// Heads, scale, window.
    pub spec: AttentionSpec,
    /// Index of its rotary embedding; `None`: it has none.
    pub rope: Option<usize>,
    /// The norm before.
    pub input_norm: Option<Norm>,
    /// The norm after, inside the residual branch.
    pub output_norm: Option<Norm>,
    /// Queries: hidden to `heads * head_dim`.
    pub query: Arc<dyn Linear>,
    /// Keys: hidden to `kv_heads * head_dim`.
    pub key: Arc<dyn Linear>,
    /// Values: hidden to `kv_heads * head_dim`.
    pub value: Arc<dyn Linear>,
    /// `heads * head_dim` to hidden.
    pub output: Arc<dyn Linear>,
    /// How queries and keys are normalised: kind, norm of queries, of keys.
    pub qk_norm: Option<(QkNorm, Norm, Norm)>,
    /// Factor on what the block adds.
    pub residual_scale: f32,
}

/// What the blocks of one step share.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    /// Where the tokens stand.
    pub batch: &'a BatchView<'a>,
    /// The angles of each of the model's rotary embeddings.
    pub ropes: &'a [RopeAngles],
}

/// The reference of [`Ops::attention_block`]: the operations of `ops`, one
/// after the other.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn attention_block<O: Ops + ?Sized>(
    ops: &O,
    block: &AttentionBlock,
    x: &Tensor,
    step: &StepContext<'_>,
    cache: Option<&mut dyn KvCache>,
) -> Result<Tensor> {
    let input = maybe(block.input_norm.as_ref(), ops, x.clone())?;
    let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = block.spec;
    let heads = |x: Tensor, heads: usize| {
        x.reshape(((), heads, head_dim)).map_err(|e| Error::engine("attention block", e))
    };
    let map = |map: &Arc<dyn Linear>, kind: LayerMap, x: &Tensor| {
        project(ops, map, AdaptedMap::Layer(block.layer, kind), x, step.batch.adapters)
    };
    let mut q = map(&block.query, LayerMap::Query, &input)?;
    let mut k = map(&block.key, LayerMap::Key, &input)?;
    let v = heads(map(&block.value, LayerMap::Value, &input)?, num_kv_heads)?;
    if let Some((QkNorm::AllHeads, q_norm, k_norm)) = &block.qk_norm {
        (q, k) = (q_norm.forward(ops, &q)?, k_norm.forward(ops, &k)?);
    }
    (q, k) = (heads(q, num_heads)?, heads(k, num_kv_heads)?);
    if let Some((QkNorm::PerHead, q_norm, k_norm)) = &block.qk_norm {
        (q, k) = (q_norm.forward(ops, &q)?, k_norm.forward(ops, &k)?);
    }
    if let Some(rope) = block.rope {
        let Some(RopeAngles { cos, sin }) = step.ropes.get(rope) else {
            return Err(Error::engine_message(format!("no angles of rotary embedding {rope}")));
        };
        (q, k) = (ops.rope(&q, cos, sin)?, ops.rope(&k, cos, sin)?);
    }
    let cache = cache.map(|cache| (cache, block.layer));
    let attended = ops.attention(&q, &k, &v, cache, step.batch, &block.spec)?;
    let output = map(&block.output, LayerMap::Output, &attended)?;
    let output = maybe(block.output_norm.as_ref(), ops, output)?;
    ops.add_scaled(x, &output, block.residual_scale)
}
