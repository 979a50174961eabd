//! Attention over a step's own keys or the paged cache.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use inference_candle::{AttentionSpec, BatchView, KvLayout};
use inference_core::{Error, Result};
use inference_engine::StepSequence;

use crate::attention_plan::{Piece, Plan, first_key, keys_of, partials_at, partials_len};
use crate::kernels::{
    CHUNK, ChunkArgs, Kernels, KeyOrder, KeyRows, KeyRun, MergeArgs, STRIP, StoreArgs, Stored,
    chunk as chunk_of_keys, pack_queries, scratch_len,
};
use crate::kv_cache::{LayerBlocks, Pool, key_tile};
use crate::linear::SharedOut;
use crate::workers::Workers;

/// Rows of tokens: token `t` has the first elements from `t * stride` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// The elements `range` of a token's row, checked.
    fn get(&self, token: usize, range: Range<usize>) -> Result<&'a [f32]> {
        self.span(token..token + 1, range)
    }

    /// From the first of the elements `range` of the first token's row to the
    /// last of the last token's, checked; at least one token.
    fn span(&self, tokens: Range<usize>, range: Range<usize>) -> Result<&'a [f32]> {
        let start = tokens.start * self.stride + range.start;
        let end = (tokens.end - 1) * self.stride + range.end;
        self.data
            .get(start..end)
            .ok_or_else(|| Error::engine_message("queries, keys or values outside of their rows"))
    }
}

/// The operands: rows of `[heads, head_dim]`, of key/value heads for keys and
/// values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands<'a> {
    pub(crate) q: Rows<'a>,
    pub(crate) k: Rows<'a>,
    pub(crate) v: Rows<'a>,
}

/// Tokens of one sequence that are stored together, in one tile of keys.
struct TokenRun<'a> {
    sequence: &'a StepSequence,
    tokens: Range<usize>,
}

