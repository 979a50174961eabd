//! Weights interleaved for the registers, in place of the source's bytes.

use std::fmt;

use inference_candle::{Weight, WeightType};
use inference_core::Result;

use crate::kernels::packed::{ChunkKind, FEATURES};
use crate::kernels::{Chunk32, Chunk256, Kernels, PackedKernels};
use crate::linear::{invalid, matrix};
use crate::packing::pack_panels;
use crate::weight_memory::{Allocation, WeightMemory};
use crate::workers::Workers;

/// A matrix in panels of [`FEATURES`] rows; `kernels::packed` says how.
pub(crate) struct PackedWeight {
    pub(crate) kernels: PackedKernels,
    memory: Allocation,
    in_features: usize,
    out_features: usize,
}

impl PackedWeight {
    /// Packs blocks of a type that `kernels` packs, in parallel, and lets go
    /// of the pages that they were read from.
    ///
    /// # Errors
    ///
    /// `Exhausted` where memory does not suffice, `InvalidModel` for a weight
    /// that is not a matrix of blocks of such a type.
    pub(crate) fn new(
        kernels: &Kernels,
        workers: &Workers,
        memory: &WeightMemory,
        weight: &Weight,
    ) -> Result<Self> {
        let (out_features, in_features) = matrix(weight)?;
        let packed = match weight.kind() {
            WeightType::Blocks(kind) => (kernels.packed)(kind),
            _ => None,
        };
        let (Some(kernels), Some(source)) = (packed, weight.bytes()) else {
            return Err(invalid(weight, "blocks of a type that is packed"));
        };
        let blocks = in_features / kernels.values;
        let panels = out_features.div_ceil(FEATURES);
        let bytes = blocks.saturating_mul(kernels.block_bytes()).saturating_mul(panels);
        let memory = memory.allocate(bytes, weight.name())?;
        let mut this = Self { kernels, memory, in_features, out_features };
        this.pack(weight, source, workers)?;
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
        self.memory.as_ptr().wrapping_add(first * self.panel_bytes())
    }

    /// Packs the rows of the source.
    fn pack(&mut self, weight: &Weight, source: &[u8], workers: &Workers) -> Result<()> {
        let (row, block) = (self.blocks() * self.kernels.source_bytes, self.kernels.source_bytes);
        let pack = self.kernels.pack;
        let nothing = vec![0; block];
        let panel_bytes = self.panel_bytes();
        if panel_bytes == 0 {
            return Ok(());
        }
        pack_panels(workers, weight, &mut self.memory, FEATURES, panel_bytes, |index, panel| {
            let rows: [&[u8]; FEATURES] = std::array::from_fn(|lane| {
                let start = (index * FEATURES + lane) * row;
                source.get(start..start + row).unwrap_or_default()
            });
            for (i, to) in panel.chunks_exact_mut(block * FEATURES).enumerate() {
                let blocks =
                    rows.map(|row| row.get(i * block..(i + 1) * block).unwrap_or(&nothing));
                pack(&blocks, to);
            }
        })
    }
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, k) = (self.out_features, self.in_features);
        write!(f, "PackedWeight([{n}, {k}], {:?})", self.kernels)
    }
}
