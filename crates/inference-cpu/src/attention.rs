//! Attention over a step's own keys or the paged cache.

use std::ops::Range;

use inference_candle::{AttentionSpec, BatchView, KvLayout};
use inference_core::{Error, Result};
use inference_engine::StepSequence;

use crate::kernels::{AttentionArgs, AttentionRow, Kernels, KeyRun, Stored};
use crate::kv_cache::{LayerBlocks, Pool};
use crate::linear::SharedOut;
use crate::workers::Workers;

/// Rows (query, head) that attend together to one key/value head: enough to
/// reuse keys and values from registers and cache.
const GROUP_ROWS: usize = 8;

/// The operands, `[tokens, heads, head_dim]` each.
pub(crate) struct Operands<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// Queries of one sequence and one key/value head.
struct Item<'a> {
    sequence: &'a StepSequence,
    kv_head: usize,
    /// Within the sequence's part of the step.
    queries: Range<usize>,
}

impl Item<'_> {
    /// The positions that its queries see: from the earliest to the latest.
    fn keys(&self, window: Option<usize>) -> Range<usize> {
        let first = first_key(self.sequence.position + self.queries.start, window);
        first..self.sequence.position + self.queries.end
    }
}

/// The first position that a query at `position` sees.
fn first_key(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Stores the step's keys and values in their sequences' blocks.
pub(crate) fn store<T: Stored>(
    pool: &mut Pool<T>,
    blocks: LayerBlocks<'_>,
    operands: &Operands<'_>,
    batch: &BatchView<'_>,
) -> Result<()> {
    let KvLayout { num_kv_heads, head_dim, block_size, .. } = *blocks.layout;
    for sequence in batch.sequences {
        for token in 0..sequence.len {
            let position = sequence.position + token;
            let block = block_of(sequence, position / block_size, blocks.layout)?;
            for head in 0..num_kv_heads {
                let items = head_dim / T::VALUES;
                let to = blocks.head::<T>(block, head) + position % block_size * items;
                let from = ((sequence.start + token) * num_kv_heads + head) * head_dim;
                for (stored, new) in [(&mut pool.keys, operands.k), (&mut pool.values, operands.v)]
                {
                    let to = stored.get_mut(to..to + items);
                    let (Some(to), Some(from)) = (to, new.get(from..from + head_dim)) else {
                        return Err(Error::engine_message("keys outside of the KV pool"));
                    };
                    T::store(from, to);
                }
            }
        }
    }
    Ok(())
}

/// The pool's index of a sequence's block, checked.
fn block_of(sequence: &StepSequence, index: usize, layout: &KvLayout) -> Result<usize> {
    let block = sequence.block_table.get(index).map(|block| *block as usize);
    block.filter(|block| *block < layout.num_blocks).ok_or_else(|| {
        Error::engine_message(format!(
            "block {index} of a sequence: found {block:?} in a pool of {}",
            layout.num_blocks
        ))
    })
}

/// Where the keys and values of an item lie.
pub(crate) enum Keys<'a, T> {
    /// In the pool.
    Paged { pool: &'a Pool<T>, blocks: LayerBlocks<'a> },
    /// In the step itself, `[tokens, kv_heads, head_dim]`.
    Step { keys: &'a [T], values: &'a [T] },
}