/// Stores the step's keys and values in their sequences' blocks.
pub(crate) fn store<T: Stored>(
    kernels: &Kernels,
    workers: &Workers,
    pool: &mut Pool<T>,
    blocks: LayerBlocks<'_>,
    operands: &Operands<'_>,
    batch: &BatchView<'_>,
) -> Result<()> {
    let KvLayout { num_kv_heads, head_dim, block_size, .. } = *blocks.layout;
    let width = key_tile(blocks.layout);
    let mut runs = Vec::with_capacity(batch.sequences.len());
    for sequence in batch.sequences {
        let mut token = 0;
        while token < sequence.len {
            let len = width - (sequence.position + token) % width;
            let end = sequence.len.min(token + len);
            runs.push(TokenRun { sequence, tokens: token..end });
            token = end;
        }
    }
    let (keys, values) = (pool.keys.len(), pool.values.len());
    let to = (SharedPool(pool.keys.as_mut_ptr()), SharedPool(pool.values.as_mut_ptr()));
    let items = blocks.items::<T>();
    let store_run = |run: &TokenRun<'_>| -> Result<()> {
        let TokenRun { sequence, tokens } = run;
        let position = sequence.position + tokens.start;
        let block = block_of(sequence, position / block_size, blocks.layout)?;
        for head in 0..num_kv_heads {
            let at = blocks.head::<T>(block, head);
            if at + items > keys.min(values) {
                return Err(Error::engine_message("keys outside of the KV pool"));
            }
            let elements = head * head_dim..(head + 1) * head_dim;
            let tokens = sequence.start + tokens.start..sequence.start + tokens.end;
            let keys = operands.k.span(tokens.clone(), elements.clone())?;
            let values = operands.v.span(tokens.clone(), elements)?;
            let args = StoreArgs {
                keys: KeyRows {
                    first: keys.as_ptr(),
                    stride: operands.k.stride,
                    count: tokens.len(),
                },
                values: values.as_ptr(),
                value_stride: operands.v.stride,
                head_dim,
                to_keys: to.0.at(at),
                width,
                to_values: to.1.at(at),
                slot: position % block_size,
            };
            // SAFETY: the table is for this CPU (checked where it was chosen).
            // Rows were checked against their storage and the head's block
            // against the pool; the slots are within the block, because runs do
            // not cross tiles. No two runs have the same position, and a block
            // that is written belongs to one sequence.
            unsafe { (T::kernels(kernels).store)(&args) };
        }
        Ok(())
    };
    let failure = OnceLock::new();
    workers.for_each(runs.len(), operands.k.data.len() * 2, |index| {
        let Some(run) = runs.get(index) else { return };
        if let Err(error) = store_run(run) {
            let _ = failure.set(error);
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

/// The start of a pool that threads write disjoint parts of.
struct SharedPool<T>(*mut T);

// SAFETY: the pointer is only handed on; whoever writes through it promises
// that no two threads write the same element.
unsafe impl<T: Stored> Send for SharedPool<T> {}
// SAFETY: as above.
unsafe impl<T: Stored> Sync for SharedPool<T> {}

impl<T> SharedPool<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
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

/// Where the keys and values of a step lie.
pub(crate) enum Keys<'a, T> {
    /// In the pool.
    Paged { pool: &'a Pool<T>, blocks: LayerBlocks<'a> },
    /// In the step itself: rows of `[kv_heads, head_dim]`, `stride` items apart.
    Step { keys: &'a [T], values: &'a [T], stride: usize },
}

impl<T: Stored> Keys<'_, T> {
    fn order(&self) -> KeyOrder {
        match self {
            Self::Paged { blocks, .. } => KeyOrder::Tiles { width: key_tile(blocks.layout) },
            Self::Step { stride, .. } => KeyOrder::Rows { stride: *stride },
        }
    }

    /// Items from one position's values to the next's.
    fn value_stride(&self, head_dim: usize) -> usize {
        match self {
            Self::Paged { .. } => head_dim / T::VALUES,
            Self::Step { stride, .. } => *stride,
        }
    }

    /// Finds the positions `range` of one head, all in one chunk, as runs that
    /// lie in their storage.
    fn runs(
        &self,
        sequence: &StepSequence,
        kv_head: usize,
        range: Range<usize>,
        head_dim: usize,
        runs: &mut Vec<KeyRun<T>>,
    ) -> Result<()> {
        let outside = || Error::engine_message("keys outside of their storage");
        let chunk = range.start / CHUNK * CHUNK;
        let items = head_dim / T::VALUES;
        runs.clear();
        match self {
            Self::Step { keys, values, stride } => {
                let at = (sequence.start + range.start) * stride + kv_head * items;
                let end = at + (range.len() - 1) * stride + items;
                runs.push(KeyRun {
                    first: range.start - chunk,
                    len: range.len(),
                    keys: keys.get(at..end).ok_or_else(outside)?.as_ptr(),
                    slot: 0,
                    values: values.get(at..end).ok_or_else(outside)?.as_ptr(),
                });
            }
            Self::Paged { pool, blocks } => {
                let (size, width) = (blocks.layout.block_size, key_tile(blocks.layout));
                // Whole tiles, where those are what kernels take.
                let tiles = width == STRIP;
                let mut position = if tiles { range.start / STRIP * STRIP } else { range.start };
                while position < range.end {
                    let block = block_of(sequence, position / size, blocks.layout)?;
                    let slot = position % size;
                    let len = if tiles { STRIP } else { (size - slot).min(range.end - position) };
                    let at = blocks.head::<T>(block, kv_head) + slot / width * width * items;
                    let values = at + slot % width * items;
                    let keys = pool.keys.get(at..at + width * items).ok_or_else(outside)?;
                    let values = pool.values.get(values..values + len * items);
                    runs.push(KeyRun {
                        first: position - chunk,
                        len,
                        keys: keys.as_ptr(),
                        slot: slot % width,
                        values: values.ok_or_else(outside)?.as_ptr(),
                    });
                    position += len;
                }
            }
        }
        Ok(())
    }
}

thread_local! {
    /// What is cut on this thread.
    static PLAN: RefCell<Plan> = RefCell::default();
    /// What is computed with on this thread.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Attention of every token of the step, `[tokens, heads * head_dim]`, all
/// written.
pub(crate) fn attend<T: Stored>(
    kernels: &Kernels,
    workers: &Workers,
    operands: &Operands<'_>,
    keys: &Keys<'_, T>,
    batch: &BatchView<'_>,
    spec: &AttentionSpec,
    out: &mut [f32],
) -> Result<()> {
    // Taken, so that what runs meanwhile on this thread may plan as well.
    let mut plan = PLAN.take();
    plan.cut(batch, spec, workers.threads());
    let partials = SharedOut(plan.partials());
    let step = StepAttention { kernels, q: operands.q, keys, batch, spec, plan: &plan, partials };
    let failure = OnceLock::new();
    let out = step.output(out)?;
    workers.for_each(plan.len(), plan.work(), |index| {
        if let Err(error) = step.compute(index, out) {
            let _ = failure.set(error);
        }
    });
    PLAN.replace(plan);
    failure.into_inner().map_or(Ok(()), Err)
}

/// The attention of one layer in one step, cut into pieces that any thread may
/// compute.
pub(crate) struct StepAttention<'a, T> {
    pub(crate) kernels: &'a Kernels,
    pub(crate) q: Rows<'a>,
    pub(crate) keys: &'a Keys<'a, T>,
    pub(crate) batch: &'a BatchView<'a>,
    pub(crate) spec: &'a AttentionSpec,
    pub(crate) plan: &'a Plan,
    /// Those of the plan.
    pub(crate) partials: SharedOut,
}

impl<T: Stored> StepAttention<'_, T> {
    /// The output, checked: what [`compute`](Self::compute) writes.
    pub(crate) fn output(&self, out: &mut [f32]) -> Result<SharedOut> {
        let row = self.spec.num_heads * self.spec.head_dim;
        if out.len() != self.batch.positions.len() * row {
            return Err(Error::engine_message("attention: an output of another size"));
        }
        Ok(SharedOut(out.as_mut_ptr()))
    }

    /// Computes one of the plan's pieces. `out` is what
    /// [`output`](Self::output) returned for a slice that is still borrowed;
    /// each piece is computed once.
    pub(crate) fn compute(&self, index: usize, out: SharedOut) -> Result<()> {
        let Some(piece) = self.plan.piece(index) else {
            return Err(Error::engine_message(format!("attention has no piece {index}")));
        };
        let mut scratch = SCRATCH.take();
        let done = self.compute_piece(piece, out, &mut scratch);
        SCRATCH.replace(scratch);
        done
    }

    fn compute_piece(&self, piece: &Piece, out: SharedOut, scratch: &mut Vec<f32>) -> Result<()> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, window } =
            *self.spec;
        let Some(sequence) = self.batch.sequences.get(piece.sequence) else {
            return Err(Error::engine_message("attention was planned for another step"));
        };
        let group = num_heads / num_kv_heads;
        let rows = piece.queries.len() * group;
        let partial = partials_len(rows, head_dim);
        let needed = rows * head_dim + 2 * partial + scratch_len(head_dim);
        if scratch.len() < needed + LINE {
            scratch.resize(needed + LINE, 0.0);
        }
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let Some(scratch) = scratch.get_mut(aligned..aligned + needed) else {
            return Err(Error::engine_message("scratch of attention"));
        };
        let (kernel_scratch, rest) = scratch.split_at_mut(scratch_len(head_dim));
        let (fresh, rest) = rest.split_at_mut(partial);
        let (so_far, packed) = rest.split_at_mut(partial);

        // Scores are computed in base 2.
        let log2e = std::f32::consts::LOG2_E;
        let factor = softcap.map_or(scale * log2e, |cap| scale / cap);
        let heads = piece.kv_head * group * head_dim..(piece.kv_head + 1) * group * head_dim;
        let mut queries = Vec::with_capacity(piece.queries.len());
        for query in piece.queries.clone() {
            queries.push(self.q.get(sequence.start + query, heads.clone())?);
        }
        let query = |row: usize| {
            let heads = queries.get(row / group).copied().unwrap_or_default();
            heads.get(row % group * head_dim..).and_then(|q| q.get(..head_dim)).unwrap_or_default()
        };
        pack_queries(query, rows, head_dim, factor, packed);

        let seen = keys_of(sequence, &piece.queries, window);
        let range_of =
            |chunk: usize| seen.start.max(chunk * CHUNK)..seen.end.min((chunk + 1) * CHUNK);
        let runs_of = |chunk: usize, runs: &mut Vec<_>| {
            self.keys.runs(sequence, piece.kv_head, range_of(chunk), head_dim, runs)
        };
        let mut runs = Vec::with_capacity(CHUNK / STRIP);
        let mut ahead = Vec::with_capacity(CHUNK / STRIP);
        let mut visible = Vec::with_capacity(rows);
        let shared = self.plan.shared(piece);
        let merge = |into, from| {
            let args = MergeArgs { into, from, rows, head_dim };
            // SAFETY: the table is for this CPU (checked where it was chosen);
            // both have as many rows.
            unsafe { (self.kernels.merge)(&args) };
        };
        if shared.is_none() {
            clear(so_far, rows);
        }
        let mut into = partials_at(so_far.as_mut_ptr(), rows, head_dim);
        for chunk in piece.chunks.clone() {
            let (first, range) = (chunk * CHUNK, range_of(chunk));
            if chunk == piece.chunks.start {
                runs_of(chunk, &mut runs)?;
            } else {
                std::mem::swap(&mut runs, &mut ahead);
            }
            ahead.clear();
            if chunk + 1 < piece.chunks.end {
                runs_of(chunk + 1, &mut ahead)?;
            }
            visible.clear();
            for query in piece.queries.clone() {
                let position = sequence.position + query;
                let begin = first_key(position, window).max(range.start);
                let end = (position + 1).min(range.end).max(begin);
                visible.extend(std::iter::repeat_n(begin - first..end - first, group));
            }
            let partials = match shared {
                Some(shared) => self.partials.at(shared.chunk(chunk)),
                None => fresh.as_mut_ptr(),
            };
            let partials = partials_at(partials, rows, head_dim);
            let args = ChunkArgs {
                runs: &runs,
                ahead: &ahead,
                order: self.keys.order(),
                value_stride: self.keys.value_stride(head_dim),
                head_dim,
                softcap: softcap.map_or(0.0, |cap| cap * log2e),
                queries: packed.as_ptr(),
                rows: &visible,
                partials,
                scratch: kernel_scratch.as_mut_ptr(),
            };
            // SAFETY: the table is for this CPU (checked where it was chosen).
            // Runs were checked against their storage and hold `range`, of
            // which every row sees a part; queries are packed for as many rows.
            // Scratch is this thread's; partial results are, or belong to this
            // chunk of a shared item alone.
            unsafe { chunk_of_keys(self.kernels, &args) };
            if shared.is_none() {
                merge(into, partials);
            }
        }
        if let Some(shared) = shared {
            if !shared.finish_piece() {
                return Ok(());
            }
            clear(so_far, rows);
            into = partials_at(so_far.as_mut_ptr(), rows, head_dim);
            for chunk in shared.chunks.clone() {
                merge(into, partials_at(self.partials.at(shared.chunk(chunk)), rows, head_dim));
            }
        }
        let mut outputs = Vec::with_capacity(rows);
        for query in piece.queries.clone() {
            let at = (sequence.start + query) * num_heads * head_dim + heads.start;
            outputs.extend((0..group).map(|head| out.at(at + head * head_dim)));
        }
        // SAFETY: the table is for this CPU. Outputs lie in a buffer of all
        // tokens' rows, whose size was checked, and no other item has the same
        // query and head.
        unsafe { (self.kernels.divide)(into, &outputs, head_dim) };
        Ok(())
    }
}

/// Elements of a cache line.
const LINE: usize = 16;

/// Results before the first chunk: nothing, below any score.
fn clear(partials: &mut [f32], rows: usize) {
    let stats = partials.len() - 2 * rows;
    let (values, stats) = partials.split_at_mut(stats);
    values.fill(0.0);
    for row in stats.chunks_exact_mut(2) {
        row.copy_from_slice(&[f32::MIN, 0.0]);
    }
}
