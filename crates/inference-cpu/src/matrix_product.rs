//! Products of matrices that lie anywhere, on the calling thread.

use inference_candle::MatrixView;
use inference_core::Result;

use crate::dense_tiles::with_scratch;
use crate::kernels::{FewArgs, Kernels, PANEL, Split, TileArgs, TileEnd};

/// Columns up to which rows that lie together are not packed: their panels
/// stay in the first-level cache.
const FEW_COLUMNS: usize = PANEL;

/// Panels of `b` that are packed at a time.
const GROUP: usize = 8;

/// Most elements of k that a packed panel spans.
const DEPTH: usize = 256;

/// `a · b` over all of `c`, or, with `add`, added to it. An element is one chain
/// over k, ascending, which begins with what is in `c` or with 0.
pub(crate) fn multiply(
    kernels: &Kernels,
    a: &MatrixView<'_>,
    b: &MatrixView<'_>,
    c: &mut [f32],
    add: bool,
) -> Result<()> {
    a.check_product(b, c)?;
    if c.is_empty() {
        return Ok(());
    }
    if a.columns() == 0 {
        if !add {
            c.fill(0.0);
        }
    } else if !add && b.columns() <= FEW_COLUMNS && a.column_stride() == 1 {
        few(kernels, a, b, c);
    } else {
        tiles(kernels, a, b, c, add);
    }
    Ok(())
}

/// Writes the columns of a panel of `b`, rows `from` on, as `[rows, PANEL]`;
/// zeros where there are none.
fn pack_panel(b: &MatrixView<'_>, panel: usize, from: usize, to: &mut [f32]) {
    let first = panel * PANEL;
    let columns = PANEL.min(b.columns() - first);
    let (row, column) = (b.row_stride(), b.column_stride());
    if column == 1 {
        for (i, to) in to.chunks_exact_mut(PANEL).enumerate() {
            let (to, rest) = to.split_at_mut(columns);
            let start = (from + i) * row + first;
            to.copy_from_slice(&b.values()[start..start + columns]);
            rest.fill(0.0);
        }
        return;
    }
    if columns < PANEL {
        to.fill(0.0);
    }
    for lane in 0..columns {
        let values = b.values()[from * row + (first + lane) * column..].iter().step_by(row.max(1));
        to.iter_mut().skip(lane).step_by(PANEL).zip(values).for_each(|(to, value)| *to = *value);
    }
}

/// Few columns, rows of `a` read where they are.
fn few(kernels: &Kernels, a: &MatrixView<'_>, b: &MatrixView<'_>, c: &mut [f32]) {
    let (rows, k, n) = (a.rows(), a.columns(), b.columns());
    with_scratch(k * PANEL, |panel| {
        pack_panel(b, 0, 0, panel);
        let (stride, step) = (a.row_stride(), a.column_stride());
        let last = (rows - 1) * stride + (k - 1) * step;
        assert!(a.values().len() > last && c.len() >= rows * n, "a view is of what exists");
        let args = FewArgs {
            x: a.values().as_ptr(),
            x_stride: stride,
            x_step: step,
            rows,
            w: panel.as_ptr(),
            k,
            features: n,
            bias: std::ptr::null(),
            out: c.as_mut_ptr(),
            out_stride: n,
        };
        // SAFETY: the table is for this CPU, checked where it was chosen; the
        // extents were asserted, the panel is `[k, PANEL]`, and the output is
        // `[rows, n]`.
        unsafe { (kernels.f32.few)(&args) };
    });
}

/// Packs a part of k of `a` tile by tile, in each `[depth, rows of the tile]`.
fn pack_rows(a: &MatrixView<'_>, tiles: Split, from: usize, depth: usize, to: &mut [f32]) {
    let (row, column) = (a.row_stride(), a.column_stride());
    let mut rest = to;
    for tile in 0..tiles.parts {
        let (first, end) = (tiles.start(tile), tiles.start(tile + 1));
        let size = end - first;
        let (to, after) = rest.split_at_mut(size * depth);
        rest = after;
        if row == 1 {
            for (i, to) in to.chunks_exact_mut(size.max(1)).enumerate() {
                let start = (from + i) * column + first;
                to.copy_from_slice(&a.values()[start..start + size]);
            }
        } else {
            for r in 0..size {
                let values = a.values()[(first + r) * row + from * column..].iter();
                let values = values.step_by(column.max(1));
                to.iter_mut().skip(r).step_by(size).zip(values).for_each(|(to, v)| *to = *v);
            }
        }
    }
}

