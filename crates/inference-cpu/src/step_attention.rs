//! The attention half of a layer, on slices.

use candle_core::Tensor;
use inference_candle::{
    AdaptedMap, AttentionBlock, AttentionSpec, KvCache, LayerMap, Norm, QkNorm, StepContext,
};
use inference_core::{Error, Result};

use crate::CpuOps;
use crate::activations::Activations;
use crate::arena::{Arena, sized};
use crate::step::TASK;
use crate::view::{Contiguous, shapes};

impl CpuOps {
    /// Adds the block's output to the residual stream, which is
    /// [`reference::attention_block`](inference_candle::reference::attention_block).
    pub(crate) fn attention_half(
        &self,
        block: &AttentionBlock,
        step: &StepContext<'_>,
        cache: Option<&mut dyn KvCache>,
        arena: &mut Arena,
    ) -> Result<()> {
        let Arena { x, input, branch, q, k, v, attended, adapters, .. } = arena;
        let place = |map: LayerMap| AdaptedMap::Layer(block.layer, map);
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = block.spec;
        let rows = step.batch.positions.len();
        let hidden = block.output.out_features();
        let x = sized(x, rows * hidden);
        let q = sized(q, rows * num_heads * head_dim);
        let k = sized(k, rows * num_kv_heads * head_dim);
        let v = sized(v, rows * num_kv_heads * head_dim);
        {
            let input = self.maybe_norm(block.input_norm.as_ref(), x, input)?;
            let input = Activations::new(input, hidden);
            self.maps([
                (&*block.query, &input, &mut *q),
                (&*block.key, &input, &mut *k),
                (&*block.value, &input, &mut *v),
            ])?;
            let targets = [
                (place(LayerMap::Query), &mut *q),
                (place(LayerMap::Key), &mut *k),
                (place(LayerMap::Value), &mut *v),
            ];
            self.adapt(step.batch.adapters, 0..rows, input.values(), targets, adapters)?;
        }
        // Norms of all heads of a row or of each: the weight's length says.
        if let Some((QkNorm::AllHeads | QkNorm::PerHead, q_norm, k_norm)) = &block.qk_norm {
            self.norm_in_place(q_norm, q)?;
            self.norm_in_place(k_norm, k)?;
        }
        if let Some(rope) = block.rope {
            let Some(angles) = step.ropes.get(rope) else {
                return Err(Error::engine_message(format!("no angles of rotary embedding {rope}")));
            };
            self.rotate(&angles.cos, &angles.sin, rows, head_dim, [&mut *q, &mut *k])?;
        }
        let attended = sized(attended, q.len());
        let cache = cache.map(|cache| (cache, block.layer));
        self.attend_slices([q, k, v], cache, step.batch, &block.spec, attended)?;
        let output = sized(branch, rows * hidden);
        let width = num_heads * head_dim;
        self.maps([(&*block.output, &Activations::new(attended, width), &mut *output)])?;
        let targets = [(place(LayerMap::Output), &mut *output)];
        self.adapt(step.batch.adapters, 0..rows, attended, targets, adapters)?;
        let output = self.maybe_norm(block.output_norm.as_ref(), output, input)?;
        self.add(x, output, block.residual_scale);
        Ok(())
    }

    /// The norm of runs as long as its weight.
    fn norm_in_place(&self, norm: &Norm, x: &mut [f32]) -> Result<()> {
        let weight = Contiguous::new(&norm.weight()?, "norm")?;
        let weight = weight.elements()?;
        let (weight, eps) = (weight.f32()?, norm.eps());
        let len = weight.len();
        if len == 0 || !x.len().is_multiple_of(len) {
            return Err(shapes("rms_norm", &[&[x.len()], &[len]]));
        }
        let (runs, work) = ((TASK / len).max(1), x.len() * 2);
        self.workers.for_each_chunk(x, runs * len, work, |_, x| {
            let (mut short, mut long) = ([0.0f32; 512], Vec::new());
            let copy = match short.get_mut(..len) {
                Some(short) => short,
                None => sized(&mut long, len),
            };
            for x in x.chunks_exact_mut(len) {
                copy.copy_from_slice(x);
                // SAFETY: the table is for this CPU, checked where it was chosen.
                unsafe { (self.kernels.rms_norm)(copy, weight, x, eps) };
            }
        });
        Ok(())
    }

    /// Rotates the heads of each of `parts`, `[rows, heads * head_dim]`, by the
    /// angles whose cosines and sines are `[rows, half]`.
    pub(crate) fn rotate<const N: usize>(
        &self,
        cos: &Tensor,
        sin: &Tensor,
        rows: usize,
        head_dim: usize,
        parts: [&mut [f32]; N],
    ) -> Result<()> {
        let &[tokens, half] = cos.dims() else {
            return Err(shapes("rope", &[cos.dims()]));
        };
        if tokens != rows || sin.dims() != cos.dims() || half * 2 > head_dim {
            return Err(shapes("rope", &[&[rows, head_dim], cos.dims(), sin.dims()]));
        }
        let cos = Contiguous::new(cos, "cosines")?;
        let sin = Contiguous::new(sin, "sines")?;
        let (cos, sin) = (cos.elements()?, sin.elements()?);
        let (cos, sin) = (cos.f32()?, sin.f32()?);
        if half == 0 || parts.iter().all(|part| part.is_empty()) {
            return Ok(());
        }
        for part in parts {
            let (row, work) = (part.len() / rows.max(1), part.len());
            let per_task = (TASK / row.max(1)).max(1);
            self.workers.for_each_chunk(part, per_task * row, work, |chunk, part| {
                let from = chunk * per_task * half;
                let angles = |all: &'_ [f32]| from.min(all.len());
                let cos = cos.get(angles(cos)..).unwrap_or_default().chunks_exact(half);
                let sin = sin.get(angles(sin)..).unwrap_or_default().chunks_exact(half);
                for (token, (cos, sin)) in part.chunks_exact_mut(row).zip(cos.zip(sin)) {
                    for head in token.chunks_exact_mut(head_dim) {
                        rotate_head(head, cos, sin);
                    }
                }
            });
        }
        Ok(())
    }
}

/// Rotates the pairs `(i, i + half)` of one head.
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let Some((first, second)) = head.split_at_mut_checked(cos.len()) else { return };
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