impl<T: Stored> Keys<'_, T> {
    /// Items from one key to the next.
    fn stride(&self, spec: &AttentionSpec) -> usize {
        let items = spec.head_dim / T::VALUES;
        match self {
            Self::Paged { .. } => items,
            Self::Step { .. } => spec.num_kv_heads * items,
        }
    }

    /// The keys `range` of an item, as runs; every run lies in the pool.
    fn runs(
        &self,
        item: &Item<'_>,
        range: Range<usize>,
        spec: &AttentionSpec,
    ) -> Result<Vec<KeyRun<T>>> {
        let outside = || Error::engine_message("keys outside of their storage");
        // A run of `len` keys at `at`, checked.
        let run = |keys: &[T], values: &[T], at: usize, len: usize| {
            let last = at + (len - 1) * self.stride(spec) + spec.head_dim / T::VALUES;
            let keys = keys.get(at..last).ok_or_else(outside)?.as_ptr();
            let values = values.get(at..last).ok_or_else(outside)?.as_ptr();
            Ok(KeyRun { keys, values, len })
        };
        match self {
            Self::Step { keys, values } => {
                let token = item.sequence.start + range.start;
                let at = (token * spec.num_kv_heads + item.kv_head) * (spec.head_dim / T::VALUES);
                Ok(vec![run(keys, values, at, range.len())?])
            }
            Self::Paged { pool, blocks } => {
                let size = blocks.layout.block_size;
                let mut runs = Vec::with_capacity(range.len() / size + 2);
                let mut position = range.start;
                while position < range.end {
                    let block = block_of(item.sequence, position / size, blocks.layout)?;
                    let slot = position % size;
                    let len = (size - slot).min(range.end - position);
                    let at = blocks.head::<T>(block, item.kv_head) + slot * self.stride(spec);
                    runs.push(run(&pool.keys, &pool.values, at, len)?);
                    position += len;
                }
                Ok(runs)
            }
        }
    }
}

/// Attention of every token of the step, `[tokens, heads * head_dim]`.
pub(crate) fn attend<T: Stored>(
    kernels: &Kernels,
    workers: &Workers,
    operands: &Operands<'_>,
    keys: &Keys<'_, T>,
    batch: &BatchView<'_>,
    spec: &AttentionSpec,
) -> Result<Vec<f32>> {
    let group = spec.num_heads / spec.num_kv_heads;
    let chunk = (GROUP_ROWS / group).max(1);
    let mut items = Vec::new();
    let mut work = 0;
    for sequence in batch.sequences {
        for kv_head in 0..spec.num_kv_heads {
            for start in (0..sequence.len).step_by(chunk) {
                let queries = start..(start + chunk).min(sequence.len);
                let item = Item { sequence, kv_head, queries };
                work += item.keys(spec.window).len() * item.queries.len() * group * spec.head_dim;
                items.push(item);
            }
        }
    }
    let mut out = vec![0.0f32; operands.q.len()];
    let target = SharedOut(out.as_mut_ptr());
    let failure = std::sync::OnceLock::new();
    workers.for_each(items.len(), work * 2, |index| {
        // In range: one call for each item.
        let Some(item) = items.get(index) else { return };
        if let Err(error) = attend_item(kernels, operands, keys, item, spec, target) {
            let _ = failure.set(error);
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(out),
    }
}

fn attend_item<T: Stored>(
    kernels: &Kernels,
    operands: &Operands<'_>,
    keys: &Keys<'_, T>,
    item: &Item<'_>,
    spec: &AttentionSpec,
    out: SharedOut,
) -> Result<()> {
    let group = spec.num_heads / spec.num_kv_heads;
    let range = item.keys(spec.window);
    let runs = keys.runs(item, range.clone(), spec)?;
    let mut rows = Vec::with_capacity(item.queries.len() * group);
    for query in item.queries.clone() {
        let position = item.sequence.position + query;
        for head in item.kv_head * group..(item.kv_head + 1) * group {
            let at = ((item.sequence.start + query) * spec.num_heads + head) * spec.head_dim;
            let Some(q) = operands.q.get(at..at + spec.head_dim) else {
                return Err(Error::engine_message("queries outside of their storage"));
            };
            rows.push(AttentionRow {
                query: q.as_ptr(),
                out: out.at(at),
                begin: first_key(position, spec.window) - range.start,
                end: position + 1 - range.start,
            });
        }
    }
    let mut scores = vec![0.0f32; rows.len() * range.len()];
    let args = AttentionArgs {
        rows: &rows,
        runs: &runs,
        stride: keys.stride(spec),
        head_dim: spec.head_dim,
        scale: spec.scale,
        softcap: spec.softcap.unwrap_or(0.0),
        scores: scores.as_mut_ptr(),
        scores_stride: range.len(),
    };
    // SAFETY: the table is for this CPU (checked where it was chosen). Queries
    // and runs were checked against their storage; outputs lie as queries do,
    // in a buffer as long as theirs, and no other item has the same query and
    // head. Every row sees `begin..end` within `range`, at least its own key.
    unsafe { (T::attention(kernels))(&args) };
    Ok(())
}
