//! Attention of query rows to one chunk of one head's keys, and what joins the
//! chunks.
//!
//! A row's keys are cut into chunks of [`CHUNK`] positions, at multiples of it.
//! Each chunk gives the greatest score, the sum of weights relative to it and
//! the weighted values; these are folded in ascending order. Within a chunk a
//! score is one chain of fused multiply-adds over the head's elements, weights
//! are summed over 16 lanes (lane `l` takes positions `l`, `l + 16`, …) and
//! added as a tree, values are added key by key. So a row's result depends on
//! its position and its keys alone: not on the rows that it is computed with,
//! on how chunks are shared out, nor on where the blocks of the cache lie.

use std::ops::Range;

use super::Kernels;
use super::attention_tiles::{ScoreArgs, Strip, WeighArgs};
use super::elementwise::{exp2, tanh};
use super::part::{LANES, Part, greatest_of_parts, sum_parts};
use super::stored::Stored;

/// Keys of one chunk.
pub(crate) const CHUNK: usize = 128;

/// Keys that lie side by side, one lane each.
pub(crate) const STRIP: usize = LANES;

/// Strips of one chunk.
pub(super) const STRIPS: usize = CHUNK / STRIP;

/// Rows of one register tile at most.
const TILE_ROWS: usize = 6;

/// Keys and values of consecutive positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRun<T> {
    /// The first position, counted from the chunk's.
    pub(crate) first: usize,
    pub(crate) len: usize,
    /// The tile that the keys are in, or where they are rows the first.
    pub(crate) keys: *const T,
    /// The first key's slot in the tile.
    pub(crate) slot: usize,
    /// The values of the first position.
    pub(crate) values: *const T,
}

/// How the keys of a run lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// In tiles of `width` slots. Where that is [`STRIP`], runs are whole tiles.
    Tiles { width: usize },
    /// As rows, `stride` items apart.
    Rows { stride: usize },
}

/// The greatest score, the sum of weights and the weighted values of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partials {
    /// `[rows, padded_head]`.
    pub(crate) values: *mut f32,
    /// `[rows, 2]`: greatest score (base 2), sum of weights.
    pub(crate) stats: *mut f32,
}

/// A head's elements in [`Partials`]: whole registers of any kind.
pub(crate) const fn padded_head(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Rows that attend to one head's keys in one chunk.
#[derive(Debug)]
pub(crate) struct ChunkArgs<'a, T> {
    /// They hold at least the keys that any row sees.
    pub(crate) runs: &'a [KeyRun<T>],
    /// Those of the chunk that is computed next, which memory is asked for
    /// meanwhile; none where there is none.
    pub(crate) ahead: &'a [KeyRun<T>],
    pub(crate) order: KeyOrder,
    /// Items from one position's values to the next's, within a run.
    pub(crate) value_stride: usize,
    pub(crate) head_dim: usize,
    /// Cap on scores, times log2(e); 0 for none.
    pub(crate) softcap: f32,
    /// Scaled queries, as [`pack_queries`] arranges them.
    pub(crate) queries: *const f32,
    /// The positions that each row sees, counted from the chunk's; may be empty.
    pub(crate) rows: &'a [Range<usize>],
    /// For all rows; written.
    pub(crate) partials: Partials,
    /// [`scratch_len`] elements, of any value.
    pub(crate) scratch: *mut f32,
}

/// What [`ChunkArgs::scratch`] holds: scores of a tile, then keys and values of
/// a chunk, widened.
pub(crate) const fn scratch_len(head_dim: usize) -> usize {
    TILE_ROWS * CHUNK + 2 * CHUNK * padded_head(head_dim)
}

/// The register tiles of rows: `(first, rows)`, of 1, 2, 3, 4 or 6 rows.
pub(crate) fn row_tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let len = match rows - first {
            0 => return None,
            len @ (1..=4 | 6) => len,
            5 => 3,
            7 | 8 | 11 => 4,
            _ => TILE_ROWS,
        };
        first += len;
        Some((first - len, len))
    })
}

/// Puts rows times `factor` side by side: in each register tile, element by
/// element, as many as `queries` and `packed` hold.
pub(crate) fn pack_queries<'a>(
    mut query: impl FnMut(usize) -> &'a [f32],
    rows: usize,
    head_dim: usize,
    factor: f32,
    packed: &mut [f32],
) {
    for (first, len) in row_tiles(rows) {
        let Some(tile) = packed.get_mut(first * head_dim..(first + len) * head_dim) else { return };
        for row in 0..len {
            for (to, value) in tile.iter_mut().skip(row).step_by(len).zip(query(first + row)) {
                *to = value * factor;
            }
        }
    }
}

