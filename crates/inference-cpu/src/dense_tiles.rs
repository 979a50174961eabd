//! Products of many rows with weights that come as widened panels, part by part
//! of k.

use std::cell::RefCell;
use std::ops::Range;

use inference_core::Result;

use crate::kernels::{Kernels, PANEL, TileArgs, TileEnd};
use crate::linear::{Pieces, SharedOut};
use crate::packed_rows::PackedRows;
use crate::workers::Workers;

/// Rows that a task goes through, about: their part of x and their chains stay
/// in the second-level cache while panels pass.
const BLOCK_ROWS: usize = 264;

/// Tiles of them at least.
const BLOCK_TILES: usize = 32;

/// Tasks for each thread, so that all end at about the same time.
const TASKS: usize = 8;

/// Most panels of a task, which read those rows in turn.
const BLOCK_PANELS: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Weights in panels of [`PANEL`] features.
pub(crate) trait PanelTiles: Send + Sync {
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
pub(crate) fn with_scratch<R>(len: usize, task: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let room = len + LINE / size_of::<f32>();
        if scratch.len() < room {
            scratch.resize(room, 0.0);
        }
        let skip = scratch.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        task(&mut scratch[skip..skip + len])
    })
}

/// `x · Wᵀ + b` over all of an output, `[rows, features]`, as tasks.
pub(crate) struct TiledProduct<'a, W> {
    kernels: &'a Kernels,
    x: &'a PackedRows,
    weights: W,
    /// `[features]`.
    bias: Option<&'a [f32]>,
    features: usize,
    out: SharedOut,
    /// Tiles of rows per task, and panels.
    block_tiles: usize,
    group: usize,
    /// Tasks per block of rows.
    groups: usize,
}

impl<'a, W: PanelTiles> TiledProduct<'a, W> {
    /// `out` is `[rows, features]`.
    pub(crate) fn new(
        (kernels, workers): (&'a Kernels, &Workers),
        x: &'a PackedRows,
        weights: W,
        bias: Option<&'a [f32]>,
        features: usize,
        out: &'a mut [f32],
    ) -> Self {
        assert!(
            out.len() == x.tiles.len * features && bias.is_none_or(|bias| bias.len() == features),
            "the caller checks shapes"
        );
        let panels = features.div_ceil(PANEL);
        // What is decoded is decoded once, so a task goes through all rows.
        let decodes = weights.decoded_len() > 0;
        let most_tiles = if decodes { x.tiles.parts } else { BLOCK_ROWS / kernels.tile_rows };
        // Blocks of nearly one size.
        let blocks = x.tiles.parts.div_ceil(most_tiles.max(BLOCK_TILES));
        let block_tiles = x.tiles.parts.div_ceil(blocks.max(1)).max(1);
        let most = if decodes { 1 } else { BLOCK_PANELS };
        let group = (panels * blocks / (workers.threads() * TASKS)).clamp(1, most);
        let group = group.next_multiple_of(kernels.tile_panels);
        let (out, groups) = (SharedOut(out.as_mut_ptr()), panels.div_ceil(group));
        Self { kernels, x, weights, bias, features, out, block_tiles, group, groups }
    }

    /// The tasks as pieces.
    pub(crate) fn pieces(self) -> Pieces<'a>
    where
        W: 'a,
    {
        let count = self.groups * self.x.tiles.parts.div_ceil(self.block_tiles);
        let work = self.x.tiles.len * self.features * self.x.depths.len;
        Pieces { count, work, compute: Box::new(move |task| self.compute(task)) }
    }

    /// Computes one task. Each is to be computed once.
    ///
    /// # Errors
    ///
    /// Those of the weights.
    fn compute(&self, task: usize) -> Result<()> {
        let (tiles, depths) = (self.x.tiles, self.x.depths);
        let (block, group) = (task / self.groups, task % self.groups);
        let first_tile = block * self.block_tiles;
        let end_tile = (first_tile + self.block_tiles).min(tiles.parts);
        let rows = tiles.start(end_tile) - tiles.start(first_tile);
        let first = group * self.group;
        let panels = first..(first + self.group).min(self.features.div_ceil(PANEL));
        let depth = (0..depths.parts).map(|p| depths.start(p + 1) - depths.start(p)).max();
        let widened = self.kernels.tile_panels * depth.unwrap_or(0) * PANEL;
        let each = rows * PANEL + self.weights.decoded_len();
        with_scratch(widened + panels.len() * each, |scratch| {
            let (widened, rest) = scratch.split_at_mut(widened);
            let (chains, decoded) = rest.split_at_mut(panels.len() * rows * PANEL);
            self.panels(first_tile..end_tile, panels, widened, chains, decoded)
        })
    }

    /// The tiles `block` by some panels. `chains` is `[panels, rows, PANEL]`.
    fn panels(
        &self,
        block: Range<usize>,
        panels: Range<usize>,
        widened: &mut [f32],
        chains: &mut [f32],
        decoded: &mut [f32],
    ) -> Result<()> {
        let (kernels, tiles, depths) = (self.kernels, self.x.tiles, self.x.depths);
        let (first, end) = (panels.start, panels.end);
        let first_row = tiles.start(block.start);
        let rows = tiles.start(block.end) - first_row;
        assert_eq!(chains.len(), panels.len() * rows * PANEL, "as much was asked for");
        self.weights.decode(panels, decoded)?;
        for part in 0..depths.parts {
            let (k, last) = (depths.start(part)..depths.start(part + 1), part + 1 == depths.parts);
            let values = self.x.part(part);
            assert_eq!(values.len(), tiles.len * k.len(), "`PackedRows::new` made them");
            for panel in (first..end).step_by(kernels.tile_panels) {
                let some = panel..(panel + kernels.tile_panels).min(end);
                let (count, depth) = (some.len(), k.len());
                let decoded = &decoded[(panel - first) * self.weights.decoded_len()..];
                let (w, w_stride) = self.weights.tiles(some, k.clone(), decoded, widened);
                assert!(
                    w.len() >= (count - 1) * w_stride + depth * PANEL,
                    "panels are as long as they must be"
                );
                let feature = panel * PANEL;
                let bias = self.bias.map_or(std::ptr::null(), |bias| bias[feature..].as_ptr());
                let ends = last.then(|| TileEnd {
                    features: (count * PANEL).min(self.features - feature),
                    bias,
                    out: self.out.at(first_row * self.features + feature),
                    out_stride: self.features,
                });
                let args = TileArgs {
                    x: values.as_ptr(),
                    tiles,
                    first_tile: block.start,
                    end_tile: block.end,
                    w: w.as_ptr(),
                    w_stride,
                    panels: count,
                    depth,
                    chains: chains[(panel - first) * rows * PANEL..].as_mut_ptr(),
                    first: part == 0,
                    end: ends,
                };
                // SAFETY: the table is for this CPU (checked where it was
                // chosen); the extents are those asserted, and chains are
                // `rows * PANEL` for each panel; tiles are of `tile_rows` at
                // most (`PackedRows::new`). The output was checked, and tasks
                // write disjoint rows and features.
                unsafe { (kernels.tiles)(&args) };
            }
        }
        Ok(())
    }
}
