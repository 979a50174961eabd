//! The operations that a device provides.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use inference_core::{Error, Precision, Result};
use inference_engine::StepSequence;

use crate::{
    AdapterRows, AttentionBlock, Decoder, KvCache, KvLayout, MatrixView, MlpBlock, StepContext,
    Weight, reference,
};

/// An affine map, `[tokens, in] -> [tokens, out]`: dense, quantized, or
/// wrapped by an adapter.
pub trait Linear: Send + Sync + fmt::Debug {
    /// Input features.
    fn in_features(&self) -> usize;

    /// Output features.
    fn out_features(&self) -> usize;

    /// `x · Wᵀ + b`; `x` is f32 `[tokens, in]`, the result f32 `[tokens, out]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// Rows of the weight from `first` on as f32, over all of `out`: whole rows
    /// of [`in_features`](Self::in_features) elements.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported)
    /// where the map cannot tell, [`ErrorKind::Engine`](inference_core::ErrorKind::Engine)
    /// for rows that it does not have.
    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let _ = (first, out);
        Err(Error::unsupported(format!("{self:?}"), "reading its weight"))
    }

    /// `b`, `[out]`, f32, where there is one.
    fn bias(&self) -> Option<Tensor> {
        None
    }

    /// As [`forward`](Self::forward), in f32 of the stored values: where that
    /// rounds activations, this does not. `x` is `[tokens, in]`, `out`
    /// `[tokens, out]`, on the host. Training computes with it.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward) and [`decode_rows`](Self::decode_rows).
    fn forward_exact(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        reference::forward_exact(self, x, out)
    }

    /// The gradient with respect to the input from that with respect to the
    /// output: `g · W`, `[tokens, out]` to `out`, `[tokens, in]`.
    ///
    /// # Errors
    ///
    /// As [`forward_exact`](Self::forward_exact).
    fn input_gradient(&self, gradient: &[f32], out: &mut [f32]) -> Result<()> {
        reference::input_gradient(self, gradient, out)
    }

    /// The map itself, for operations that know how to compute their own maps
    /// without a tensor for each result. `None`: it can only be called.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// How the gate of an MLP is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// GELU with the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// How one layer attends.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; query head `h` reads `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Factor on `q · k`.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, where set.
    pub softcap: Option<f32>,
    /// A query at position `p` sees keys at positions greater than
    /// `p - window` only, where set.
    pub window: Option<usize>,
}

/// Where the tokens of a step stand.
#[derive(Debug)]
pub struct BatchView<'a> {
    /// The sequences, which cover the step's tokens in order.
    pub sequences: &'a [StepSequence],
    /// The position of each token in its sequence, `[tokens]`.
    pub positions: &'a [usize],
    /// The adapters of the step and their rows; rows of none are the model's
    /// own.
    pub adapters: &'a [AdapterRows<'a>],
}

/// The operations of one device.
///
/// The first group makes what a model holds; the second computes one operation
/// each; the third computes blocks made of them, by default with the second.
/// A backend overrides at the level that pays. Activations
/// are f32 tensors on [`device`](Self::device), contiguous unless said
/// otherwise. Every method has a plain-Candle default ([`crate::reference`])
/// that can be differentiated and is the oracle of tests; a backend overrides
/// where it gains, with results that do not depend on which other tokens are
/// in the batch.
pub trait Ops: Send + Sync + fmt::Debug {
    /// The device that tensors live on.
    fn device(&self) -> &Device;

    /// How products with quantized weights are computed.
    fn precision(&self) -> Precision {
        Precision::Fast
    }

    /// Calls `task` with each index below `items`, once, on the threads that
    /// these operations have, where `work` (multiply-adds, or elements touched,
    /// of all) pays for it. Which thread calls must not change what is computed.
    fn for_each(&self, items: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
        reference::for_each(items, work, task);
    }

    /// `a · b` over all of `c`, or, with `add`, added to it; on the host, on the
    /// calling thread. An element is one chain over the columns of `a`, so that
    /// it does not depend on which others are computed with it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the shapes
    /// do not fit.
    fn multiply(
        &self,
        a: &MatrixView<'_>,
        b: &MatrixView<'_>,
        c: &mut [f32],
        add: bool,
    ) -> Result<()> {
        reference::multiply(a, b, c, add)
    }

