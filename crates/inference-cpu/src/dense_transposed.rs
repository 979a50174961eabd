//! Dense panels the other way: rows of the weight, and products with its
//! transpose.

use std::ops::Range;

use crate::dense_tiles::PanelTiles;
use crate::kernels::{Element, Kernels, PANEL};

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

/// The transpose of panels `[panels, k, PANEL]` of some rows: a map from those
/// rows' features to `k`.
pub(crate) struct Transposed<'a, T> {
    pub(crate) kernels: &'static Kernels,
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
            // Features of the result are columns of the weight, and each of the
            // weight's panels holds 16 rows of them together.
            let columns = panel * PANEL..((panel + 1) * PANEL).min(self.k);
            let mut row = k.start;
            while row < k.end {
                let source = row / PANEL;
                let rows = row..((source + 1) * PANEL).min(k.end);
                let from = &self.w[(source * self.k + columns.start) * PANEL..];
                let mut widened = [0.0f32; PANEL * PANEL];
                let count = columns.len() * PANEL;
                let from = &from[..count];
                // SAFETY: the table is for this CPU, checked where it was chosen;
                // both have `count` elements.
                unsafe {
                    (T::kernels(self.kernels).widen)(from.as_ptr(), count, widened.as_mut_ptr());
                }
                let to = &mut to[(rows.start - k.start) * PANEL..(rows.end - k.start) * PANEL];
                for (row, to) in rows.clone().zip(to.chunks_exact_mut(PANEL)) {
                    // Columns that do not exist are zeros.
                    let values = widened.iter().skip(row % PANEL).step_by(PANEL);
                    to.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
                }
                row = rows.end;
            }
        }
        (scratch, len)
    }
}
