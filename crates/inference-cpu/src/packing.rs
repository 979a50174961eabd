//! Packing weights in slices: while a slice goes into panels, the pages that
//! the slices before it came from are back with the operating system, so that
//! also the largest tensor is in memory once.

use inference_candle::Weight;
use inference_core::Result;

use crate::weight_memory::Allocation;
use crate::workers::Workers;

/// Bytes of panels that are packed before the pages that they came from are
/// given back: enough for all threads, and few beside a model.
const SLICE: usize = 16 << 20;

/// Fills memory with panels of `panel_rows` rows of a weight (the last one may
/// have fewer), `panel_bytes` each, in parallel; `pack` writes over all of the
/// panel of an index. Gives the pages of the weight back.
///
/// # Errors
///
/// Where the weight has fewer rows than its shape says.
pub(crate) fn pack_panels(
    workers: &Workers,
    weight: &Weight,
    memory: &mut Allocation,
    panel_rows: usize,
    panel_bytes: usize,
    pack: impl Fn(usize, &mut [u8]) + Sync + Send,
) -> Result<()> {
    let rows = weight.rows();
    let per_slice = (SLICE / panel_bytes.max(1)).max(1);
    let slices = memory.bytes_mut().chunks_mut((per_slice * panel_bytes).max(1));
    for (slice, to) in slices.enumerate() {
        let first = slice * per_slice;
        let work = to.len();
        let mut panels: Vec<_> = to.chunks_exact_mut(panel_bytes).enumerate().collect();
        workers.for_each_mut(&mut panels, work, |(index, panel)| pack(first + *index, panel));
        let end = (first + panels.len()) * panel_rows;
        weight.narrow_rows(first * panel_rows..end.min(rows))?.release_pages();
    }
    Ok(())
}