    /// An affine map from a `[out, in]` weight and an `[out]` bias.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// for shapes that do not fit or a type that is not supported.
    fn linear(&self, weight: &Weight, bias: Option<&Weight>) -> Result<Arc<dyn Linear>> {
        reference::linear(self.device(), weight, bias, self.precision())
    }

    /// `map` of `x`, `[tokens, in] -> [tokens, out]`. The reference's blocks
    /// call every affine map of a decoder through this.
    ///
    /// # Errors
    ///
    /// As [`Linear::forward`].
    fn apply(&self, map: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
        map.forward(x)
    }

    /// Maps of weights with biases that come and go together, as an adapter's
    /// do: what was made of them is freed with the last of the maps, and a
    /// weight that is a tensor does not change any more.
    ///
    /// # Errors
    ///
    /// As [`linear`](Self::linear).
    fn adapter_maps(&self, weights: &[(Weight, Option<Weight>)]) -> Result<Vec<Arc<dyn Linear>>> {
        weights.iter().map(|(weight, bias)| self.linear(weight, bias.as_ref())).collect()
    }

    /// A KV pool.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported) for
    /// a type of element that is not implemented,
    /// [`ErrorKind::Exhausted`](inference_core::ErrorKind::Exhausted) where
    /// memory does not suffice.
    fn kv_cache(&self, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
        reference::kv_cache(self.device(), layout)
    }

    /// Rows of the `[vocab, hidden]` table, widened to f32: `[tokens, hidden]`.
    /// Ids are in range.
    fn embedding(&self, table: &Weight, ids: &[u32]) -> Result<Tensor> {
        reference::embedding(self.device(), table, ids)
    }

    /// Root mean square norm over the last dimension of `x`, times `weight`
    /// (f32, `[last]`). Zhang & Sennrich, 2019.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        reference::rms_norm(x, weight, eps)
    }

    /// Rotates pairs `(i, i + rot/2)` of the first `rot` elements of each head
    /// of `x` (`[tokens, heads, head_dim]`) by the angles of `cos` and `sin`
    /// (`[tokens, rot/2]`); the rest of the head is unchanged. Su et al., 2021.
    fn rope(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        reference::rope(x, cos, sin)
    }

    /// Causal attention: `q` is `[tokens, heads, head_dim]`, `k` and `v` are
    /// `[tokens, kv_heads, head_dim]`, the result is `[tokens, heads * head_dim]`.
    ///
    /// With `cache` (the pool, and the layer to use), `k` and `v` are first
    /// stored at their sequences' block tables, and queries see all earlier
    /// positions. Without, the step's own tokens are all there is, and every
    /// sequence begins at position 0.
    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: Option<(&mut dyn KvCache, usize)>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        reference::attention(q, k, v, cache, batch, spec)
    }

    /// `activation(gate) * up`, elementwise.
    fn gated_activation(
        &self,
        gate: &Tensor,
        up: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        reference::gated_activation(gate, up, activation)
    }

    /// `x + y * scale`, elementwise: the residual connection.
    fn add_scaled(&self, x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
        reference::add_scaled(x, y, scale)
    }

    /// The attention half of a layer, `[tokens, hidden]` to the same, residual
    /// connection included. Override where fusing its operations pays.
    fn attention_block(
        &self,
        block: &AttentionBlock,
        x: &Tensor,
        step: &StepContext<'_>,
        cache: Option<&mut dyn KvCache>,
    ) -> Result<Tensor> {
        reference::attention_block(self, block, x, step, cache)
    }

    /// The MLP half of a layer, mixtures of experts included, `[tokens,
    /// hidden]` to the same, residual connection included.
    fn mlp_block(&self, block: &MlpBlock, x: &Tensor, step: &StepContext<'_>) -> Result<Tensor> {
        reference::mlp_block(self, block, x, step)
    }

    /// The whole step, from token ids to logits `[logit_rows, vocab]`; the
    /// arguments are checked. Override to run it as one parallel region or
    /// one captured graph.
    fn step(
        &self,
        decoder: &Decoder,
        tokens: &[u32],
        batch: &BatchView<'_>,
        cache: Option<&mut dyn KvCache>,
        logit_rows: &[usize],
    ) -> Result<Tensor> {
        reference::step(self, decoder, tokens, batch, cache, logit_rows)
    }
}
