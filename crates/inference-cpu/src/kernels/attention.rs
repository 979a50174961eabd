//! Attention of a few query rows over the keys and values of one head.
//!
//! Per row: scores in key order, their greatest, `exp` and sum over 16 lanes
//! counted from the row's first key, then the weighted sum of values key by
//! key. All of it depends on the row's own keys alone, not on the rows that it
//! is computed with, nor on where the blocks of the cache lie.

use super::elementwise::{exp, tanh};
use super::linear::dot_tile;
use super::part::{LANES, Part, greatest_of_parts, sum_parts};
use super::stored::Stored;

/// Keys and values of consecutive positions that lie `stride` items apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRun<T> {
    pub(crate) keys: *const T,
    pub(crate) values: *const T,
    pub(crate) len: usize,
}

/// One query row: a position and a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionRow {
    /// `[head_dim]`.
    pub(crate) query: *const f32,
    /// `[head_dim]`.
    pub(crate) out: *mut f32,
    /// The keys that it sees, counted from the first key of the first run:
    /// from `begin` up to, not including, `end`; at least one.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// Rows that attend to one head's keys.
#[derive(Debug)]
pub(crate) struct AttentionArgs<'a, T> {
    pub(crate) rows: &'a [AttentionRow],
    /// They hold at least the keys that any row sees.
    pub(crate) runs: &'a [KeyRun<T>],
    /// Items from one key to the next within a run; for values as well.
    pub(crate) stride: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// Cap on scores; 0 for none.
    pub(crate) softcap: f32,
    /// Scratch, `[rows, scores_stride]`.
    pub(crate) scores: *mut f32,
    /// At least the keys of all runs.
    pub(crate) scores_stride: usize,
}

/// Computes the rows of `args`.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there; rows do not share outputs.
#[inline(always)]
pub(super) unsafe fn attention<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
    const SINGLE: usize,
>(
    args: &AttentionArgs<'_, T>,
) {
    let mut at = 0;
    for run in args.runs {
        let mut row = 0;
        while row + ROWS <= args.rows.len() {
            scores::<P, T, PARTS, ROWS, WEIGHTS>(args, row, run, at);
            row += ROWS;
        }
        while row < args.rows.len() {
            scores::<P, T, PARTS, 1, SINGLE>(args, row, run, at);
            row += 1;
        }
        at += run.len;
    }

    let (mut common_begin, mut common_end) = (0, usize::MAX);
    for (index, row) in args.rows.iter().enumerate() {
        let scores = args.scores.add(index * args.scores_stride + row.begin);
        softmax::<P, PARTS>(scores, row.end - row.begin, args.softcap);
        for i in 0..args.head_dim {
            *row.out.add(i) = 0.0;
        }
        common_begin = common_begin.max(row.begin);
        common_end = common_end.min(row.end);
    }

    // Values that all rows need are read once for several rows; the others,
    // before and after, for each row. A row's own order is that of its keys.
    if common_begin >= common_end {
        for (index, row) in args.rows.iter().enumerate() {
            weigh::<P, T, PARTS, 1>(args, index, row.begin, row.end);
        }
        return;
    }
    for (index, row) in args.rows.iter().enumerate() {
        weigh::<P, T, PARTS, 1>(args, index, row.begin, common_begin);
    }
    let mut index = 0;
    while index + 4 <= args.rows.len() {
        weigh::<P, T, PARTS, 4>(args, index, common_begin, common_end);
        index += 4;
    }
    while index < args.rows.len() {
        weigh::<P, T, PARTS, 1>(args, index, common_begin, common_end);
        index += 1;
    }
    for (index, row) in args.rows.iter().enumerate() {
        weigh::<P, T, PARTS, 1>(args, index, common_end, row.end);
    }
}

/// Scaled scores of `ROWS` rows, from `row` on, with the keys of one run.
///
/// # Safety
///
/// As [`attention`]; `at` is the index of the run's first key.
#[inline(always)]
unsafe fn scores<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    args: &AttentionArgs<'_, T>,
    row: usize,
    run: &KeyRun<T>,
    at: usize,
) {
    let mut queries = [std::ptr::null(); ROWS];
    for r in 0..ROWS {
        queries[r] = args.rows[row + r].query;
    }
    let out = args.scores.add(row * args.scores_stride + at);
    let mut key = 0;
    while key + WEIGHTS <= run.len {
        let mut keys = [run.keys; WEIGHTS];
        for j in 0..WEIGHTS {
            keys[j] = run.keys.add((key + j) * args.stride);
        }
        let dots = dot_tile::<P, T, PARTS, ROWS, WEIGHTS>(&queries, &keys, args.head_dim);
        for r in 0..ROWS {
            for j in 0..WEIGHTS {
                *out.add(r * args.scores_stride + key + j) = dots[r][j] * args.scale;
            }
        }
        key += WEIGHTS;
    }
    while key < run.len {
        let keys = [run.keys.add(key * args.stride)];
        let dots = dot_tile::<P, T, PARTS, ROWS, 1>(&queries, &keys, args.head_dim);
        for r in 0..ROWS {
            *out.add(r * args.scores_stride + key) = dots[r][0] * args.scale;
        }
        key += 1;
    }
}

