//! The two products of attention, in registers.

use std::ops::Range;

use super::attention::{CHUNK, STRIP, STRIPS};
use super::dense::prefetch;
use super::part::Part;
use super::stored::Stored;

/// Keys and values of [`STRIP`] positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<T> {
    /// A tile of as many slots.
    pub(super) keys: *const T,
    /// The values of the first position.
    pub(super) values: *const T,
}

/// How many registers of keys or values a tile of `rows` rows takes side by
/// side: as many as leave registers for operands besides the sums, one of which
/// is a converted one.
const fn side_by_side(registers: usize, rows: usize) -> usize {
    let mut count = 8;
    loop {
        let held = if rows < count { rows } else { count };
        if count == 1 || rows * count + held + 1 < registers {
            return count;
        }
        count = match count {
            8 => 4,
            4 => 3,
            _ => count - 1,
        };
    }
}

/// What of the keys or values of a chunk's strips to ask memory for next. A
/// share is what the positions of a strip have of one register's elements: each
/// strip has as many as a row of values has registers.
///
/// In the order of addresses, a few lines at a time: what memory answers fastest.
#[derive(Clone, Copy, Debug)]
struct Requests {
    strip: usize,
    share: usize,
    /// Of one strip.
    shares: usize,
}

impl Requests {
    /// Asks for `count` shares.
    #[inline(always)]
    fn ask<P: Part, T: Stored>(&mut self, strip: impl Fn(usize) -> *const T, count: usize) {
        /// Bytes of a cache line.
        const LINE: usize = 64;
        let len = const { STRIP * P::WIDTH * size_of::<T>() / T::VALUES };
        for _ in 0..count {
            let at = strip(self.strip).cast::<u8>().wrapping_add(self.share * len);
            for line in 0..len.div_ceil(LINE) {
                prefetch::<true>(at.wrapping_add(line * LINE));
            }
            self.share += 1;
            if self.share == self.shares {
                (self.strip, self.share) = (self.strip + 1, 0);
            }
        }
    }
}

/// Scores of a register tile's rows with the keys of some strips.
#[derive(Debug)]
pub(crate) struct ScoreArgs<'a, T> {
    /// `[head_dim, rows]`.
    pub(super) queries: *const f32,
    /// 1, 2, 3, 4 or 6.
    pub(super) rows: usize,
    pub(super) head_dim: usize,
    pub(super) strips: &'a [Strip<T>],
    /// The strips that are computed.
    pub(super) range: Range<usize>,
    /// `[rows, CHUNK]`.
    pub(super) out: *mut f32,
    /// Whether to ask for the strips' values meanwhile.
    pub(super) request: bool,
}

/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and so are its strips in the range.
#[inline(always)]
pub(super) unsafe fn scores<P: Part, T: Stored, const PARTS: usize>(args: &ScoreArgs<'_, T>) {
    match args.rows {
        1 => score_rows::<P, T, PARTS, 1>(args),
        2 => score_rows::<P, T, PARTS, 2>(args),
        3 => score_rows::<P, T, PARTS, 3>(args),
        4 => score_rows::<P, T, PARTS, 4>(args),
        _ => score_rows::<P, T, PARTS, 6>(args),
    }
}

/// # Safety
///
/// As [`scores`]; there are `R` rows.
#[inline(always)]
unsafe fn score_rows<P: Part, T: Stored, const PARTS: usize, const R: usize>(
    args: &ScoreArgs<'_, T>,
) {
    let mut at = args.range.start * PARTS;
    // One arm is compiled; the others are not reachable.
    match const { side_by_side(P::REGISTERS, R) } {
        8 => {
            score_registers::<P, T, PARTS, R, 8>(args, &mut at);
            score_registers::<P, T, PARTS, R, 4>(args, &mut at);
        }
        4 => score_registers::<P, T, PARTS, R, 4>(args, &mut at),
        3 => score_registers::<P, T, PARTS, R, 3>(args, &mut at),
        2 => score_registers::<P, T, PARTS, R, 2>(args, &mut at),
        _ => {}
    }
    score_registers::<P, T, PARTS, R, 1>(args, &mut at);
}

/// `S` registers of keys at a time, from `at` on as long as so many are left.
///
/// # Safety
///
/// As [`score_rows`].
#[inline(always)]
unsafe fn score_registers<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const R: usize,
    const S: usize,
>(
    args: &ScoreArgs<'_, T>,
    at: &mut usize,
) {
    let &ScoreArgs { queries, head_dim, strips, out, .. } = args;
    while *at + S <= args.range.end * PARTS {
        let mut tiles = [(std::ptr::null(), 0); S];
        for s in 0..S {
            let register = *at + s;
            tiles[s] = (strips[register / PARTS].keys, register % PARTS * P::WIDTH);
        }
        // As many of the values as keys are read.
        let blocks = head_dim / STRIP;
        let (strip, share) = (*at / PARTS, *at % PARTS * blocks);
        let mut requests = Requests { strip, share, shares: PARTS * blocks };
        let mut sums = [[P::splat(0.0); S]; R];
        let mut first = 0;
        while first < head_dim {
            let end = head_dim.min(first.saturating_add(T::SCALED));
            let mut scales = [P::splat(0.0); S];
            for s in 0..S {
                scales[s] = T::load_scales(tiles[s].0, STRIP, tiles[s].1, first);
            }
            let mut from = first;
            while from < end {
                let to = end.min(from + STRIP);
                if args.request {
                    requests.ask::<P, T>(|strip| strips[strip].values, S);
                }
                for element in from..to {
                    let queries = queries.add(element * R);
                    if R <= S {
                        // Queries stay in registers, keys come one by one.
                        let mut rows = [P::splat(0.0); R];
                        for r in 0..R {
                            rows[r] = P::splat(*queries.add(r));
                        }
                        for s in 0..S {
                            let (tile, slot) = tiles[s];
                            let keys = T::load_keys::<P>(tile, STRIP, slot, element, scales[s]);
                            for r in 0..R {
                                sums[r][s] = keys.fma(rows[r], sums[r][s]);
                            }
                        }
                    } else {
                        let mut keys = [P::splat(0.0); S];
                        for s in 0..S {
                            let (tile, slot) = tiles[s];
                            keys[s] = T::load_keys::<P>(tile, STRIP, slot, element, scales[s]);
                        }
                        for r in 0..R {
                            let query = P::splat(*queries.add(r));
                            for s in 0..S {
                                sums[r][s] = keys[s].fma(query, sums[r][s]);
                            }
                        }
                    }
                }
                from = to;
            }
            first = end;
        }
        for r in 0..R {
            for s in 0..S {
                sums[r][s].store(out.add(r * CHUNK + (*at + s) * P::WIDTH));
            }
        }
        *at += S;
    }
}

