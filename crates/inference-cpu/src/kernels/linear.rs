//! Affine maps: dot products of activation rows with weight rows.
//!
//! Each (row, weight) pair has accumulators of its own, and sums over k in the
//! order of [`part`](super::part), whatever tile it is computed in. Tiles and
//! panels decide what is reused from which cache, and nothing else.

use std::cell::RefCell;

use super::part::{Element, LANES, Part, sum_parts};
use super::stored::Stored;

/// Weight rows that are widened together for many rows.
pub(crate) const PANEL_FEATURES: usize = 12;
/// Elements of k that a widened panel spans: with the panel, a tile's rows of
/// x stay in the first-level cache.
const PANEL_K: usize = 512;
/// Rows that go through a panel before the next part of k: their accumulators
/// and their part of x stay in the second-level cache.
const PANEL_ROWS: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Elements of scratch that the panel kernel needs.
const fn panel_scratch_len() -> usize {
    PANEL_FEATURES * PANEL_K + PANEL_ROWS * PANEL_FEATURES * LANES
}

/// Calls `task` with the thread's scratch of the panel kernel, which writes
/// what it reads: filling it with zeros each time would cost as much as a panel
/// of a small model does.
pub(crate) fn with_panel_scratch<R>(task: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(panel_scratch_len(), 0.0);
        task(scratch)
    })
}

/// A block of an affine map: `rows` rows of x by `features` rows of weights.
#[derive(Debug)]
pub(crate) struct LinearArgs<T> {
    /// `[rows, x_stride]`; where `k` is no multiple of [`LANES`], the panel
    /// kernel needs each row to be followed by zeros up to the next multiple.
    pub(crate) x: *const f32,
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    /// `[features, k]`.
    pub(crate) w: *const T,
    pub(crate) k: usize,
    pub(crate) features: usize,
    /// `[features]`, or null.
    pub(crate) bias: *const f32,
    /// `[rows, out_stride]`, of which `features` columns are written.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// Adds the products of `steps * LANES` elements to a tile's accumulators.
///
/// # Safety
///
/// As [`Part`]; every row has `steps * LANES` elements.
#[inline(always)]
pub(super) unsafe fn accumulate<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    x: &[*const f32; ROWS],
    w: &[*const T; WEIGHTS],
    steps: usize,
    sums: &mut [[[P; PARTS]; WEIGHTS]; ROWS],
) {
    for step in 0..steps {
        for part in 0..PARTS {
            let at = step * LANES + part * P::WIDTH;
            let mut weights = [P::splat(0.0); WEIGHTS];
            for j in 0..WEIGHTS {
                weights[j] = T::load_at::<P>(w[j], at);
            }
            for r in 0..ROWS {
                let activations = P::load(x[r].add(at));
                for j in 0..WEIGHTS {
                    sums[r][j][part] = activations.fma(weights[j], sums[r][j][part]);
                }
            }
        }
    }
}

/// The dot products of a tile over `k` elements, tail included.
///
/// # Safety
///
/// As [`Part`]; every row has `k` elements.
#[inline(always)]
pub(super) unsafe fn dot_tile<
    P: Part,
    T: Stored,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    x: &[*const f32; ROWS],
    w: &[*const T; WEIGHTS],
    k: usize,
) -> [[f32; WEIGHTS]; ROWS] {
    let mut sums = [[[P::splat(0.0); PARTS]; WEIGHTS]; ROWS];
    let steps = k / LANES;
    accumulate::<P, T, PARTS, ROWS, WEIGHTS>(x, w, steps, &mut sums);
    let (done, rest) = (steps * LANES, k % LANES);
    if rest > 0 {
        // The missing lanes add zeros.
        let mut x_tail = [[0.0f32; LANES]; ROWS];
        let mut w_tail = [[0.0f32; LANES]; WEIGHTS];
        for i in 0..rest {
            for r in 0..ROWS {
                x_tail[r][i] = *x[r].add(done + i);
            }
            for j in 0..WEIGHTS {
                w_tail[j][i] = T::value_at(w[j], done + i);
            }
        }
        let x_tail: [*const f32; ROWS] = std::array::from_fn(|r| x_tail[r].as_ptr());
        let w_tail: [*const f32; WEIGHTS] = std::array::from_fn(|j| w_tail[j].as_ptr());
        accumulate::<P, f32, PARTS, ROWS, WEIGHTS>(&x_tail, &w_tail, 1, &mut sums);
    }
    let mut dots = [[0.0; WEIGHTS]; ROWS];
    for r in 0..ROWS {
        for j in 0..WEIGHTS {
            dots[r][j] = sum_parts::<P, PARTS>(sums[r][j]);
        }
    }
    dots
}