fn tiles(kernels: &Kernels, a: &MatrixView<'_>, b: &MatrixView<'_>, c: &mut [f32], add: bool) {
    let (rows, k, n) = (a.rows(), a.columns(), b.columns());
    let tiles = Split::new(rows, kernels.tile_rows);
    let depths = Split::new(k, DEPTH);
    let panels = n.div_ceil(PANEL);
    let group = GROUP.next_multiple_of(kernels.tile_panels).min(panels);
    let most = (0..depths.parts).map(|p| depths.start(p + 1) - depths.start(p)).max();
    let widened = group * most.unwrap_or(0) * PANEL;
    let chain = rows * PANEL;
    with_scratch(rows * k + widened + group * chain, |scratch| {
        let (x, rest) = scratch.split_at_mut(rows * k);
        let (w, chains) = rest.split_at_mut(widened);
        for part in 0..depths.parts {
            let (from, end) = (depths.start(part), depths.start(part + 1));
            pack_rows(a, tiles, from, end - from, &mut x[from * rows..end * rows]);
        }
        for first in (0..panels).step_by(group) {
            let count = group.min(panels - first);
            let chains = &mut chains[..count * chain];
            if add {
                load(c, n, first, chains, chain);
            }
            for part in 0..depths.parts {
                let (from, end) = (depths.start(part), depths.start(part + 1));
                let depth = end - from;
                for (panel, to) in w.chunks_exact_mut(depth * PANEL).take(count).enumerate() {
                    pack_panel(b, first + panel, from, to);
                }
                let values = &x[from * rows..end * rows];
                assert!(w.len() >= count * depth * PANEL && values.len() == rows * depth);
                let out = &mut c[first * PANEL..];
                let features = (count * PANEL).min(n - first * PANEL);
                assert!(out.len() >= (rows - 1) * n + features, "it was checked");
                let ends = TileEnd {
                    features,
                    bias: std::ptr::null(),
                    out: out.as_mut_ptr(),
                    out_stride: n,
                };
                let args = TileArgs {
                    x: values.as_ptr(),
                    tiles,
                    first_tile: 0,
                    end_tile: tiles.parts,
                    w: w.as_ptr(),
                    w_stride: depth * PANEL,
                    panels: count,
                    depth,
                    chains: chains.as_mut_ptr(),
                    first: part == 0 && !add,
                    end: (part + 1 == depths.parts).then_some(ends),
                };
                // SAFETY: the table is for this CPU, checked where it was chosen;
                // the extents were asserted, chains are `rows * PANEL` for each
                // panel, and tiles are of `tile_rows` at most.
                unsafe { (kernels.tiles)(&args) };
            }
        }
    });
}

/// Begins chains of the panels from `first` on with what is in `c`, `[rows, n]`.
fn load(c: &[f32], n: usize, first: usize, chains: &mut [f32], chain: usize) {
    for (panel, chains) in (first..).zip(chains.chunks_exact_mut(chain)) {
        let from = panel * PANEL;
        let columns = PANEL.min(n - from);
        for (row, to) in c.chunks_exact(n).zip(chains.chunks_exact_mut(PANEL)) {
            let (to, rest) = to.split_at_mut(columns);
            to.copy_from_slice(&row[from..from + columns]);
            rest.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use inference_candle::reference;
    use proptest::prelude::*;

    use super::*;
    use crate::Tier;

    fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 997) as f32 / 500.0 - 1.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

        #[test]
        fn products_are_the_references(
            (m, k, n) in (0_usize..40, 0_usize..300, 0_usize..150),
            (a_t, b_t, add) in any::<(bool, bool, bool)>(),
            room in 0_usize..5,
        ) {
            // With room between rows.
            let [a_rows, a_columns] = if a_t { [k, m] } else { [m, k] };
            let [b_rows, b_columns] = if b_t { [n, k] } else { [k, n] };
            let a = noise(a_rows * (a_columns + room), 1);
            let b = noise(b_rows * (b_columns + room), 2);
            let a = MatrixView::new(&a, a_rows, a_columns, a_columns + room).unwrap();
            let b = MatrixView::new(&b, b_rows, b_columns, b_columns + room).unwrap();
            let a = if a_t { a.t() } else { a };
            let b = if b_t { b.t() } else { b };
            let mut wanted = noise(m * n, 3);
            let start = wanted.clone();
            reference::multiply(&a, &b, &mut wanted, add).unwrap();
            let mut first: Option<Vec<f32>> = None;
            for kernels in Tier::ALL.into_iter().filter_map(Tier::kernels) {
                let mut found = start.clone();
                multiply(kernels, &a, &b, &mut found, add).unwrap();
                for (f, w) in found.iter().zip(&wanted) {
                    prop_assert!((f - w).abs() <= 1e-4, "{:?}: {f}, not {w}", kernels.tier);
                }
                prop_assert!(first.as_ref().is_none_or(|first| *first == found));
                first = Some(found);
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let values = noise(12, 1);
        let a = MatrixView::new(&values, 3, 4, 4).unwrap();
        let kernels = Tier::Scalar.kernels().unwrap();
        assert!(multiply(kernels, &a, &a, &mut [0.0; 12], false).is_err());
        assert!(multiply(kernels, &a, &a.t(), &mut [0.0; 8], false).is_err());
        assert!(MatrixView::new(&values, 4, 4, 4).is_err());
    }
}
