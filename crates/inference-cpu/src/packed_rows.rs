//! Rows of activations as the register tiles of dense products read them.

use std::ops::Range;

use crate::kernels::{Kernels, Split};
use crate::recycled::Recycled;
use crate::workers::Workers;

/// Most elements of k that a widened panel spans: with a tile of rows it stays
/// in the first-level cache.
const DEPTH: usize = 256;

/// Tiles that are rearranged as one piece of work.
const TILES: usize = 16;

/// `[rows, k]` part of k by part of k, in each tile of rows by tile of rows, in
/// each `[depth, rows of the tile]`.
#[derive(Debug)]
pub(crate) struct PackedRows {
    values: Recycled<f32>,
    /// The rows in tiles.
    pub(crate) tiles: Split,
    /// k in parts.
    pub(crate) depths: Split,
}

/// Some tiles of a part of k.
struct Piece<'a> {
    tiles: Range<usize>,
    k: Range<usize>,
    to: &'a mut [f32],
}

impl PackedRows {
    /// `x` is `[rows, k]`; `k` is not 0.
    pub(crate) fn new(kernels: &Kernels, workers: &Workers, x: &[f32], k: usize) -> Self {
        let rows = x.len() / k;
        let tiles = Split::new(rows, kernels.tile_rows);
        let depths = Split::new(k, DEPTH);
        let mut values = Recycled::new(rows * k);
        let mut pieces = Vec::with_capacity(depths.parts * tiles.parts.div_ceil(TILES));
        let mut rest = &mut *values;
        for part in 0..depths.parts {
            let k = depths.start(part)..depths.start(part + 1);
            for first in (0..tiles.parts).step_by(TILES) {
                let tiles_of = first..(first + TILES).min(tiles.parts);
                let rows = tiles.start(tiles_of.end) - tiles.start(first);
                let (to, after) = rest.split_at_mut(k.len() * rows);
                pieces.push(Piece { tiles: tiles_of, k: k.clone(), to });
                rest = after;
            }
        }
        workers.for_each_mut(&mut pieces, x.len(), |piece| {
            let mut rest = &mut *piece.to;
            for tile in piece.tiles.clone() {
                let (row, end) = (tiles.start(tile), tiles.start(tile + 1));
                let (to, after) = rest.split_at_mut((end - row) * piece.k.len());
                rest = after;
                side_by_side(&x[row * k..end * k], k, piece.k.clone(), to);
            }
        });
        Self { values, tiles, depths }
    }

    /// The rows of a part of k.
    pub(crate) fn part(&self, part: usize) -> &[f32] {
        let rows = self.tiles.len;
        self.values
            .get(self.depths.start(part) * rows..self.depths.start(part + 1) * rows)
            .unwrap_or_default()
    }
}

/// Writes the part `k` of rows of `stride` elements as `[depth, rows]`.
fn side_by_side(x: &[f32], stride: usize, k: Range<usize>, to: &mut [f32]) {
    match x.len() / stride {
        1 => rows_side_by_side::<1>(x, stride, k, to),
        2 => rows_side_by_side::<2>(x, stride, k, to),
        3 => rows_side_by_side::<3>(x, stride, k, to),
        4 => rows_side_by_side::<4>(x, stride, k, to),
        5 => rows_side_by_side::<5>(x, stride, k, to),
        6 => rows_side_by_side::<6>(x, stride, k, to),
        rows => {
            for (row, x) in x.chunks_exact(stride).enumerate() {
                for (to, x) in to.iter_mut().skip(row).step_by(rows).zip(&x[k.clone()]) {
                    *to = *x;
                }
            }
        }
    }
}

/// The same of `R` rows, four of k at a time: the compiler makes shuffles of it.
fn rows_side_by_side<const R: usize>(x: &[f32], stride: usize, k: Range<usize>, to: &mut [f32]) {
    let rows: [&[f32]; R] =
        std::array::from_fn(|row| &x[row * stride + k.start..row * stride + k.end]);
    let fours = rows.map(|row| row.as_chunks::<4>().0);
    let (to, _) = to.as_chunks_mut::<R>();
    let (whole, rest) = to.split_at_mut(k.len() / 4 * 4);
    for (i, to) in whole.chunks_exact_mut(4).enumerate() {
        let fours: [[f32; 4]; R] = std::array::from_fn(|row| fours[row][i]);
        for (j, to) in to.iter_mut().enumerate() {
            *to = std::array::from_fn(|row| fours[row][j]);
        }
    }
    for (i, to) in rest.iter_mut().enumerate() {
        *to = std::array::from_fn(|row| rows[row][k.len() / 4 * 4 + i]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ThreadOptions, Tier};

    proptest! {
        #[test]
        fn every_value_is_where_the_kernels_look_for_it(
            rows in 1usize..130,
            k in prop_oneof![1usize..20, 250usize..600],
            threads in 1usize..3,
        ) {
            let workers = Workers::new(&ThreadOptions::new().with_threads(threads)).unwrap();
            let x: Vec<f32> = (0..rows * k).map(|i| i as f32).collect();
            for tier in Tier::ALL {
                let Some(kernels) = tier.kernels() else { continue };
                let packed = PackedRows::new(kernels, &workers, &x, k);
                let (tiles, depths) = (packed.tiles, packed.depths);
                for part in 0..depths.parts {
                    let values = packed.part(part);
                    let (from, end) = (depths.start(part), depths.start(part + 1));
                    for tile in 0..tiles.parts {
                        let (row, end_row) = (tiles.start(tile), tiles.start(tile + 1));
                        for (r, i) in (row..end_row).flat_map(|r| (from..end).map(move |i| (r, i))) {
                            let at = row * (end - from) + (i - from) * (end_row - row) + r - row;
                            prop_assert_eq!(values[at], x[r * k + i]);
                        }
                    }
                }
            }
        }
    }
}
