//! The input of affine maps.

use std::fmt;
use std::sync::OnceLock;

use crate::kernels::packed::{CHUNK, Chunk, ChunkKind};
use crate::kernels::{Chunk32, Chunk256, Kernels};
use crate::packed_rows::PackedRows;
use crate::recycled::Recycled;
use crate::workers::Workers;

/// Rows of activations that several maps may share.
///
/// What maps rearrange or quantize them to is computed when it is first asked
/// for.
#[derive(Debug)]
pub(crate) struct Activations<'a> {
    /// `[rows, width]`.
    values: &'a [f32],
    width: usize,
    of32: OnceLock<Chunks<Chunk32>>,
    of256: OnceLock<Chunks<Chunk256>>,
    packed: OnceLock<PackedRows>,
}

impl<'a> Activations<'a> {
    /// Whole rows of `width` values.
    pub(crate) fn new(values: &'a [f32], width: usize) -> Self {
        let (of32, of256, packed) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { values, width, of32, of256, packed }
    }

    /// `[rows, width]`.
    pub(crate) fn values(&self) -> &'a [f32] {
        self.values
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// In tiles for dense products. All callers use the same table of kernels;
    /// there is at least one row, and a width.
    pub(crate) fn packed(&self, kernels: &Kernels, workers: &Workers) -> &PackedRows {
        self.packed.get_or_init(|| PackedRows::new(kernels, workers, self.values, self.width))
    }

    /// The first chunk of the quantized rows, as [`PackedArgs::x`] wants them.
    ///
    /// [`PackedArgs::x`]: crate::kernels::PackedArgs::x
    pub(crate) fn quantized(
        &self,
        kind: ChunkKind,
        kernels: &Kernels,
        workers: &Workers,
    ) -> *const u8 {
        let (values, width) = (self.values, self.width);
        match kind {
            ChunkKind::Of32 => {
                let make = || Chunks::quantize(values, width, kernels.quantize32, workers);
                self.of32.get_or_init(make).chunks.as_ptr().cast()
            }
            ChunkKind::Of256 => {
                let make = || Chunks::quantize(values, width, kernels.quantize256, workers);
                self.of256.get_or_init(make).chunks.as_ptr().cast()
            }
        }
    }
}

/// Quantized rows, `[ceil(width / CHUNK), rows]`.
pub(crate) struct Chunks<C> {
    chunks: Recycled<C>,
    rows: usize,
}

impl<C: Chunk> Chunks<C> {
    /// Quantizes whole rows, in parallel.
    fn quantize(
        values: &[f32],
        width: usize,
        kernel: unsafe fn(&[f32], *mut C, usize),
        workers: &Workers,
    ) -> Self {
        let rows = values.len().checked_div(width).unwrap_or(0);
        let mut chunks = Recycled::new(width.div_ceil(CHUNK) * rows);
        let first = Shared(chunks.as_mut_ptr());
        // Quantizing a value costs several times a multiply-add.
        workers.for_each(rows, values.len() * 4, |row| {
            let values = values.get(row * width..(row + 1) * width).unwrap_or_default();
            // SAFETY: the table that the kernel is of is for this CPU; the
            // chunks of a row lie `rows` apart, and each is written once, whole.
            unsafe { kernel(values, first.at(row), rows) };
        });
        Self { chunks, rows }
    }
}

impl<C> fmt::Debug for Chunks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunks({} rows, {:?})", self.rows, self.chunks)
    }
}

/// The start of chunks that tasks write disjoint rows of.
#[derive(Clone, Copy)]
struct Shared<C>(*mut C);

// SAFETY: the pointer is only handed on; whoever writes through it promises
// that no two threads write the same chunk.
unsafe impl<C: Send> Send for Shared<C> {}
// SAFETY: as above.
unsafe impl<C: Send> Sync for Shared<C> {}

impl<C> Shared<C> {
    fn at(&self, index: usize) -> *mut C {
        self.0.wrapping_add(index)
    }
}
