//! Products of many rows with weights that come as widened panels, part by part
//! of k.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use inference_core::Result;

use crate::kernels::{Kernels, PANEL, TileArgs};
use crate::linear::SharedOut;
use crate::packed_rows::PackedRows;
use crate::workers::Workers;

/// Tiles of rows that a task goes through: their part of x and their chains
/// stay in the second-level cache while panels pass.
const BLOCK_TILES: usize = 32;

/// Most panels of a task, which read those rows in turn.
const BLOCK_PANELS: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Weights in panels of [`PANEL`] features.
pub(crate) trait PanelTiles: Sync {
    /// Values per panel that a task decodes before it asks for tiles.
    fn decoded_len(&self) -> usize {
        0
    }

    /// Writes them, `decoded_len` for each of `panels`.
    ///
    /// # Errors
    ///
    /// Where the weights cannot be read.
    fn decode(&self, panels: Range<usize>, to: &mut [f32]) -> Result<()> {
        let _ = (panels, to);
        Ok(())
    }

    /// The part `k` of some panels, `[k, PANEL]` each, in place or written to
    /// `scratch`, which has as many elements: the elements, and how many of
    /// them lie between the beginnings of two panels. `decoded` are those of
    /// `panels`.
    fn tiles<'a>(
        &'a self,
        panels: Range<usize>,
        k: Range<usize>,
        decoded: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize);
}

/// Writes the part `k` of a panel of rows `[n, stride]` to `[k, PANEL]`; zeros
/// where there are no more rows.
pub(crate) fn interleave<T: Copy, U: Copy + Default>(
    rows: &[T],
    stride: usize,
    n: usize,
    panel: usize,
    k: Range<usize>,
    convert: impl Fn(T) -> U,
    to: &mut [U],
) {
    /// Elements of a row at a time: what they are written to stays in cache.
    const RUN: usize = 64;
    for (run, to) in to.chunks_mut(RUN * PANEL).enumerate() {
        let from = k.start + run * RUN;
        let len = to.len() / PANEL;
        for lane in 0..PANEL {
            let row = panel * PANEL + lane;
            let to = to.iter_mut().skip(lane).step_by(PANEL);
            if row < n {
                let row = &rows[row * stride + from..row * stride + from + len];
                to.zip(row).for_each(|(to, value)| *to = convert(*value));
            } else {
                to.for_each(|to| *to = U::default());
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `task` with `len` elements that begin at a cache line and hold anything.
fn with_scratch<R>(len: usize, task: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let room = len + LINE / size_of::<f32>();
        if scratch.len() < room {
            scratch.resize(room, 0.0);
        }
        let skip = scratch.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        task(&mut scratch[skip..skip + len])
    })
}

/// `x · Wᵀ + b` over all of `out`, `[rows, features]`.
///
/// # Errors
///
/// Those of `weights`.
pub(crate) fn multiply(
    kernels: &Kernels,
    workers: &Workers,
    x: &PackedRows,
    weights: &dyn PanelTiles,
    bias: Option<&[f32]>,
    features: usize,
    out: &mut [f32],
) -> Result<()> {
    let (tiles, depths) = (x.tiles, x.depths);
    assert!(
        out.len() == tiles.len * features && bias.is_none_or(|bias| bias.len() == features),
        "the caller checks shapes"
    );
    let panels = features.div_ceil(PANEL);
    let decoded_len = weights.decoded_len();
    // What is decoded is decoded once, so a task goes through all rows.
    let block_tiles = if decoded_len > 0 { tiles.parts } else { BLOCK_TILES };
    let blocks = tiles.parts.div_ceil(block_tiles);
    // Some tasks per thread, so that all end at about the same time.
    let most = if decoded_len > 0 { 1 } else { BLOCK_PANELS };
    let group = (panels * blocks / (workers.threads() * 4)).clamp(1, most);
    let group = group.next_multiple_of(kernels.tile_panels);
    let groups = panels.div_ceil(group);
    let depth = (0..depths.parts).map(|p| depths.start(p + 1) - depths.start(p)).max().unwrap_or(0);
    let widened_len = kernels.tile_panels * depth * PANEL;
    let target = SharedOut(out.as_mut_ptr());
    let failed = OnceLock::new();
    // The block of tiles `block` by the panels `first` to `end`.
    let compute = |block: usize, first: usize, end: usize, scratch: &mut [f32]| -> Result<()> {
        let (first_tile, end_tile) =
            (block * block_tiles, ((block + 1) * block_tiles).min(tiles.parts));
        let first_row = tiles.start(first_tile);
        let rows = tiles.start(end_tile) - first_row;
        let (widened, rest) = scratch.split_at_mut(widened_len);
        let (chains, decoded) = rest.split_at_mut((end - first) * rows * PANEL);
        let decoded = &mut decoded[..(end - first) * decoded_len];
        weights.decode(first..end, decoded)?;
        for part in 0..depths.parts {
            let k = depths.start(part)..depths.start(part + 1);
            let values = x.part(part);
            assert_eq!(values.len(), tiles.len * k.len(), "`PackedRows::new` made them");
            for panel in (first..end).step_by(kernels.tile_panels) {
                let some = panel..(panel + kernels.tile_panels).min(end);
                let (count, depth) = (some.len(), k.len());
                let decoded = &decoded[(panel - first) * decoded_len..];
                let (w, w_stride) = weights.tiles(some, k.clone(), decoded, widened);
                assert!(
                    w.len() >= (count - 1) * w_stride + depth * PANEL,
                    "panels are as long as they must be"
                );
                let args = TileArgs {
                    x: values.as_ptr(),
                    tiles,
                    first_tile,
                    end_tile,
                    w: w.as_ptr(),
                    w_stride,
                    panels: count,
                    depth,
                    chains: chains[(panel - first) * rows * PANEL..].as_mut_ptr(),
                    first: part == 0,
                };
                // SAFETY: the table is for this CPU (checked where it was
                // chosen); the extents are those asserted, and chains are
                // `rows * PANEL` for each panel; tiles are of `tile_rows` at
                // most (`PackedRows::new`).
                unsafe { (kernels.tiles)(&args) };
            }
        }
        for panel in first..end {
            let feature = panel * PANEL;
            let count = PANEL.min(features - feature);
            let bias = bias.map_or(std::ptr::null(), |bias| bias[feature..].as_ptr());
            let chains = chains[(panel - first) * rows * PANEL..].as_ptr();
            let out = target.at(first_row * features + feature);
            // SAFETY: as above; tasks write disjoint rows and features.
            unsafe { (kernels.finish)(chains, rows, count, bias, out, features) };
        }
        Ok(())
    };
    let work = tiles.len * features * depths.len;
    let most_rows = (block_tiles * kernels.tile_rows).min(tiles.len);
    workers.for_each(groups * blocks, work, |task| {
        let (block, first) = (task / groups, task % groups * group);
        let end = (first + group).min(panels);
        let len = widened_len + group * (most_rows * PANEL + decoded_len);
        let done = with_scratch(len, |scratch| compute(block, first, end, scratch));
        if let Err(error) = done {
            // Of several errors, any will do.
            let _ = failed.set(error);
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}