/// Computes the partial results of `args`.
///
/// # Safety
///
/// The table is for this CPU; the pointers of `args` are valid for the extents
/// documented there, and nothing else uses its outputs meanwhile.
pub(crate) unsafe fn chunk<T: Stored>(table: &Kernels, args: &ChunkArgs<'_, T>) {
    let tiles = args.order == KeyOrder::Tiles { width: STRIP };
    if tiles && args.head_dim.is_multiple_of(LANES) && args.rows.len() < T::WIDEN_ROWS {
        let none = Strip { keys: std::ptr::null::<T>(), values: std::ptr::null() };
        let strips = strips_of(args.runs, &[none; STRIPS]);
        // What the next chunk has not, it asks for where it is already.
        let ahead = strips_of(args.ahead, &strips);
        // One row of f32 takes what it reads as fast as memory gives it.
        let pays = args.rows.len() * size_of::<f32>() * T::VALUES > size_of::<T>();
        let ahead = pays.then_some(&ahead);
        chunk_of_strips(table, args, &strips, args.value_stride, ahead);
    } else {
        let padded = padded_head(args.head_dim);
        let keys = args.scratch.add(TILE_ROWS * CHUNK);
        let values = keys.add(CHUNK * padded);
        for run in args.runs {
            (T::kernels(table).widen)(args, run, keys, values);
        }
        let strips: [_; STRIPS] = std::array::from_fn(|strip| Strip {
            keys: keys.wrapping_add(strip * STRIP * args.head_dim).cast_const(),
            values: values.wrapping_add(strip * STRIP * padded).cast_const(),
        });
        chunk_of_strips(table, args, &strips, padded, None);
    }
}

/// The strips of runs that are whole ones, and `otherwise` where there is none.
fn strips_of<T: Copy>(runs: &[KeyRun<T>], otherwise: &[Strip<T>; STRIPS]) -> [Strip<T>; STRIPS] {
    let mut strips = *otherwise;
    for run in runs {
        strips[run.first / STRIP] = Strip { keys: run.keys, values: run.values };
    }
    strips
}

/// The same over keys and values of type `S` in strips. Where they are read in
/// place, `ahead` are those of the next chunk: values are asked for while scores
/// are computed, and the next keys while values are added, so that memory and
/// arithmetic go on at the same time.
///
/// # Safety
///
/// As [`chunk`].
unsafe fn chunk_of_strips<T, S: Stored>(
    table: &Kernels,
    args: &ChunkArgs<'_, T>,
    strips: &[Strip<S>; STRIPS],
    value_stride: usize,
    ahead: Option<&[Strip<S>; STRIPS]>,
) {
    let padded = padded_head(args.head_dim);
    let kernels = S::kernels(table);
    for (first, len) in row_tiles(args.rows.len()) {
        let rows = &args.rows[first..first + len];
        // Other tiles find in cache what the first has read.
        let ahead = ahead.filter(|_| first == 0);
        // What all rows see, and what any does.
        let (mut begin, mut end) = (0, CHUNK);
        let (mut from, mut to) = (CHUNK, 0);
        for row in rows {
            (begin, end) = (begin.max(row.start), end.min(row.end));
            if row.start < row.end {
                (from, to) = (from.min(row.start), to.max(row.end));
            }
        }
        let range = if from < to { from / STRIP..to.div_ceil(STRIP) } else { 0..0 };
        (kernels.scores)(&ScoreArgs {
            queries: args.queries.add(first * args.head_dim),
            rows: len,
            head_dim: args.head_dim,
            strips,
            range: range.clone(),
            out: args.scratch,
            request: ahead.is_some(),
        });
        (table.softmax)(&SoftmaxArgs {
            scores: args.scratch,
            rows,
            strips: range,
            softcap: args.softcap,
            stats: args.partials.stats.add(first * 2),
        });
        let values = args.partials.values.add(first * padded);
        std::slice::from_raw_parts_mut(values, len * padded).fill(0.0);
        // Values that all rows need are read once; the others, before and
        // after, for each row. A row's own order is that of its keys.
        let weigh = |row: usize, rows: usize, keys: Range<usize>| {
            if keys.start < keys.end {
                (kernels.weigh)(&WeighArgs {
                    strips,
                    stride: value_stride,
                    padded,
                    weights: args.scratch.wrapping_add(row * CHUNK),
                    rows,
                    keys,
                    out: values.wrapping_add(row * padded),
                    ahead: ahead.filter(|_| rows == len && !args.ahead.is_empty()),
                });
            }
        };
        if begin >= end {
            for (index, row) in rows.iter().enumerate() {
                weigh(index, 1, row.clone());
            }
            continue;
        }
        for (index, row) in rows.iter().enumerate() {
            weigh(index, 1, row.start..begin);
        }
        weigh(0, len, begin..end);
        for (index, row) in rows.iter().enumerate() {
            weigh(index, 1, end..row.end);
        }
    }
}

