//! What packed weights stand for, as f32: products that training takes, in both
//! directions, and rows.

use std::ops::Range;

use inference_core::Result;

use crate::activations::Activations;
use crate::dense_tiles::{PanelTiles, TiledProduct};
use crate::dense_transposed::Transposed;
use crate::kernels::packed::FEATURES;
use crate::kernels::{Kernels, PANEL};
use crate::linear::compute_all;
use crate::packed_weight::PackedWeight;
use crate::workers::Workers;

/// Elements of a weight that are decoded at a time for the way back.
const DECODE_BLOCK: usize = 1 << 21;

/// Decoding a value, in multiply-adds.
const DECODE_WORK: usize = 4;

// Decoded panels are what dense products take.
const _: () = assert!(PANEL == FEATURES);

/// Writes a panel, `[k, PANEL]`: all of `out`.
fn decode_panel(weight: &PackedWeight, panel: usize, out: &mut [f32]) {
    assert!(
        out.len() == weight.in_features() * PANEL && panel < weight.panels(),
        "the caller cuts panels"
    );
    // SAFETY: the kernels are for this CPU, checked where they were chosen; a
    // panel has as many blocks, and `out` is as long as they are.
    unsafe { (weight.kernels.decode)(weight.panel(panel), weight.blocks(), out.as_mut_ptr()) };
}

/// Rows from `first` on over all of `out`, whole rows that exist.
pub(crate) fn decode_rows(weight: &PackedWeight, first: usize, out: &mut [f32]) {
    let k = weight.in_features();
    let mut panel = vec![0.0; k * PANEL];
    let mut decoded = None;
    for (row, out) in (first..).zip(out.chunks_exact_mut(k.max(1))) {
        if decoded != Some(row / PANEL) {
            decode_panel(weight, row / PANEL, &mut panel);
            decoded = Some(row / PANEL);
        }
        let values = panel.iter().skip(row % PANEL).step_by(PANEL);
        out.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
    }
}

/// `x · Wᵀ + b` with activations that are not rounded; shapes are checked.
pub(crate) fn forward_exact(
    (kernels, workers): (&Kernels, &Workers),
    weight: &PackedWeight,
    bias: Option<&[f32]>,
    x: &Activations<'_>,
    out: &mut [f32],
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let packed = x.packed(kernels, workers);
    let features = weight.out_features();
    let with = (kernels, workers);
    let product = TiledProduct::new(with, packed, DecodedPanels(weight), bias, features, out);
    compute_all(workers, &[product.pieces()])
}

/// `gradient · W` over all of `out`, some rows of the weight after the other;
/// shapes are checked.
pub(crate) fn input_gradient(
    (kernels, workers): (&'static Kernels, &Workers),
    weight: &PackedWeight,
    gradient: &Activations<'_>,
    out: &mut [f32],
) -> Result<()> {
    let (k, n) = (weight.in_features(), weight.out_features());
    out.fill(0.0);
    if out.is_empty() || n == 0 {
        return Ok(());
    }
    let rows = gradient.rows();
    let panel = k * PANEL;
    let most = (DECODE_BLOCK / panel).clamp(1, weight.panels());
    let mut decoded = vec![0.0; most * panel];
    let mut part = vec![0.0; if most < weight.panels() { out.len() } else { 0 }];
    let mut columns = Vec::new();
    for first in (0..weight.panels()).step_by(most) {
        let panels = most.min(weight.panels() - first);
        let decoded = decoded.get_mut(..panels * panel).unwrap_or_default();
        let work = decoded.len() * DECODE_WORK;
        workers.for_each_chunk(decoded, panel, work, |index, to| {
            decode_panel(weight, first + index, to);
        });
        let from = first * PANEL..((first + panels) * PANEL).min(n);
        let w = Transposed { kernels, w: decoded, k };
        if from.len() == n {
            let x = gradient.packed(kernels, workers);
            let product = TiledProduct::new((kernels, workers), x, w, None, k, out);
            compute_all(workers, &[product.pieces()])?;
            continue;
        }
        columns.clear();
        for row in gradient.values().chunks_exact(n) {
            columns.extend_from_slice(row.get(from.clone()).unwrap_or_default());
        }
        debug_assert_eq!(columns.len(), rows * from.len());
        let x = Activations::new(&columns, from.len());
        let x = x.packed(kernels, workers);
        let product = TiledProduct::new((kernels, workers), x, w, None, k, &mut part);
        compute_all(workers, &[product.pieces()])?;
        out.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
    }
    Ok(())
}

/// Panels, decoded by the task that needs them.
struct DecodedPanels<'a>(&'a PackedWeight);

impl PanelTiles for DecodedPanels<'_> {
    fn decoded_len(&self) -> usize {
        self.0.in_features() * PANEL
    }

    fn decode(&self, panels: Range<usize>, to: &mut [f32]) -> Result<()> {
        for (panel, to) in panels.zip(to.chunks_exact_mut(self.decoded_len().max(1))) {
            decode_panel(self.0, panel, to);
        }
        Ok(())
    }

    fn tiles<'a>(
        &'a self,
        _: Range<usize>,
        k: Range<usize>,
        decoded: &'a [f32],
        _: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        (decoded.get(k.start * PANEL..).unwrap_or_default(), self.decoded_len())
    }
}
