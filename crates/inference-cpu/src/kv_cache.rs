//! The pool of keys and values.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use half::{bf16, f16};
use inference_candle::{KvCache, KvLayout};
use inference_core::{Error, KvDtype, Result};
use inference_engine::BlockId;

use crate::kernels::{Q8Block, STRIP, Stored};
use crate::weight_memory::Allocation;
use crate::workers::Workers;

/// Keys and values as `[group, layer, kv_head, block of the group]`, one mapping
/// each. The blocks of one head follow each other as their numbers do, as many
/// as it takes to stream; and a group has [`GROUP_POSITIONS`] of all layers, so
/// that few positions touch few pages, also where those are huge. In a block,
/// values are `[slot, head_dim]`; keys are `[tile, head_dim, slot of the tile]`
/// with tiles of [`key_tile`] slots.
pub(crate) struct CpuKvCache {
    layout: KvLayout,
    pub(crate) pools: Pools,
}

/// Keys and values, by stored type.
pub(crate) enum Pools {
    F32(Pool<f32>),
    F16(Pool<f16>),
    Bf16(Pool<bf16>),
    Q8(Pool<Q8Block>),
}

/// Keys and values of one type.
pub(crate) struct Pool<T> {
    pub(crate) keys: Zeros<T>,
    pub(crate) values: Zeros<T>,
}

/// Positions of a group of blocks.
const GROUP_POSITIONS: usize = 256;

/// Bytes of keys, and of values, whose pages are committed at once: what the
/// first requests write, which would wait for the operating system.
const COMMITTED: usize = 1 << 24;

/// Bytes that a thread commits at a time: a huge page.
const COMMIT: usize = 1 << 21;

/// Bytes of the smallest page.
const PAGE: usize = 1 << 12;

/// Blocks of a group.
fn group_blocks(layout: &KvLayout) -> usize {
    (GROUP_POSITIONS / layout.block_size.max(1)).max(1)
}

/// Slots in one tile of keys: what kernels compute side by side, or where blocks
/// do not consist of those the whole block.
pub(crate) fn key_tile(layout: &KvLayout) -> usize {
    if layout.block_size.is_multiple_of(STRIP) { STRIP } else { layout.block_size }
}

impl CpuKvCache {
    /// A pool of zeros. All but its first pages are committed when they are first
    /// written.
    pub(crate) fn new(layout: &KvLayout, workers: &Workers) -> Result<Self> {
        layout.validate()?;
        let values = [
            layout.num_layers,
            layout.num_blocks.div_ceil(group_blocks(layout)),
            group_blocks(layout),
            layout.num_kv_heads,
            layout.block_size,
            layout.head_dim,
        ]
        .iter()
        .try_fold(1usize, |product, n| product.checked_mul(*n))
        .ok_or_else(|| exhausted(usize::MAX))?;
        let pools = match layout.dtype {
            KvDtype::F32 => Pools::F32(Pool::new(values, workers)?),
            KvDtype::F16 => Pools::F16(Pool::new(values, workers)?),
            KvDtype::Bf16 => Pools::Bf16(Pool::new(values, workers)?),
            KvDtype::Q8_0 => Pools::Q8(Pool::new(values, workers)?),
            other => {
                return Err(Error::unsupported("the backend `cpu`", format!("kv_dtype = {other}")));
            }
        };
        Ok(Self { layout: layout.clone(), pools })
    }
}

impl<T: Stored> Pool<T> {
    fn new(values: usize, workers: &Workers) -> Result<Self> {
        let items = values / T::VALUES;
        let (mut keys, mut values) = (Zeros::new(items)?, Zeros::new(items)?);
        let mut pages = keys.first_pages();
        pages.extend(values.first_pages());
        workers.for_each_mut(&mut pages, usize::MAX, |page| {
            // Unless it is written, a page is everybody's zeros.
            page.iter_mut().step_by(PAGE).for_each(|byte| *byte = std::hint::black_box(0));
        });
        drop(pages);
        Ok(Self { keys, values })
    }
}

