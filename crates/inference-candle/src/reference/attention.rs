//! Causal attention, with and without a KV pool.

use candle_core::{D, Device, Result as CandleResult, Tensor};
use inference_core::{Error, Result};

use super::{ReferenceKvCache, context};
use crate::{AttentionSpec, BatchView, KvCache};

/// Causal attention; shapes as [`Ops::attention`](crate::Ops::attention) says.
///
/// Without a cache, sequences of equal length are computed as one batched
/// product, which is what training runs.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the device
/// fails, the batch does not cover the tokens, or the cache is not a
/// [`ReferenceKvCache`].
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: Option<(&mut dyn KvCache, usize)>,
    batch: &BatchView<'_>,
    spec: &AttentionSpec,
) -> Result<Tensor> {
    let Some((cache, layer)) = cache else {
        return uncached(q, k, v, batch, spec);
    };
    let Some(cache) = cache.as_any_mut().downcast_mut::<ReferenceKvCache>() else {
        return Err(Error::engine_message("the KV pool was not made by the reference"));
    };
    let rows = |x: &Tensor, start: usize, len: usize| {
        x.narrow(0, start, len).map_err(context("attention: the batch"))
    };
    let mut outputs = Vec::with_capacity(batch.sequences.len());
    for sequence in batch.sequences {
        let (start, len) = (sequence.start, sequence.len);
        cache.write(layer, sequence, &rows(k, start, len)?, &rows(v, start, len)?)?;
        let end = sequence.position + len;
        let first = spec.window.map_or(0, |w| (sequence.position + 1).saturating_sub(w));
        let (k, v) = cache.read(layer, sequence, first, end)?;
        let q = rows(q, start, len)?;
        let compute = || -> CandleResult<Tensor> {
            attend(
                &q.unsqueeze(0)?,
                &k.unsqueeze(0)?,
                &v.unsqueeze(0)?,
                sequence.position - first,
                spec,
            )
        };
        outputs.push(compute().map_err(context("attention"))?);
    }
    Tensor::cat(&outputs, 0).map_err(context("attention"))
}

fn uncached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    batch: &BatchView<'_>,
    spec: &AttentionSpec,
) -> Result<Tensor> {
    if let Some(sequence) = batch.sequences.iter().find(|s| s.position != 0) {
        return Err(Error::engine_message(format!(
            "attention without a cache at position {}",
            sequence.position
        )));
    }
    let compute = || -> CandleResult<Tensor> {
        let (tokens, _, _) = q.dims3()?;
        let sequences = batch.sequences.len();
        let len = batch.sequences.first().map_or(0, |s| s.len);
        let equal = batch.sequences.iter().all(|s| s.len == len) && sequences * len == tokens;
        if equal {
            let split = |x: &Tensor| {
                let (_, heads, head_dim) = x.dims3()?;
                x.reshape((sequences, len, heads, head_dim))
            };
            return attend(&split(q)?, &split(k)?, &split(v)?, 0, spec);
        }
        let one = |s: &inference_engine::StepSequence| {
            let rows = |x: &Tensor| x.narrow(0, s.start, s.len)?.unsqueeze(0);
            attend(&rows(q)?, &rows(k)?, &rows(v)?, 0, spec)
        };
        let outputs = batch.sequences.iter().map(one).collect::<CandleResult<Vec<_>>>()?;
        Tensor::cat(&outputs, 0)
    };
    compute().map_err(context("attention"))
}

/// Attention of `q` (`[batch, queries, heads, head_dim]`) over `k` and `v`
/// (`[batch, keys, kv_heads, head_dim]`); query `i` stands at key
/// `offset + i`. The result is `[batch * queries, heads * head_dim]`.
fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offset: usize,
    spec: &AttentionSpec,
) -> CandleResult<Tensor> {
    let (batch, queries, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    if kv_heads == 0 || heads % kv_heads != 0 {
        candle_core::bail!("{heads} query heads do not share {kv_heads} key heads");
    }
    let group = heads / kv_heads;
    // The query heads of one key head are rows of one product.
    let q = q
        .reshape((batch, queries, kv_heads, group, head_dim))?
        .permute((0, 2, 3, 1, 4))?
        .reshape((batch, kv_heads, group * queries, head_dim))?;
    let k = k.permute((0, 2, 3, 1))?.contiguous()?;
    let v = v.transpose(1, 2)?.contiguous()?;
    let mut scores = q.contiguous()?.matmul(&k)?.affine(f64::from(spec.scale), 0.0)?;
    if let Some(cap) = spec.softcap.map(f64::from) {
        scores = scores.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?;
    }
    if let Some(mask) = mask(queries, keys, offset, spec.window, q.device())? {
        scores = scores
            .reshape((batch, kv_heads, group, queries, keys))?
            .broadcast_add(&mask)?
            .reshape((batch, kv_heads, group * queries, keys))?;
    }
    softmax(&scores)?
        .matmul(&v)?
        .reshape((batch, kv_heads, group, queries, head_dim))?
        .permute((0, 3, 1, 2, 4))?
        .reshape((batch * queries, heads * head_dim))
}

/// Zero where query `i`, standing at key `offset + i`, sees key `j`, and minus
/// infinity elsewhere; `None` where every query sees every key.
fn mask(
    queries: usize,
    keys: usize,
    offset: usize,
    window: Option<usize>,
    device: &Device,
) -> CandleResult<Option<Tensor>> {
    let sees = |i: usize, j: usize| {
        let position = offset + i;
        j <= position && window.is_none_or(|window| position - j < window)
    };
    let cells = || (0..queries).flat_map(|i| (0..keys).map(move |j| (i, j)));
    if cells().all(|(i, j)| sees(i, j)) {
        return Ok(None);
    }
    let values = cells().map(|(i, j)| if sees(i, j) { 0.0 } else { f32::NEG_INFINITY });
    Tensor::from_vec(values.collect(), (queries, keys), device).map(Some)
}

/// Softmax over the last dimension, of Candle's differentiable operations.
pub(crate) fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    let max = x.max_keepdim(D::Minus1)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