/// Widens a run: keys into tiles of [`STRIP`] slots, values into padded rows.
///
/// # Safety
///
/// As [`Part`], and as [`chunk`]; the outputs have a chunk's keys and values.
#[inline(always)]
pub(super) unsafe fn widen<P: Part, T: Stored>(
    args: &ChunkArgs<'_, T>,
    run: &KeyRun<T>,
    keys: *mut f32,
    values: *mut f32,
) {
    widen_keys::<P, T>(args, run, keys);
    widen_values::<P, T>(args, run, values);
}

/// Widens the keys of a run into tiles of [`STRIP`] slots.
///
/// # Safety
///
/// As [`widen`].
#[inline(always)]
unsafe fn widen_keys<P: Part, T: Stored>(args: &ChunkArgs<'_, T>, run: &KeyRun<T>, to: *mut f32) {
    let dim = args.head_dim;
    if args.order == (KeyOrder::Tiles { width: STRIP }) {
        let to = to.add(run.first * dim);
        for slot in (0..STRIP).step_by(P::WIDTH) {
            let mut first = 0;
            while first < dim {
                let end = dim.min(first.saturating_add(T::SCALED));
                let scales = T::load_scales::<P>(run.keys, STRIP, slot, first);
                for element in first..end {
                    let keys = T::load_keys::<P>(run.keys, STRIP, slot, element, scales);
                    keys.store(to.add(element * STRIP + slot));
                }
                first = end;
            }
        }
        return;
    }
    for i in 0..run.len {
        let key = run.first + i;
        let to = to.add(key / STRIP * STRIP * dim + key % STRIP);
        for element in 0..dim {
            *to.add(element * STRIP) = match args.order {
                KeyOrder::Tiles { width } => T::key_at(run.keys, width, run.slot + i, element),
                KeyOrder::Rows { stride } => T::value_at(run.keys.add(i * stride), element),
            };
        }
    }
}

/// Widens the values of a run into padded rows.
///
/// # Safety
///
/// As [`widen`].
#[inline(always)]
unsafe fn widen_values<P: Part, T: Stored>(args: &ChunkArgs<'_, T>, run: &KeyRun<T>, to: *mut f32) {
    let padded = padded_head(args.head_dim);
    let whole = args.head_dim / P::WIDTH * P::WIDTH;
    for i in 0..run.len {
        let row = run.values.add(i * args.value_stride);
        let to = to.add((run.first + i) * padded);
        for at in (0..whole).step_by(P::WIDTH) {
            T::load_at::<P>(row, at).store(to.add(at));
        }
        for at in whole..args.head_dim {
            *to.add(at) = T::value_at(row, at);
        }
        for at in args.head_dim..padded {
            *to.add(at) = 0.0;
        }
    }
}

/// Scores of the rows of one register tile.
#[derive(Debug)]
pub(crate) struct SoftmaxArgs<'a> {
    /// `[rows, CHUNK]`; turned into weights.
    scores: *mut f32,
    /// What each row sees.
    rows: &'a [Range<usize>],
    /// The strips that have scores.
    strips: Range<usize>,
    /// As in [`ChunkArgs`].
    softcap: f32,
    /// As in [`Partials`]; written.
    stats: *mut f32,
}

/// Turns scores into weights.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there.
#[inline(always)]
pub(super) unsafe fn softmax<P: Part, const PARTS: usize>(args: &SoftmaxArgs<'_>) {
    for (index, row) in args.rows.iter().enumerate() {
        let scores = args.scores.add(index * CHUNK);
        let (greatest, sum) = softmax_row::<P, PARTS>(scores, &args.strips, row, args.softcap);
        *args.stats.add(index * 2) = greatest;
        *args.stats.add(index * 2 + 1) = sum;
    }
}

