//! A step on slices: what [`reference::step`](inference_candle::reference::step)
//! computes, bit for bit, without a tensor for every operation's result.
//!
//! Buffers come from an [`Arena`]; maps of one input share it as
//! [`Activations`], which are quantized once; what is elementwise is done in
//! place, in parallel where there are many rows. Adapters add to what a map
//! gave. A map of somebody else's is called with tensors.

use std::sync::TryLockError;

use candle_core::{DType, Tensor};
use inference_candle::{
    AdaptedMap, AdapterRows, BatchView, Decoder, KvCache, Norm, RopeAngles, StepContext,
};
use inference_core::{Error, Result};

use crate::CpuOps;
use crate::activations::Activations;
use crate::arena::{Arena, sized};
use crate::view::{Contiguous, shapes, tensor};

/// Elements per task of elementwise operations.
pub(crate) const TASK: usize = 1 << 12;

impl CpuOps {
    /// [`Ops::step`](inference_candle::Ops::step).
    pub(crate) fn execute(
        &self,
        decoder: &Decoder,
        tokens: &[u32],
        batch: &BatchView<'_>,
        mut cache: Option<&mut dyn KvCache>,
        logit_rows: &[usize],
    ) -> Result<Tensor> {
        let mut kept = match self.arena.try_lock() {
            Ok(arena) => Some(arena),
            // A step that panicked: what it left means nothing.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        // Another thread's step has the buffers.
        let mut own = Arena::default();
        let arena = kept.as_deref_mut().unwrap_or(&mut own);
        arena.begin(tokens.len());

        let config = decoder.config();
        let ropes = decoder.ropes().iter().map(|rope| rope.angles(batch, &self.device));
        let ropes: Vec<RopeAngles> = ropes.collect::<Result<_>>()?;
        let context = StepContext { batch, ropes: &ropes };
        let x = sized(&mut arena.x, tokens.len() * config.hidden_size);
        self.embed(decoder.embedding(), tokens, x)?;
        if config.embedding_scale != 1.0 {
            // As an affine map whose offset is 0: no zero stays negative.
            x.iter_mut().for_each(|x| *x = *x * config.embedding_scale + 0.0);
        }
        for layer in decoder.layers() {
            self.attention_half(&layer.attention, &context, reborrow(&mut cache), arena)?;
            self.mlp_half(&layer.mlp, &context, arena)?;
        }
        self.logits(decoder, batch, logit_rows, arena)
    }

    /// The final norm and the head, of the rows that are asked for.
    fn logits(
        &self,
        decoder: &Decoder,
        batch: &BatchView<'_>,
        logit_rows: &[usize],
        arena: &mut Arena,
    ) -> Result<Tensor> {
        let error = |e| Error::engine("decoder", e);
        let (config, tokens) = (decoder.config(), batch.positions.len());
        if logit_rows.is_empty() {
            // A part of a prompt that only fills the KV pool.
            let shape = (0, config.vocab_size);
            return Tensor::zeros(shape, DType::F32, &self.device).map_err(error);
        }
        let (hidden, rows) = (config.hidden_size, logit_rows.len());
        let x = sized(&mut arena.x, tokens * hidden);
        let chosen = sized(&mut arena.branch, rows * hidden);
        for (row, chosen) in logit_rows.iter().zip(chosen.chunks_exact_mut(hidden.max(1))) {
            let Some(x) = x.get(row * hidden..(row + 1) * hidden) else {
                return Err(Error::engine_message(format!("logit row {row} of {tokens}")));
            };
            chosen.copy_from_slice(x);
        }
        let input = sized(&mut arena.input, rows * hidden);
        self.norm_into(decoder.final_norm(), chosen, input)?;
        let mut logits = vec![0.0f32; rows * config.vocab_size];
        self.maps([(&**decoder.head(), &Activations::new(input, hidden), &mut *logits)])?;
        if batch.adapters.iter().any(|group| group.adapter.delta(AdaptedMap::Head).is_some()) {
            let groups = AdapterRows::select(batch.adapters, logit_rows);
            let targets = [(AdaptedMap::Head, &mut *logits)];
            self.adapt(&groups, 0..rows, input, targets, &mut arena.adapters)?;
        }
        let mut logits = tensor(logits, (rows, config.vocab_size))?;
        if config.logit_scale != 1.0 {
            logits = logits.affine(f64::from(config.logit_scale), 0.0).map_err(error)?;
        }
        match config.logit_softcap.map(f64::from) {
            Some(cap) => {
                let capped = logits.affine(1.0 / cap, 0.0).and_then(|x| x.tanh()?.affine(cap, 0.0));
                capped.map_err(error)
            }
            None => Ok(logits),
        }
    }

    /// The norm of rows as long as its weight.
    pub(crate) fn norm_into(&self, norm: &Norm, x: &[f32], out: &mut [f32]) -> Result<()> {
        let weight = Contiguous::new(&norm.weight()?, "norm")?;
        let weight = weight.elements()?;
        let (weight, eps) = (weight.f32()?, norm.eps());
        self.norm_rows(x, weight, eps, out)
    }

    /// The norm of rows as long as `weight`.
    pub(crate) fn norm_rows(
        &self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<()> {
        let len = weight.len();
        if len == 0 || x.len() != out.len() || !x.len().is_multiple_of(len) {
            return Err(shapes("rms_norm", &[&[x.len()], &[len], &[out.len()]]));
        }
        let rows = (TASK / len).max(1);
        self.workers.for_each_chunk(out, rows * len, x.len() * 2, |chunk, out| {
            let x = x.get(chunk * rows * len..).unwrap_or_default();
            for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
                // SAFETY: the table is for this CPU, checked where it was chosen.
                unsafe { (self.kernels.rms_norm)(x, weight, out, eps) };
            }
        });
        Ok(())
    }

    /// The norm, or the rows themselves where there is none.
    pub(crate) fn maybe_norm<'a>(
        &self,
        norm: Option<&Norm>,
        x: &'a [f32],
        buffer: &'a mut Vec<f32>,
    ) -> Result<&'a [f32]> {
        let Some(norm) = norm else { return Ok(x) };
        let out = sized(buffer, x.len());
        self.norm_into(norm, x, out)?;
        Ok(out)
    }

    /// `x += y * scale`: the residual connection.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32], scale: f32) {
        self.workers.for_each_chunk(x, TASK, y.len(), |chunk, x| {
            let y = y.get(chunk * TASK..).unwrap_or_default();
            for (x, y) in x.iter_mut().zip(y) {
                *x += y * scale;
            }
        });
    }
}

/// The pool for one layer's call. (`as_deref_mut` would borrow it for the
/// whole lifetime of the trait object.)
fn reborrow<'a>(cache: &'a mut Option<&mut dyn KvCache>) -> Option<&'a mut dyn KvCache> {
    match cache {
        Some(cache) => Some(&mut **cache),
        None => None,
    }
}
