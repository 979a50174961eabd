//! Affine maps over f32, f16 and bf16 weights in panels of 16 features.
//!
//! Lanes are output features and activations are broadcast, so each result is
//! one chain over k: `sum = fma(x, w, sum)`, k ascending, then the bias. How
//! many rows and panels a register tile spans, where k is interrupted and who
//! computes decides what is reused from which cache, and nothing else.

use super::part::{Element, LANES, Part};

/// Output features of a panel: `[k][PANEL]`, filled up with zeros.
pub(crate) const PANEL: usize = LANES;

/// Rows up to which panels are read straight from memory and widened in
/// registers: widening a panel for all rows pays from there on.
pub(crate) const FEW_ROWS: usize = 96;

/// Most rows of a register tile of them: with six, AVX2 has a register to spare,
/// and sums end up in memory.
pub(crate) const FEW_TILE: usize = 5;

/// Bytes of a panel that are asked for ahead of the arithmetic.
const AHEAD: usize = 2048;

/// A few rows by some panels, straight from the weights.
#[derive(Debug)]
pub(crate) struct FewArgs<T> {
    /// Element `i` of row `r` lies at `r * x_stride + i * x_step`.
    pub(crate) x: *const f32,
    pub(crate) x_stride: usize,
    pub(crate) x_step: usize,
    /// At least one.
    pub(crate) rows: usize,
    /// `[panels, k, PANEL]`: as many panels as hold `features`.
    pub(crate) w: *const T,
    pub(crate) k: usize,
    pub(crate) features: usize,
    /// `[features]`, or null.
    pub(crate) bias: *const f32,
    /// `[rows, out_stride]`, of which `features` columns are written.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// Some rows by some widened panels, over a part of k.
#[derive(Debug)]
pub(crate) struct TileArgs {
    /// The tile of rows that begins at row `r` of `tiles` lies at `r * depth`,
    /// as `[depth, rows of the tile]`.
    pub(crate) x: *const f32,
    /// Rows in tiles no larger than [`Kernels::tile_rows`](super::Kernels).
    pub(crate) tiles: Split,
    /// The tiles of the call.
    pub(crate) first_tile: usize,
    pub(crate) end_tile: usize,
    /// `[depth, PANEL]` each, `w_stride` elements apart.
    pub(crate) w: *const f32,
    pub(crate) w_stride: usize,
    pub(crate) panels: usize,
    pub(crate) depth: usize,
    /// `[panels, rows of the call, PANEL]`: the chains between parts of k; not
    /// accessed where they begin and end here.
    pub(crate) chains: *mut f32,
    /// Whether chains begin here.
    pub(crate) first: bool,
    /// Where chains end here: what they become. If not, they are written back.
    pub(crate) end: Option<TileEnd>,
}

/// The output of chains that end.
#[derive(Debug)]
pub(crate) struct TileEnd {
    /// Features of all panels of the call: whole ones, but for the last.
    pub(crate) features: usize,
    /// `[features]`, or null.
    pub(crate) bias: *const f32,
    /// From the first row of the call on, `[rows, out_stride]`, of which
    /// `features` columns are written.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// A range cut into parts of nearly one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The whole.
    pub(crate) len: usize,
    /// Parts that it is cut into; not 0.
    pub(crate) parts: usize,
}

impl Split {
    /// As few parts as there can be with at most `most` each; `most` is not 0.
    pub(crate) fn new(len: usize, most: usize) -> Self {
        Self { len, parts: len.div_ceil(most).max(1) }
    }