impl<T: Stored> Pool<T> {
    /// Visits the items of `len` positions of a block, in the order of the
    /// format outside of the pool: the heads' keys of one position and layer,
    /// then their values. Keys come as the tile and the slot that they are in.
    fn visit(
        layout: &KvLayout,
        block: usize,
        len: usize,
        mut visit: impl FnMut(Place) -> Result<()>,
    ) -> Result<()> {
        let &KvLayout { num_layers, num_kv_heads, head_dim, .. } = layout;
        let (items, width) = (head_dim / T::VALUES, key_tile(layout));
        for slot in 0..len {
            for layer in 0..num_layers {
                let heads = LayerBlocks { layout, layer };
                for head in 0..num_kv_heads {
                    let tile = heads.head::<T>(block, head) + slot / width * width * items;
                    visit(Place::Key { tile: tile..tile + width * items, slot: slot % width })?;
                }
                for head in 0..num_kv_heads {
                    let row = heads.head::<T>(block, head) + slot * items;
                    visit(Place::Value(row..row + items))?;
                }
            }
        }
        Ok(())
    }

    fn read(&self, layout: &KvLayout, block: usize, len: usize) -> Result<Vec<u8>> {
        let (width, mut bytes) = (key_tile(layout), Vec::new());
        let mut row = vec![T::zeroed(); layout.head_dim / T::VALUES];
        Self::visit(layout, block, len, |place| {
            match place {
                Place::Key { tile, slot } => {
                    let tile = self.keys.get(tile).ok_or_else(outside)?;
                    T::read_key(tile, width, slot, &mut row);
                }
                Place::Value(range) => {
                    row.copy_from_slice(self.values.get(range).ok_or_else(outside)?);
                }
            }
            bytes.extend_from_slice(bytemuck::cast_slice(&row));
            Ok(())
        })?;
        Ok(bytes)
    }

    fn write(&mut self, layout: &KvLayout, block: usize, len: usize, bytes: &[u8]) -> Result<()> {
        let (width, mut rest) = (key_tile(layout), bytes);
        let mut row = vec![T::zeroed(); layout.head_dim / T::VALUES];
        Self::visit(layout, block, len, |place| {
            let to: &mut [u8] = bytemuck::cast_slice_mut(&mut row);
            let (new, after) = rest.split_at_checked(to.len()).ok_or_else(outside)?;
            to.copy_from_slice(new);
            rest = after;
            match place {
                Place::Key { tile, slot } => {
                    let tile = self.keys.get_mut(tile).ok_or_else(outside)?;
                    T::write_key(&row, tile, width, slot);
                }
                Place::Value(range) => {
                    self.values.get_mut(range).ok_or_else(outside)?.copy_from_slice(&row);
                }
            }
            Ok(())
        })
    }
}

/// Where in a pool one head's key or value at one position lies.
enum Place {
    Key { tile: Range<usize>, slot: usize },
    Value(Range<usize>),
}

fn outside() -> Error {
    Error::engine_message("keys and values outside of the KV pool")
}

/// Where in a pool one layer's blocks lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerBlocks<'a> {
    pub(crate) layout: &'a KvLayout,
    pub(crate) layer: usize,
}

impl LayerBlocks<'_> {
    /// The index of the first item of a head in a block.
    pub(crate) fn head<T: Stored>(&self, block: usize, head: usize) -> usize {
        let KvLayout { num_layers, num_kv_heads, .. } = *self.layout;
        let blocks = group_blocks(self.layout);
        let heads = (block / blocks * num_layers + self.layer) * num_kv_heads + head;
        (heads * blocks + block % blocks) * self.items::<T>()
    }

    /// The items of a head in a block.
    pub(crate) fn items<T: Stored>(&self) -> usize {
        self.layout.block_size * (self.layout.head_dim / T::VALUES)
    }
}

