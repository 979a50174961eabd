//! Dense panels the other way: rows of the weight, and products with its
//! transpose.

use std::ops::Range;

use crate::dense_tiles::PanelTiles;
use crate::kernels::{Element, PANEL};

/// Rows from `first` on of panels `[panels, k, PANEL]`, widened, over all of
/// `out`, `[rows, k]`.
pub(crate) fn decode_panels<T: Element>(w: &[T], k: usize, first: usize, out: &mut [f32]) {
    for (index, row) in out.chunks_exact_mut(k.max(1)).enumerate() {
        let feature = first + index;
        let from = feature / PANEL * k * PANEL + feature % PANEL;
        let values = w.get(from..).unwrap_or_default().iter().step_by(PANEL);
        row.iter_mut().zip(values).for_each(|(to, value)| *to = value.widen());
    }
}

/// The transpose of panels `[panels, k, PANEL]` of `n` rows: a map from `n`
/// features to `k`.
pub(crate) struct Transposed<'a, T> {
    pub(crate) w: &'a [T],
    pub(crate) k: usize,
}

impl<T: Element> PanelTiles for Transposed<'_, T> {
    fn tiles<'a>(
        &'a self,
        panels: Range<usize>,
        k: Range<usize>,
        _: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let len = k.len() * PANEL;
        for (panel, to) in panels.zip(scratch.chunks_exact_mut(len)) {
            // Features of the result are columns of the weight.
            let columns = panel * PANEL..((panel + 1) * PANEL).min(self.k);
            for (row, to) in k.clone().zip(to.chunks_exact_mut(PANEL)) {
                let from = row / PANEL * self.k * PANEL + columns.start * PANEL + row % PANEL;
                let values = self.w.get(from..).unwrap_or_default().iter().step_by(PANEL);
                let (some, rest) = to.split_at_mut(columns.len());
                some.iter_mut().zip(values).for_each(|(to, value)| *to = value.widen());
                rest.fill(0.0);
            }
        }
        (scratch, len)
    }
}
