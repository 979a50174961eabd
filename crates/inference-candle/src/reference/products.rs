//! Shared work and products of matrices on the host.

use inference_core::Result;
use rayon::prelude::*;

use crate::MatrixView;

/// Work that is not worth being shared.
const SERIAL_WORK: usize = 1 << 14;

/// Calls `task` with each index below `items`, on rayon's threads where `work`
/// pays for it.
pub fn for_each(items: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
    if items <= 1 || work < SERIAL_WORK {
        (0..items).for_each(task);
    } else {
        (0..items).into_par_iter().for_each(task);
    }
}

/// `a · b` over all of `c`, or, with `add`, added to it.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the shapes
/// do not fit.
pub fn multiply(a: &MatrixView<'_>, b: &MatrixView<'_>, c: &mut [f32], add: bool) -> Result<()> {
    a.check_product(b, c)?;
    if !add {
        c.fill(0.0);
    }
    for (i, row) in c.chunks_exact_mut(b.columns().max(1)).enumerate() {
        for k in 0..a.columns() {
            let factor = a.values().get(i * a.row_stride() + k * a.column_stride());
            let factor = factor.copied().unwrap_or_default();
            let from = b.values().get(k * b.row_stride()..).unwrap_or_default();
            for (to, value) in row.iter_mut().zip(from.iter().step_by(b.column_stride().max(1))) {
                *to += factor * value;
            }
        }
    }
    Ok(())
}
