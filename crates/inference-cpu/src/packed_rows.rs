//! Rows of activations as the register tiles of dense products read them.

use crate::kernels::{Kernels, Split};
use crate::workers::Workers;

/// Most elements of k that a widened panel spans: with a tile of rows it stays
/// in the first-level cache.
const DEPTH: usize = 256;

/// `[rows, k]` part of k by part of k, in each tile of rows by tile of rows, in
/// each `[depth, rows of the tile]`.
#[derive(Debug)]
pub(crate) struct PackedRows {
    values: Vec<f32>,
    /// The rows in tiles.
    pub(crate) tiles: Split,
    /// k in parts.
    pub(crate) depths: Split,
}

impl PackedRows {
    /// `x` is `[rows, k]`; `k` is not 0.
    pub(crate) fn new(kernels: &Kernels, workers: &Workers, x: &[f32], k: usize) -> Self {
        let rows = x.len() / k;
        let tiles = Split::new(rows, kernels.tile_rows);
        let depths = Split::new(k, DEPTH);
        let mut values = vec![0.0; rows * k];
        let mut parts = Vec::with_capacity(depths.parts);
        let mut rest = values.as_mut_slice();
        for part in 0..depths.parts {
            let (from, end) = (depths.start(part), depths.start(part + 1));
            let (packed, after) = rest.split_at_mut((end - from) * rows);
            parts.push((from, end, packed));
            rest = after;
        }
        workers.for_each_mut(&mut parts, x.len(), |(from, end, packed)| {
            let mut rest = &mut **packed;
            for tile in 0..tiles.parts {
                let (row, end_row) = (tiles.start(tile), tiles.start(tile + 1));
                let size = end_row - row;
                let (to, after) = rest.split_at_mut(size * (*end - *from));
                rest = after;
                for r in 0..size {
                    let x = &x[(row + r) * k + *from..(row + r) * k + *end];
                    for (to, x) in to.iter_mut().skip(r).step_by(size).zip(x) {
                        *to = *x;
                    }
                }
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