impl KvCache for CpuKvCache {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        let bytes = self.read_block(from, len)?;
        self.write_block(to, len, &bytes)
    }

    fn read_block(&self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        self.layout.check_block(block, len)?;
        match &self.pools {
            Pools::F32(pool) => pool.read(&self.layout, block as usize, len),
            Pools::F16(pool) => pool.read(&self.layout, block as usize, len),
            Pools::Bf16(pool) => pool.read(&self.layout, block as usize, len),
            Pools::Q8(pool) => pool.read(&self.layout, block as usize, len),
        }
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        self.layout.check_write(block, len, bytes)?;
        match &mut self.pools {
            Pools::F32(pool) => pool.write(&self.layout, block as usize, len, bytes),
            Pools::F16(pool) => pool.write(&self.layout, block as usize, len, bytes),
            Pools::Bf16(pool) => pool.write(&self.layout, block as usize, len, bytes),
            Pools::Q8(pool) => pool.write(&self.layout, block as usize, len, bytes),
        }
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl fmt::Debug for CpuKvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuKvCache").field("layout", &self.layout).finish_non_exhaustive()
    }
}

fn exhausted(bytes: usize) -> Error {
    Error::Exhausted {
        resource: "memory for the KV cache, in bytes".to_owned(),
        needed: bytes as u64,
        available: 0,
    }
}

/// Zeros whose pages the operating system commits when they are first written.
pub(crate) struct Zeros<T> {
    memory: Allocation,
    items: PhantomData<T>,
}

impl<T: Stored> Zeros<T> {
    /// `len` zeros, or an error where the operating system refuses.
    fn new(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        let memory = Allocation::zeros(bytes).ok_or_else(|| exhausted(bytes))?;
        Ok(Self { memory, items: PhantomData })
    }

    /// The first [`COMMITTED`] bytes, or as many as there are.
    fn first_pages(&mut self) -> Vec<&mut [u8]> {
        self.memory.bytes_mut().chunks_mut(COMMIT).take(COMMITTED / COMMIT).collect()
    }
}

impl<T: Stored> Deref for Zeros<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(self.memory.bytes())
    }
}

impl<T: Stored> DerefMut for Zeros<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.memory.bytes_mut())
    }
}

#[cfg(test)]
mod tests {
    use inference_core::ErrorKind;

    use super::*;

    fn workers() -> Workers {
        Workers::new(&crate::ThreadOptions::new().with_threads(2)).unwrap()
    }

    fn layout(dtype: KvDtype, num_blocks: usize) -> KvLayout {
        KvLayout { num_layers: 2, num_kv_heads: 2, head_dim: 8, block_size: 4, num_blocks, dtype }
    }

    #[test]
    fn pools_are_zero_and_as_large_as_the_layout_says() {
        let cache = CpuKvCache::new(&layout(KvDtype::F16, 3), &workers()).unwrap();
        let Pools::F16(pool) = &cache.pools else { panic!("wrong type") };
        assert!(pool.keys.len() >= 2 * 3 * 2 * 8 * 4);
        assert!(pool.keys.iter().chain(&*pool.values).all(|v| v.to_bits() == 0));
    }

    #[test]
    fn every_head_of_every_block_has_a_place_of_its_own() {
        for num_blocks in [1, 64, 65, 130] {
            let layout = layout(KvDtype::F16, num_blocks);
            let cache = CpuKvCache::new(&layout, &workers()).unwrap();
            let Pools::F16(pool) = &cache.pools else { panic!("wrong type") };
            let mut places = std::collections::HashSet::new();
            for (layer, block) in (0..2).flat_map(|l| (0..num_blocks).map(move |b| (l, b))) {
                let blocks = LayerBlocks { layout: &layout, layer };
                for place in [0, 1].map(|head| blocks.head::<f16>(block, head)) {
                    assert!(place.is_multiple_of(blocks.items::<f16>()) && places.insert(place));
                    assert!(place + blocks.items::<f16>() <= pool.keys.len());
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let error = CpuKvCache::new(&layout(KvDtype::Q8_0, 3), &workers()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        for num_blocks in [usize::MAX / 8, usize::MAX / 4096] {
            let error = CpuKvCache::new(&layout(KvDtype::F32, num_blocks), &workers()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted);
        }
    }
}