/// Computes and writes the tile at row `row` and feature `feature`.
///
/// # Safety
///
/// As [`direct`]; the tile lies in the block.
#[inline(always)]
unsafe fn direct_tile<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    args: &LinearArgs<T>,
    row: usize,
    feature: usize,
) {
    let mut x = [args.x; ROWS];
    let mut w = [args.w; WEIGHTS];
    for r in 0..ROWS {
        x[r] = args.x.add((row + r) * args.x_stride);
    }
    for j in 0..WEIGHTS {
        w[j] = args.w.add((feature + j) * args.k);
    }
    let dots = dot_tile::<P, T, PARTS, ROWS, WEIGHTS>(&x, &w, args.k);
    for r in 0..ROWS {
        for j in 0..WEIGHTS {
            write(args, row + r, feature + j, dots[r][j]);
        }
    }
}

/// Writes one result, with its bias.
///
/// # Safety
///
/// `row` and `feature` lie in the block.
#[inline(always)]
unsafe fn write<T>(args: &LinearArgs<T>, row: usize, feature: usize, dot: f32) {
    let bias = if args.bias.is_null() { 0.0 } else { *args.bias.add(feature) };
    *args.out.add(row * args.out_stride + feature) = dot + bias;
}

/// Computes a block straight from the weights.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and nothing else writes that part of `out`.
#[inline(always)]
pub(super) unsafe fn direct<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
    const SINGLE: usize,
>(
    args: &LinearArgs<T>,
) {
    let mut feature = 0;
    if args.rows == 1 {
        while feature + SINGLE <= args.features {
            direct_tile::<P, T, PARTS, 1, SINGLE>(args, 0, feature);
            feature += SINGLE;
        }
    }
    while feature + WEIGHTS <= args.features {
        let mut row = 0;
        while row + ROWS <= args.rows {
            direct_tile::<P, T, PARTS, ROWS, WEIGHTS>(args, row, feature);
            row += ROWS;
        }
        while row < args.rows {
            direct_tile::<P, T, PARTS, 1, WEIGHTS>(args, row, feature);
            row += 1;
        }
        feature += WEIGHTS;
    }
    while feature < args.features {
        for row in 0..args.rows {
            direct_tile::<P, T, PARTS, 1, 1>(args, row, feature);
        }
        feature += 1;
    }
}

/// Computes a block of at most [`PANEL_FEATURES`] features by way of a widened
/// panel in `scratch`, part by part of k.
///
/// # Safety
///
/// As [`direct`]; rows of x are padded as [`LinearArgs::x`] says; `scratch` has
/// the elements of [`with_panel_scratch`] and `features` is at most [`PANEL_FEATURES`].
#[inline(always)]
pub(super) unsafe fn panel<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    args: &LinearArgs<T>,
    scratch: &mut [f32],
) {
    debug_assert!(args.features <= PANEL_FEATURES && scratch.len() >= panel_scratch_len());
    let panel = scratch.as_mut_ptr();
    let sums = panel.add(PANEL_FEATURES * PANEL_K);
    for first_row in (0..args.rows).step_by(PANEL_ROWS) {
        let rows = PANEL_ROWS.min(args.rows - first_row);
        for first_k in (0..args.k).step_by(PANEL_K) {
            let depth = PANEL_K.min(args.k - first_k);
            for j in 0..args.features {
                let from = args.w.add(j * args.k + first_k);
                widen::<P, T>(from, depth, panel.add(j * PANEL_K));
            }
            let tile = PanelTile {
                x: args.x.add(first_row * args.x_stride + first_k),
                panel: panel.cast_const(),
                sums,
                steps: depth.div_ceil(LANES),
                first: first_k == 0,
                last: first_k + depth == args.k,
                first_row,
            };
            let mut row = 0;
            while row + ROWS <= rows {
                panel_rows::<P, T, PARTS, ROWS, WEIGHTS>(args, &tile, row);
                row += ROWS;
            }
            while row < rows {
                panel_rows::<P, T, PARTS, 1, WEIGHTS>(args, &tile, row);
                row += 1;
            }
        }
    }
}

