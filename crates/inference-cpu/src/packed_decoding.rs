//! What packed weights stand for, as f32.

use crate::activations::Activations;
use crate::kernels::packed::FEATURES;
use crate::kernels::{Kernels, PackedArgs};
use crate::packed_weight::PackedWeight;
use crate::workers::Workers;

/// Rows from `first` on over all of `out`, whole rows that exist: products of
/// blocks with the identity, whose one at 8 bits is 127 · (1 / 127). Values are
/// within some units in the last place of those of the source.
pub(crate) fn decode_rows(
    table: &Kernels,
    workers: &Workers,
    weight: &PackedWeight,
    first: usize,
    out: &mut [f32],
) {
    let (k, values) = (weight.in_features(), weight.kernels.values);
    let mut identity = vec![0.0; values * values];
    identity.iter_mut().step_by(values + 1).for_each(|one| *one = 1.0);
    let identity = Activations::new(&identity, values);
    let x = identity.quantized(weight.chunks(), table, workers);
    let mut products = vec![0.0; values * FEATURES];
    let last = first + out.len() / k.max(1);
    for panel in first / FEATURES..last.div_ceil(FEATURES) {
        let rows = (panel * FEATURES).max(first)..((panel + 1) * FEATURES).min(last);
        for block in 0..weight.blocks() {
            let args = PackedArgs {
                x,
                x_rows: values,
                rows: values,
                w: weight.panel(panel).wrapping_add(block * weight.kernels.block_bytes()),
                panels: 1,
                blocks: 1,
                features: FEATURES.min(weight.out_features() - panel * FEATURES),
                bias: std::ptr::null(),
                out: products.as_mut_ptr(),
                out_stride: FEATURES,
            };
            // SAFETY: the table is for this CPU, checked where it was chosen;
            // the block is one of the panel's, the activations are as many rows
            // as it has values, and the output is `[values, FEATURES]`.
            unsafe { (weight.kernels.many)(&args) };
            for row in rows.clone() {
                let lane = products.iter().skip(row % FEATURES).step_by(FEATURES);
                let from = (row - first) * k + block * values;
                let to = out.get_mut(from..from + values).unwrap_or_default();
                to.iter_mut().zip(lane).for_each(|(to, value)| *to = *value);
            }
        }
    }
}