/// Turns the scores of one row into weights that sum to 1.
///
/// # Safety
///
/// As [`Part`]; `scores` is valid for `len` elements, at least one.
#[inline(always)]
unsafe fn softmax<P: Part, const PARTS: usize>(scores: *mut f32, len: usize, softcap: f32) {
    let whole = len / LANES * LANES;
    let mut tail = [f32::NEG_INFINITY; LANES];
    for i in whole..len {
        tail[i - whole] = *scores.add(i);
    }
    let tail = tail.as_mut_ptr();

    let mut greatest = [P::splat(f32::NEG_INFINITY); PARTS];
    let mut at = 0;
    while at < len {
        let block = if at < whole { scores.add(at) } else { tail };
        for part in 0..PARTS {
            let place = block.add(part * P::WIDTH);
            if softcap > 0.0 {
                let cap = P::splat(softcap);
                // A cap of -inf would be -softcap: the padding must stay below.
                let score = P::load(place);
                let capped = cap.mul(tanh(score.div(cap)));
                let lowest = P::splat(f32::MIN);
                P::select_less(score, lowest, score, capped).store(place);
            }
            greatest[part] = greatest[part].greater_of(P::load(place));
        }
        at += LANES;
    }
    let greatest = P::splat(greatest_of_parts::<P, PARTS>(greatest));

    let mut sums = [P::splat(0.0); PARTS];
    let mut at = 0;
    while at < len {
        let block = if at < whole { scores.add(at) } else { tail };
        for part in 0..PARTS {
            let place = block.add(part * P::WIDTH);
            let weight = exp(P::load(place).sub(greatest));
            weight.store(place);
            sums[part] = sums[part].add(weight);
        }
        at += LANES;
    }
    let inverse = P::splat(1.0 / sum_parts::<P, PARTS>(sums));

    let mut at = 0;
    while at < len {
        let block = if at < whole { scores.add(at) } else { tail };
        for part in 0..PARTS {
            let place = block.add(part * P::WIDTH);
            P::load(place).mul(inverse).store(place);
        }
        at += LANES;
    }
    for i in whole..len {
        *scores.add(i) = *tail.add(i - whole);
    }
}

/// Adds the weighted values of keys `from..to` to the outputs of `ROWS` rows.
///
/// # Safety
///
/// As [`attention`]; the keys are in the runs.
#[inline(always)]
unsafe fn weigh<P: Part, T: Stored, const PARTS: usize, const ROWS: usize>(
    args: &AttentionArgs<'_, T>,
    row: usize,
    from: usize,
    to: usize,
) {
    if from >= to {
        return;
    }
    let weights = args.scores.add(row * args.scores_stride);
    let whole = args.head_dim / LANES * LANES;
    for element in (0..whole).step_by(LANES) {
        let mut sums = [[P::splat(0.0); PARTS]; ROWS];
        for r in 0..ROWS {
            for part in 0..PARTS {
                let at = element + part * P::WIDTH;
                sums[r][part] = P::load(args.rows[row + r].out.add(at));
            }
        }
        let mut first = 0;
        for run in args.runs {
            let begin = from.max(first);
            let end = to.min(first + run.len);
            for key in begin..end {
                let value = run.values.add((key - first) * args.stride);
                for part in 0..PARTS {
                    let value = T::load_at::<P>(value, element + part * P::WIDTH);
                    for r in 0..ROWS {
                        let weight = P::splat(*weights.add(r * args.scores_stride + key));
                        sums[r][part] = weight.fma(value, sums[r][part]);
                    }
                }
            }
            first += run.len;
        }
        for r in 0..ROWS {
            for part in 0..PARTS {
                let at = element + part * P::WIDTH;
                sums[r][part].store(args.rows[row + r].out.add(at));
            }
        }
    }
    for r in 0..ROWS {
        for element in whole..args.head_dim {
            let out = args.rows[row + r].out.add(element);
            let mut first = 0;
            for run in args.runs {
                let begin = from.max(first);
                let end = to.min(first + run.len);
                for key in begin..end {
                    let value = T::value_at(run.values.add((key - first) * args.stride), element);
                    let weight = *weights.add(r * args.scores_stride + key);
                    *out = weight.mul_add(value, *out);
                }
                first += run.len;
            }
        }
    }
}