    /// Where a part begins; the one after the last, where all ends.
    pub(crate) fn start(self, part: usize) -> usize {
        part * self.len / self.parts
    }
}

/// Asks for a line that will be read soon, into the first-level cache, `NEAR`, or
/// the second. Any address may be asked for.
#[inline(always)]
pub(super) fn prefetch<const NEAR: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which faults nowhere; every x86-64 CPU has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if NEAR {
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(at.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Computes a few rows.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there, and nothing else writes that part of `out`.
#[inline(always)]
pub(super) unsafe fn few<P: Part, T: Element, const PARTS: usize>(args: &FewArgs<T>) {
    let panels = args.features.div_ceil(PANEL);
    let mut panel = 0;
    // At least eight chains where there are as many, at most twelve registers of sums.
    if args.rows == 1 {
        while panel + 4 <= panels {
            few_tile::<P, T, PARTS, 1, 4, true>(args, panel, 0, 1);
            panel += 4;
        }
    }
    if args.rows <= 3 {
        while panel + 2 <= panels {
            few_tiles::<P, T, PARTS, 2, true>(args, panel);
            panel += 2;
        }
    }
    while panel < panels {
        if args.rows <= FEW_TILE {
            few_tiles::<P, T, PARTS, 1, true>(args, panel);
            panel += 1;
        } else if PARTS == 1 && panel + 2 <= panels {
            few_tiles::<P, T, PARTS, 2, false>(args, panel);
            panel += 2;
        } else {
            few_tiles::<P, T, PARTS, 1, false>(args, panel);
            panel += 1;
        }
    }
}

/// All rows by some panels, which all tiles of rows but the first find in cache.
///
/// # Safety
///
/// As [`few`]; the panels from `panel` on are in the call. With two panels there
/// are three rows at most, or a panel is one register; `LONE` says that there is
/// one tile.
#[inline(always)]
unsafe fn few_tiles<
    P: Part,
    T: Element,
    const PARTS: usize,
    const PANELS: usize,
    const LONE: bool,
>(
    args: &FewArgs<T>,
    panel: usize,
) {
    let tiles = Split::new(args.rows, FEW_TILE);
    for tile in 0..tiles.parts {
        // Of tiles with too many registers nothing is compiled.
        match tiles.start(tile + 1) - tiles.start(tile) {
            1 if LONE => few_tile::<P, T, PARTS, 1, PANELS, LONE>(args, panel, tile, tiles.parts),
            2 if LONE => few_tile::<P, T, PARTS, 2, PANELS, LONE>(args, panel, tile, tiles.parts),
            3 => few_tile::<P, T, PARTS, 3, PANELS, LONE>(args, panel, tile, tiles.parts),
            4 if PANELS == 1 || PARTS == 1 => {
                few_tile::<P, T, PARTS, 4, PANELS, LONE>(args, panel, tile, tiles.parts);
            }
            FEW_TILE if PANELS == 1 || PARTS == 1 => {
                few_tile::<P, T, PARTS, FEW_TILE, PANELS, LONE>(args, panel, tile, tiles.parts);
            }
            rows => debug_assert!(false, "there is no tile of {rows} rows"),
        }
    }
}

/// A tile of `tiles`.
///
/// # Safety
///
/// As [`few_tiles`]; the tile has `ROWS` rows.
#[inline(always)]
unsafe fn few_tile<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const PANELS: usize,
    const LONE: bool,
>(
    args: &FewArgs<T>,
    panel: usize,
    tile: usize,
    tiles: usize,
) {
    /// Steps of k between requests for memory.
    const STEPS: usize = 4;
    let (row, k) = (Split { len: args.rows, parts: tiles }.start(tile), args.k);
    let mut x = [args.x; ROWS];
    for r in 0..ROWS {
        x[r] = args.x.add((row + r) * args.x_stride);
    }
    let mut w = [args.w; PANELS];
    for p in 0..PANELS {
        w[p] = args.w.add((panel + p) * k * PANEL);
    }
    // A lone tile asks for what it reads next. Several ask for the next panels, a
    // part each: the first would wait for memory, and the others not use it.
    let bytes = PANEL * size_of::<T>();
    let lines = (STEPS * bytes).div_ceil(if LONE { 64 } else { 128 });
    let first = if LONE { AHEAD } else { PANELS * k * bytes + k * bytes * tile / tiles };
    let next = STEPS * bytes / if LONE { 1 } else { tiles };
    let mut ahead = w.map(|w| w.cast::<u8>().wrapping_add(first));
    let mut sums = [[[P::splat(0.0); PARTS]; PANELS]; ROWS];
    let mut i = 0;
    for _ in 0..k / STEPS {
        for p in 0..PANELS {
            for line in 0..lines {
                prefetch::<LONE>(ahead[p].wrapping_add(line * 64));
            }
            ahead[p] = ahead[p].wrapping_add(next);
        }
        for _ in 0..STEPS {
            few_step(&x, i, &w, &mut sums);
            i += args.x_step;
            w = w.map(|w| w.wrapping_add(PANEL));
        }
    }
    for _ in 0..k % STEPS {
        few_step(&x, i, &w, &mut sums);
        i += args.x_step;
        w = w.map(|w| w.wrapping_add(PANEL));
    }
    for p in 0..PANELS {
        let feature = (panel + p) * PANEL;
        for r in 0..ROWS {
            let out = args.out.add((row + r) * args.out_stride + feature);
            let bias = if args.bias.is_null() { args.bias } else { args.bias.add(feature) };
            write::<P, PARTS>(sums[r][p], bias, out, PANEL.min(args.features - feature));
        }
    }
}

/// One step of k.
///
/// # Safety
///
/// As [`few_tile`]; an activation lies `i` after each of `x`, and the panels'
/// weights begin at `w`.
#[inline(always)]
unsafe fn few_step<
    P: Part,
    T: Element,
    const PARTS: usize,
    const ROWS: usize,
    const PANELS: usize,
>(
    x: &[*const f32; ROWS],
    i: usize,
    w: &[*const T; PANELS],
    sums: &mut [[[P; PARTS]; PANELS]; ROWS],
) {
    for p in 0..PANELS {
        let mut weights = [P::splat(0.0); PARTS];
        for part in 0..PARTS {
            weights[part] = T::load::<P>(w[p].add(part * P::WIDTH));
        }
        for r in 0..ROWS {
            let activation = P::splat(*x[r].add(i));
            for part in 0..PARTS {
                sums[r][p][part] = activation.fma(weights[part], sums[r][p][part]);
            }
        }
    }
}

/// Writes the results of a panel, with their bias.
///
/// # Safety
///
/// As [`Part`]; `features` results fit at `out`, and `bias` is null or has as
/// many.
#[inline(always)]
unsafe fn write<P: Part, const PARTS: usize>(
    sums: [P; PARTS],
    bias: *const f32,
    out: *mut f32,
    features: usize,
) {
    if features == PANEL {
        for part in 0..PARTS {
            let at = part * P::WIDTH;
            let sum =
                if bias.is_null() { sums[part] } else { sums[part].add(P::load(bias.add(at))) };
            sum.store(out.add(at));
        }
        return;
    }
    let mut values = [0.0f32; PANEL];
    for part in 0..PARTS {
        sums[part].store(values.as_mut_ptr().add(part * P::WIDTH));
    }
    write_some(&values, bias, out, features);
}

/// The features of the last panel: not inlined, as it is once per product.
///
/// # Safety
///
/// As [`write`].
#[inline(never)]
unsafe fn write_some(values: &[f32; PANEL], bias: *const f32, out: *mut f32, features: usize) {
    for (i, value) in values.iter().enumerate().take(features) {
        *out.add(i) = if bias.is_null() { *value } else { *value + *bias.add(i) };
    }
}

/// Widens `len` elements, a multiple of [`PANEL`].
///
/// # Safety
///
/// As [`Part`]; both are valid for `len` elements.
#[inline(always)]
pub(super) unsafe fn widen<P: Part, T: Element>(from: *const T, len: usize, to: *mut f32) {
    debug_assert!(len.is_multiple_of(PANEL));
    for at in (0..len).step_by(P::WIDTH) {
        T::load::<P>(from.add(at)).store(to.add(at));
    }
}

/// Continues the chains of all rows and panels of the call.
///
/// # Safety
///
/// As [`Part`]; the pointers of `args` are valid for the extents documented
/// there; no tile of rows is larger than `ROWS`, which is at most 12.
#[inline(always)]
pub(super) unsafe fn tiles<P: Part, const PARTS: usize, const ROWS: usize, const PANELS: usize>(
    args: &TileArgs,
) {
    let mut panel = 0;
    while panel + PANELS <= args.panels {
        tiles_of::<P, PARTS, ROWS, PANELS>(args, panel);
        panel += PANELS;
    }
    while panel < args.panels {
        tiles_of::<P, PARTS, ROWS, 1>(args, panel);
        panel += 1;
    }
}

/// # Safety
///
/// As [`tiles`]; the panels from `panel` on are in the call.
#[inline(always)]
unsafe fn tiles_of<P: Part, const PARTS: usize, const ROWS: usize, const PANELS: usize>(
    args: &TileArgs,
    panel: usize,
) {
    for tile in args.first_tile..args.end_tile {
        let row = args.tiles.start(tile);
        // Of tiles larger than the instruction set's own nothing is compiled.
        match args.tiles.start(tile + 1) - row {
            0 => {}
            1 => register_tile::<P, PARTS, 1, PANELS>(args, panel, row),
            2 => register_tile::<P, PARTS, 2, PANELS>(args, panel, row),
            3 if ROWS >= 3 => register_tile::<P, PARTS, 3, PANELS>(args, panel, row),
            4 if ROWS >= 4 => register_tile::<P, PARTS, 4, PANELS>(args, panel, row),
            5 if ROWS >= 5 => register_tile::<P, PARTS, 5, PANELS>(args, panel, row),
            6 if ROWS >= 6 => register_tile::<P, PARTS, 6, PANELS>(args, panel, row),
            7 if ROWS >= 7 => register_tile::<P, PARTS, 7, PANELS>(args, panel, row),
            8 if ROWS >= 8 => register_tile::<P, PARTS, 8, PANELS>(args, panel, row),
            9 if ROWS >= 9 => register_tile::<P, PARTS, 9, PANELS>(args, panel, row),
            10 if ROWS >= 10 => register_tile::<P, PARTS, 10, PANELS>(args, panel, row),
            11 if ROWS >= 11 => register_tile::<P, PARTS, 11, PANELS>(args, panel, row),
            _ => register_tile::<P, PARTS, ROWS, PANELS>(args, panel, row),
        }
    }
}

/// # Safety
///
/// As [`tiles_of`]; a tile of `ROWS` rows begins at `row`.
#[inline(always)]
unsafe fn register_tile<P: Part, const PARTS: usize, const ROWS: usize, const PANELS: usize>(
    args: &TileArgs,
    panel: usize,
    row: usize,
) {
    let first_row = args.tiles.start(args.first_tile);
    let rows = args.tiles.start(args.end_tile) - first_row;
    let chains = |r: usize, p: usize, part: usize| {
        args.chains.add(((panel + p) * rows + row - first_row + r) * PANEL + part * P::WIDTH)
    };
    let mut sums = [[[P::splat(0.0); PARTS]; PANELS]; ROWS];
    if !args.first {
        for r in 0..ROWS {
            for p in 0..PANELS {
                for part in 0..PARTS {
                    sums[r][p][part] = P::load(chains(r, p, part));
                }
            }
        }
    }
    let mut x = args.x.add(row * args.depth);
    let mut w = args.w.add(panel * args.w_stride);
    for _ in 0..args.depth {
        let mut weights = [[P::splat(0.0); PARTS]; PANELS];
        for p in 0..PANELS {
            for part in 0..PARTS {
                weights[p][part] = P::load(w.add(p * args.w_stride + part * P::WIDTH));
            }
        }
        for r in 0..ROWS {
            let activation = P::splat(*x.add(r));
            for p in 0..PANELS {
                for part in 0..PARTS {
                    sums[r][p][part] = activation.fma(weights[p][part], sums[r][p][part]);
                }
            }
        }
        x = x.add(ROWS);
        w = w.add(PANEL);
    }
    let Some(end) = &args.end else {
        for r in 0..ROWS {
            for p in 0..PANELS {
                for part in 0..PARTS {
                    sums[r][p][part].store(chains(r, p, part));
                }
            }
        }
        return;
    };
    for p in 0..PANELS {
        let feature = (panel + p) * PANEL;
        let features = PANEL.min(end.features - feature);
        let bias = if end.bias.is_null() { end.bias } else { end.bias.add(feature) };
        for r in 0..ROWS {
            let out = end.out.add((row - first_row + r) * end.out_stride + feature);
            write::<P, PARTS>(sums[r][p], bias, out, features);
        }
    }
}
