//! Weights interleaved for the registers, in place of the source's bytes.

use std::alloc::{Layout, alloc_zeroed};
use std::fmt;

use inference_candle::{Weight, WeightType};
use inference_core::{Error, Result};

use crate::kernels::packed::{ChunkKind, FEATURES};
use crate::kernels::{Chunk32, Chunk256, Kernels, PackedKernels};
use crate::linear::{invalid, matrix};
use crate::workers::Workers;

/// A matrix in panels of [`FEATURES`] rows; `kernels::packed` says how.
pub(crate) struct PackedWeight {
    pub(crate) kernels: PackedKernels,
    /// The panels begin at the first element that is aligned to a cache line.
    memory: Vec<u128>,
    start: usize,
    in_features: usize,
    out_features: usize,
}

/// Elements of a cache line.
const LINE: usize = 64 / size_of::<u128>();

impl PackedWeight {
    /// Packs blocks of a type that `kernels` packs, in parallel, and lets go
    /// of the pages that they were read from.
    ///
    /// # Errors
    ///
    /// `Exhausted` where memory does not suffice, `InvalidModel` for a weight
    /// that is not a matrix of blocks of such a type.
    pub(crate) fn new(kernels: &Kernels, workers: &Workers, weight: &Weight) -> Result<Self> {
        let (out_features, in_features) = matrix(weight)?;
        let packed = match weight.kind() {
            WeightType::Blocks(kind) => (kernels.packed)(kind),
            _ => None,
        };
        let (Some(kernels), Some(source)) = (packed, weight.bytes()) else {
            return Err(invalid(weight, "blocks of a type that is packed"));
        };
        let mut this = Self { kernels, memory: Vec::new(), start: 0, in_features, out_features };
        let bytes = this.panel_bytes().saturating_mul(this.panels());
        this.memory =
            zeros(bytes.div_ceil(size_of::<u128>()).saturating_add(LINE)).ok_or_else(|| {
                let resource = format!("memory for tensor `{}`, in bytes", weight.name());
                Error::exhausted(resource, bytes as u64, 0)
            })?;
        this.start = this.memory.as_ptr().align_offset(64).min(LINE);
        this.pack(source, workers);
        weight.release_pages();
        Ok(this)
    }

    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    /// Which activations it is multiplied with.
    pub(crate) fn chunks(&self) -> ChunkKind {
        self.kernels.chunks
    }

    /// Bytes of a chunk of them.
    pub(crate) fn chunk_bytes(&self) -> usize {
        match self.kernels.chunks {
            ChunkKind::Of32 => size_of::<Chunk32>(),
            ChunkKind::Of256 => size_of::<Chunk256>(),
        }
    }

    /// Blocks along k.
    pub(crate) fn blocks(&self) -> usize {
        self.in_features / self.kernels.values
    }

    pub(crate) fn panels(&self) -> usize {
        self.out_features.div_ceil(FEATURES)
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.blocks() * self.kernels.block_bytes()
    }

    /// The panels from `first` on.
    pub(crate) fn panel(&self, first: usize) -> *const u8 {
        let start = self.memory.as_ptr().wrapping_add(self.start).cast::<u8>();
        start.wrapping_add(first * self.panel_bytes())
    }

    /// Packs the rows of the source.
    fn pack(&mut self, source: &[u8], workers: &Workers) {
        let (row, block) = (self.blocks() * self.kernels.source_bytes, self.kernels.source_bytes);
        let (pack, n) = (self.kernels.pack, self.out_features);
        let nothing = vec![0; block];
        let panel_bytes = self.panel_bytes();
        if panel_bytes == 0 {
            return;
        }
        let memory = self.memory.get_mut(self.start..).unwrap_or_default();
        let panels = bytemuck::cast_slice_mut(memory).chunks_exact_mut(panel_bytes);
        let mut panels: Vec<_> = panels.take(n.div_ceil(FEATURES)).enumerate().collect();
        workers.for_each_mut(&mut panels, source.len(), |(index, panel)| {
            let rows: [&[u8]; FEATURES] = std::array::from_fn(|lane| {
                let start = (*index * FEATURES + lane) * row;
                source.get(start..start + row).unwrap_or_default()
            });
            for (i, to) in panel.chunks_exact_mut(block * FEATURES).enumerate() {
                let blocks =
                    rows.map(|row| row.get(i * block..(i + 1) * block).unwrap_or(&nothing));
                pack(&blocks, to);
            }
        });
    }
}

/// `len` zeros, or `None` where the allocator refuses. Fresh zero pages of the
/// operating system are not touched, so that whoever packs first does, in
/// parallel.
fn zeros(len: usize) -> Option<Vec<u128>> {
    let layout = Layout::array::<u128>(len).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout's size is not zero.
    let data = unsafe { alloc_zeroed(layout) }.cast::<u128>();
    if data.is_null() {
        return None;
    }
    // SAFETY: allocated by the global allocator with the layout of `len`
    // elements, all of them zero.
    Some(unsafe { Vec::from_raw_parts(data, len, len) })
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, k) = (self.out_features, self.in_features);
        write!(f, "PackedWeight([{n}, {k}], {:?})", self.kernels)
    }
}
