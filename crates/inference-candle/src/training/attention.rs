//! Causal attention, forward and back.
//!
//! Some queries of a head at a time: their weights over the keys they see are
//! computed from queries and keys, on the way back again, so that none are kept.

use std::ops::Range;

use inference_core::Result;
use inference_engine::StepSequence;

use super::shared_work::share;
use super::vectors::{dot, exp, greatest, total};
use crate::{AttentionSpec, MatrixView, Ops};

/// Queries at a time.
const QUERIES: usize = 64;

/// Queries, keys and values of a step, `[tokens, heads, head_dim]` each.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// Gradients of [`Operands`].
pub(super) struct OperandGradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

/// A key head of a sequence, with its query heads: what a task computes.
struct Group<'a> {
    ops: &'a dyn Ops,
    spec: &'a AttentionSpec,
    operands: Operands<'a>,
    /// First token and count.
    start: usize,
    len: usize,
    kv_head: usize,
}

/// Weights of some queries of a head.
struct Weights {
    queries: Range<usize>,
    keys: Range<usize>,
    /// `[queries, keys]`.
    values: Vec<f32>,
    /// Derivatives of capped scores, where scores are capped.
    slopes: Vec<f32>,
}

/// Columns of `head` of rows `rows` of a sequence from `start` on.
fn head_of<'a>(
    values: &'a [f32],
    heads: usize,
    head_dim: usize,
    start: usize,
    rows: Range<usize>,
    head: usize,
) -> Result<MatrixView<'a>> {
    let stride = heads * head_dim;
    let from = (start + rows.start) * stride + head * head_dim;
    MatrixView::new(values.get(from..).unwrap_or_default(), rows.len(), head_dim, stride)
}

impl<'a> Group<'a> {
    fn heads_per_group(&self) -> usize {
        self.spec.num_heads / self.spec.num_kv_heads.max(1)
    }

    /// Rows of query head `head` of the group.
    fn of_query<'b>(
        &self,
        x: &'b [f32],
        rows: Range<usize>,
        head: usize,
    ) -> Result<MatrixView<'b>> {
        let AttentionSpec { num_heads, head_dim, .. } = *self.spec;
        let head = self.kv_head * self.heads_per_group() + head;
        head_of(x, num_heads, head_dim, self.start, rows, head)
    }

    /// Rows of keys or values.
    fn of_key(&self, x: &'a [f32], rows: Range<usize>) -> Result<MatrixView<'a>> {
        let AttentionSpec { num_kv_heads, head_dim, .. } = *self.spec;
        head_of(x, num_kv_heads, head_dim, self.start, rows, self.kv_head)
    }

    /// Blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let len = self.len;
        (0..len).step_by(QUERIES).map(move |first| first..(first + QUERIES).min(len))
    }

    /// The weights of a block of queries of a head.
    fn weights(&self, head: usize, queries: Range<usize>) -> Result<Weights> {
        let AttentionSpec { scale, softcap, window, .. } = *self.spec;
        let first_key = |query: usize| window.map_or(0, |w| (query + 1).saturating_sub(w));
        let keys = first_key(queries.start)..queries.end;
        let mut values = vec![0.0; queries.len() * keys.len()];
        let q = self.of_query(self.operands.q, queries.clone(), head)?;
        let k = self.of_key(self.operands.k, keys.clone())?;
        self.ops.multiply(&q, &k.t(), &mut values, false)?;
        let mut slopes = vec![1.0; if softcap.is_some() { values.len() } else { 0 }];
        for (query, row) in queries.clone().zip(values.chunks_exact_mut(keys.len().max(1))) {
            row.iter_mut().for_each(|score| *score *= scale);
            if let Some(cap) = softcap {
                let from = (query - queries.start) * keys.len();
                let slopes = slopes.iter_mut().skip(from);
                for (score, slope) in row.iter_mut().zip(slopes) {
                    let tanh = (*score / cap).tanh();
                    (*score, *slope) = (cap * tanh, 1.0 - tanh * tanh);
                }
            }
            let (before, rest) = row.split_at_mut(first_key(query) - keys.start);
            let (seen, after) = rest.split_at_mut(query + 1 - first_key(query));
            before.fill(0.0);
            after.fill(0.0);
            let max = greatest(seen);
            seen.iter_mut().for_each(|score| *score = exp(*score - max));
            let factor = 1.0 / total(seen);
            seen.iter_mut().for_each(|weight| *weight *= factor);
        }
        Ok(Weights { queries, keys, values, slopes })
    }

    /// The results of its heads, `[heads of the group, len, head_dim]`.
    fn forward(&self) -> Result<Vec<f32>> {
        let head_dim = self.spec.head_dim;
        let mut out = vec![0.0; self.heads_per_group() * self.len * head_dim];
        for (head, out) in out.chunks_exact_mut((self.len * head_dim).max(1)).enumerate() {
            for (queries, out) in self.blocks().zip(out.chunks_mut(QUERIES * head_dim)) {
                let weights = self.weights(head, queries)?;
                let v = self.of_key(self.operands.v, weights.keys.clone())?;
                self.ops.multiply(&weights.view()?, &v, out, false)?;
            }
        }
        Ok(out)
    }

    /// Gradients of its queries, `[heads of the group, len, head_dim]`, of its
    /// keys and of its values, `[len, head_dim]`.
    fn backward(&self, gradient: &[f32]) -> Result<[Vec<f32>; 3]> {
        let (ops, head_dim) = (self.ops, self.spec.head_dim);
        let mut of_q = vec![0.0; self.heads_per_group() * self.len * head_dim];
        let (mut of_k, mut of_v) = (vec![0.0; self.len * head_dim], vec![0.0; self.len * head_dim]);
        for (head, of_q) in of_q.chunks_exact_mut((self.len * head_dim).max(1)).enumerate() {
            for (queries, of_q) in self.blocks().zip(of_q.chunks_mut(QUERIES * head_dim)) {
                let weights = self.weights(head, queries.clone())?;
                let keys = weights.keys.clone();
                let gradient = self.of_query(gradient, queries.clone(), head)?;
                let rows = keys.start * head_dim..keys.end * head_dim;
                let to = of_v.get_mut(rows.clone()).unwrap_or_default();
                ops.multiply(&weights.view()?.t(), &gradient, to, true)?;

                // Of the weights, then of the scores: with weights w and their
                // gradients d, w · (d - Σ w · d).
                let mut of_scores = vec![0.0; weights.values.len()];
                let v = self.of_key(self.operands.v, keys.clone())?;
                ops.multiply(&gradient, &v.t(), &mut of_scores, false)?;
                let width = keys.len().max(1);
                let each = of_scores.chunks_exact_mut(width);
                for (row, weights) in each.zip(weights.values.chunks_exact(width)) {
                    let mean = dot(row, weights);
                    for (x, weight) in row.iter_mut().zip(weights) {
                        *x = weight * (*x - mean) * self.spec.scale;
                    }
                }
                of_scores.iter_mut().zip(&weights.slopes).for_each(|(x, slope)| *x *= slope);
                let of_scores = MatrixView::new(&of_scores, queries.len(), keys.len(), width)?;
                let k = self.of_key(self.operands.k, keys)?;
                ops.multiply(&of_scores, &k, of_q, false)?;
                let q = self.of_query(self.operands.q, queries, head)?;
                let to = of_k.get_mut(rows).unwrap_or_default();
                ops.multiply(&of_scores.t(), &q, to, true)?;
            }
        }
        Ok([of_q, of_k, of_v])
    }
}