/// Turns the scores of one row into weights: powers of 2 relative to the
/// greatest, 0 outside of `row`. Returns the greatest score and the sum.
///
/// # Safety
///
/// As [`softmax`].
#[inline(always)]
unsafe fn softmax_row<P: Part, const PARTS: usize>(
    scores: *mut f32,
    strips: &Range<usize>,
    row: &Range<usize>,
    softcap: f32,
) -> (f32, f32) {
    let (first, end) = (strips.start * STRIP, strips.end * STRIP);
    if softcap > 0.0 {
        let cap = P::splat(softcap);
        for at in (first..end).step_by(P::WIDTH) {
            cap.mul(tanh(P::load(scores.add(at)))).store(scores.add(at));
        }
    }
    for at in (first..row.start.min(end)).chain(row.end.max(first)..end) {
        *scores.add(at) = f32::NEG_INFINITY;
    }
    // Not from -inf: where all scores are, weights are 0 and not NaN.
    let mut greatest = [P::splat(f32::MIN); PARTS];
    for strip in strips.clone() {
        for part in 0..PARTS {
            let score = P::load(scores.add(strip * STRIP + part * P::WIDTH));
            greatest[part] = greatest[part].greater_of(score);
        }
    }
    let greatest = greatest_of_parts::<P, PARTS>(greatest);
    let splat = P::splat(greatest);
    let mut sums = [P::splat(0.0); PARTS];
    for strip in strips.clone() {
        for part in 0..PARTS {
            let place = scores.add(strip * STRIP + part * P::WIDTH);
            let weight = exp2(P::load(place).sub(splat));
            weight.store(place);
            sums[part] = sums[part].add(weight);
        }
    }
    (greatest, sum_parts::<P, PARTS>(sums))
}

/// Rows whose results so far take in those of one more chunk.
#[derive(Debug)]
pub(crate) struct MergeArgs {
    pub(crate) into: Partials,
    pub(crate) from: Partials,
    pub(crate) rows: usize,
    pub(crate) head_dim: usize,
}

/// Folds a chunk's partial results into those of the chunks before it, for
/// each row that sees keys of it.
///
/// # Safety
///
/// As [`Part`]; the pointers are valid for as many rows.
#[inline(always)]
pub(super) unsafe fn merge<P: Part>(args: &MergeArgs) {
    let padded = padded_head(args.head_dim);
    for row in 0..args.rows {
        let (into, from) = (args.into.stats.add(row * 2), args.from.stats.add(row * 2));
        let (greatest, sum) = (*from, *from.add(1));
        if sum == 0.0 {
            continue;
        }
        let before = *into;
        let greater = if before > greatest { before } else { greatest };
        let (old, new) = (P::splat(before - greater), P::splat(greatest - greater));
        let (old, new) = (exp2(old), exp2(new));
        *into = greater;
        // In lanes, like all else; every lane is the same.
        let mut sums = [0.0f32; LANES];
        new.fma(P::splat(sum), P::splat(*into.add(1)).mul(old)).store(sums.as_mut_ptr());
        *into.add(1) = sums[0];
        let (into, from) = (args.into.values.add(row * padded), args.from.values.add(row * padded));
        for at in (0..padded).step_by(P::WIDTH) {
            let scaled = P::load(into.add(at)).mul(old);
            new.fma(P::load(from.add(at)), scaled).store(into.add(at));
        }
    }
}

/// The results of rows whose last chunk was merged.
///
/// # Safety
///
/// As [`Part`]; `from` is valid for as many rows as there are outputs, and
/// these for `head_dim` elements each.
#[inline(always)]
pub(super) unsafe fn divide<P: Part>(from: Partials, outputs: &[*mut f32], head_dim: usize) {
    let padded = padded_head(head_dim);
    for (row, out) in outputs.iter().enumerate() {
        let inverse = P::splat(1.0 / *from.stats.add(row * 2 + 1));
        let values = from.values.add(row * padded);
        let whole = head_dim / P::WIDTH * P::WIDTH;
        for at in (0..whole).step_by(P::WIDTH) {
            P::load(values.add(at)).mul(inverse).store(out.add(at));
        }
        if whole < head_dim {
            let mut tail = [0.0f32; LANES];
            P::load(values.add(whole)).mul(inverse).store(tail.as_mut_ptr());
            std::ptr::copy_nonoverlapping(tail.as_ptr(), out.add(whole), head_dim - whole);
        }
    }
}