/// What the tiles of a panel have in common.
struct PanelTile {
    /// The first row's x at this part of k.
    x: *const f32,
    panel: *const f32,
    /// `[rows, PANEL_FEATURES, LANES]`: accumulators between parts of k.
    sums: *mut f32,
    steps: usize,
    first: bool,
    last: bool,
    first_row: usize,
}

/// # Safety
///
/// As [`panel`]; the rows lie in the block.
#[inline(always)]
unsafe fn panel_rows<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    args: &LinearArgs<T>,
    tile: &PanelTile,
    row: usize,
) {
    let mut feature = 0;
    while feature + WEIGHTS <= args.features {
        panel_tile::<P, T, PARTS, ROWS, WEIGHTS>(args, tile, row, feature);
        feature += WEIGHTS;
    }
    while feature < args.features {
        panel_tile::<P, T, PARTS, ROWS, 1>(args, tile, row, feature);
        feature += 1;
    }
}

/// # Safety
///
/// As [`panel`]; the tile lies in the block.
#[inline(always)]
unsafe fn panel_tile<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const WEIGHTS: usize,
>(
    args: &LinearArgs<T>,
    tile: &PanelTile,
    row: usize,
    feature: usize,
) {
    let mut x = [tile.x; ROWS];
    let mut w = [tile.panel; WEIGHTS];
    for r in 0..ROWS {
        x[r] = tile.x.add((row + r) * args.x_stride);
    }
    for j in 0..WEIGHTS {
        w[j] = tile.panel.add((feature + j) * PANEL_K);
    }
    let mut sums = [[[P::splat(0.0); PARTS]; WEIGHTS]; ROWS];
    if !tile.first {
        for r in 0..ROWS {
            for j in 0..WEIGHTS {
                let at = ((row + r) * PANEL_FEATURES + feature + j) * LANES;
                for part in 0..PARTS {
                    sums[r][j][part] = P::load(tile.sums.add(at + part * P::WIDTH));
                }
            }
        }
    }
    accumulate::<P, f32, PARTS, ROWS, WEIGHTS>(&x, &w, tile.steps, &mut sums);
    for r in 0..ROWS {
        for j in 0..WEIGHTS {
            if tile.last {
                let dot = sum_parts::<P, PARTS>(sums[r][j]);
                write(args, tile.first_row + row + r, feature + j, dot);
            } else {
                let at = ((row + r) * PANEL_FEATURES + feature + j) * LANES;
                for part in 0..PARTS {
                    sums[r][j][part].store(tile.sums.add(at + part * P::WIDTH));
                }
            }
        }
    }
}

/// Widens `len` elements, followed by zeros up to a multiple of [`LANES`].
///
/// # Safety
///
/// As [`Part`]; `from` is readable for `len` elements and `to` writable for
/// `len` rounded up.
#[inline(always)]
unsafe fn widen<P: Part, T: Element>(from: *const T, len: usize, to: *mut f32) {
    let whole = len / P::WIDTH * P::WIDTH;
    for at in (0..whole).step_by(P::WIDTH) {
        T::load::<P>(from.add(at)).store(to.add(at));
    }
    for at in whole..len {
        *to.add(at) = (*from.add(at)).widen();
    }
    for at in len..len.next_multiple_of(LANES) {
        *to.add(at) = 0.0;
    }
}