/// Weighted values of a register tile's rows.
#[derive(Debug)]
pub(crate) struct WeighArgs<'a, T> {
    pub(super) strips: &'a [Strip<T>],
    /// Items from one position's values to the next's.
    pub(super) stride: usize,
    /// Elements of a row of values: whole registers.
    pub(super) padded: usize,
    /// `[rows, CHUNK]`.
    pub(super) weights: *const f32,
    /// 1, 2, 3, 4 or 6.
    pub(super) rows: usize,
    /// The positions whose values are added.
    pub(super) keys: Range<usize>,
    /// `[rows, padded]`; added to.
    pub(super) out: *mut f32,
    /// Strips of whose keys to ask for, meanwhile, as much as there is of the
    /// values: those of the next chunk.
    pub(super) ahead: Option<&'a [Strip<T>; STRIPS]>,
}

/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and so are the strips of its keys.
#[inline(always)]
pub(super) unsafe fn weigh<P: Part, T: Stored>(args: &WeighArgs<'_, T>) {
    match args.rows {
        1 => weigh_rows::<P, T, 1>(args),
        2 => weigh_rows::<P, T, 2>(args),
        3 => weigh_rows::<P, T, 3>(args),
        4 => weigh_rows::<P, T, 4>(args),
        _ => weigh_rows::<P, T, 6>(args),
    }
}

/// # Safety
///
/// As [`weigh`]; there are `R` rows.
#[inline(always)]
unsafe fn weigh_rows<P: Part, T: Stored, const R: usize>(args: &WeighArgs<'_, T>) {
    let mut part = 0;
    // One arm is compiled; the others are not reachable.
    match const { side_by_side(P::REGISTERS, R) } {
        8 => {
            weigh_parts::<P, T, R, 8>(args, &mut part);
            weigh_parts::<P, T, R, 4>(args, &mut part);
        }
        4 => weigh_parts::<P, T, R, 4>(args, &mut part),
        3 => {
            weigh_parts::<P, T, R, 3>(args, &mut part);
            weigh_parts::<P, T, R, 2>(args, &mut part);
        }
        2 => weigh_parts::<P, T, R, 2>(args, &mut part),
        _ => {}
    }
    weigh_parts::<P, T, R, 1>(args, &mut part);
}

/// `V` registers of a row at a time, from `at` on as long as so many are left.
///
/// # Safety
///
/// As [`weigh`].
#[inline(always)]
unsafe fn weigh_parts<P: Part, T: Stored, const R: usize, const V: usize>(
    args: &WeighArgs<'_, T>,
    at: &mut usize,
) {
    let &WeighArgs { strips, stride, padded, weights, ref keys, out, ahead, .. } = args;
    while *at + V <= padded / P::WIDTH {
        let first = *at * P::WIDTH;
        let mut sums = [[P::splat(0.0); V]; R];
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = P::load(out.add(r * padded + first + v * P::WIDTH));
            }
        }
        let shares = padded / P::WIDTH;
        let (strip, share) = (*at * STRIPS / shares, *at * STRIPS % shares);
        let mut requests = Requests { strip, share, shares };
        let mut key = keys.start;
        while key < keys.end {
            let end = ((key / STRIP + 1) * STRIP).min(keys.end);
            if let Some(ahead) = ahead {
                requests.ask::<P, T>(|strip| ahead[strip].keys, V);
            }
            let mut row = strips[key / STRIP].values.add(key % STRIP * stride);
            while key < end {
                let weights = weights.add(key);
                if R <= V {
                    let mut rows = [P::splat(0.0); R];
                    for r in 0..R {
                        rows[r] = P::splat(*weights.add(r * CHUNK));
                    }
                    for v in 0..V {
                        let value = T::load_at::<P>(row, first + v * P::WIDTH);
                        for r in 0..R {
                            sums[r][v] = value.fma(rows[r], sums[r][v]);
                        }
                    }
                } else {
                    let mut values = [P::splat(0.0); V];
                    for v in 0..V {
                        values[v] = T::load_at::<P>(row, first + v * P::WIDTH);
                    }
                    for r in 0..R {
                        let weight = P::splat(*weights.add(r * CHUNK));
                        for v in 0..V {
                            sums[r][v] = values[v].fma(weight, sums[r][v]);
                        }
                    }
                }
                row = row.add(stride);
                key += 1;
            }
        }
        for r in 0..R {
            for v in 0..V {
                sums[r][v].store(out.add(r * padded + first + v * P::WIDTH));
            }
        }
        *at += V;
    }
}