impl Weights {
    fn view(&self) -> Result<MatrixView<'_>> {
        let (queries, keys) = (self.queries.len(), self.keys.len());
        MatrixView::new(&self.values, queries, keys, keys)
    }
}

/// The groups of a step, and the multiply-adds of one product of all.
fn groups<'a>(
    ops: &'a dyn Ops,
    operands: Operands<'a>,
    sequences: &[StepSequence],
    spec: &'a AttentionSpec,
) -> (Vec<Group<'a>>, usize) {
    let mut groups = Vec::new();
    let mut work = 0;
    for &StepSequence { start, len, .. } in sequences {
        for kv_head in 0..spec.num_kv_heads {
            groups.push(Group { ops, spec, operands, start, len, kv_head });
        }
        work += spec.num_heads * spec.head_dim * len * len;
    }
    (groups, work)
}

/// Writes `[heads, len, head_dim]` of a group to `[tokens, all heads, head_dim]`.
fn scatter(from: &[f32], to: &mut [f32], group: &Group<'_>, (heads, all): (usize, usize)) {
    let head_dim = group.spec.head_dim;
    let first = group.kv_head * heads;
    for (head, from) in from.chunks_exact((group.len * head_dim).max(1)).enumerate() {
        let rows = to.chunks_exact_mut((all * head_dim).max(1)).skip(group.start);
        for (row, from) in rows.zip(from.chunks_exact(head_dim.max(1))) {
            let to = row.iter_mut().skip((first + head) * head_dim);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Causal attention of each sequence, `[tokens, heads * head_dim]`.
///
/// # Errors
///
/// Where operands are too short.
pub(super) fn attention(
    ops: &dyn Ops,
    operands: Operands<'_>,
    sequences: &[StepSequence],
    spec: &AttentionSpec,
) -> Result<Vec<f32>> {
    let (groups, work) = groups(ops, operands, sequences, spec);
    let mut results: Vec<Vec<f32>> = groups.iter().map(|_| Vec::new()).collect();
    share(ops, groups.iter().zip(&mut results), 2 * work, |(group, result)| {
        *result = group.forward()?;
        Ok(())
    })?;
    let mut out = vec![0.0; operands.q.len()];
    for (group, result) in groups.iter().zip(&results) {
        scatter(result, &mut out, group, (group.heads_per_group(), spec.num_heads));
    }
    Ok(out)
}

/// The gradients of queries, keys and values from that of [`attention`].
///
/// # Errors
///
/// Where operands are too short.
pub(super) fn attention_backward(
    ops: &dyn Ops,
    operands: Operands<'_>,
    sequences: &[StepSequence],
    spec: &AttentionSpec,
    gradient: &[f32],
) -> Result<OperandGradients> {
    let (groups, work) = groups(ops, operands, sequences, spec);
    let mut results: Vec<[Vec<f32>; 3]> = groups.iter().map(|_| Default::default()).collect();
    share(ops, groups.iter().zip(&mut results), 5 * work, |(group, result)| {
        *result = group.backward(gradient)?;
        Ok(())
    })?;
    let zeros = |like: &[f32]| vec![0.0; like.len()];
    let (mut q, mut k, mut v) = (zeros(operands.q), zeros(operands.k), zeros(operands.v));
    for (group, [of_q, of_k, of_v]) in groups.iter().zip(&results) {
        scatter(of_q, &mut q, group, (group.heads_per_group(), spec.num_heads));
        scatter(of_k, &mut k, group, (1, spec.num_kv_heads));
        scatter(of_v, &mut v, group, (1, spec.num_kv_heads));
    }
    Ok(OperandGradients { q, k, v })
}
