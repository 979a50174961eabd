//! The pool of keys and values.

use std::alloc::{Layout, alloc_zeroed};
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};

use half::{bf16, f16};
use inference_candle::{KvCache, KvLayout};
use inference_core::{Error, KvDtype, Result};
use inference_engine::BlockId;

use crate::kernels::{Q8Block, STRIP, Stored};

/// Keys and values as `[layer, kv_head, block]`, one allocation each, so that
/// the blocks of one head follow each other as their numbers do. In a block,
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

/// Slots in one tile of keys: what kernels compute side by side, or where blocks
/// do not consist of those the whole block.
pub(crate) fn key_tile(layout: &KvLayout) -> usize {
    if layout.block_size.is_multiple_of(STRIP) { STRIP } else { layout.block_size }
}

impl CpuKvCache {
    /// A pool of zeros. Its pages are committed when they are first written.
    pub(crate) fn new(layout: &KvLayout) -> Result<Self> {
        layout.validate()?;
        let values = [
            layout.num_layers,
            layout.num_blocks,
            layout.num_kv_heads,
            layout.block_size,
            layout.head_dim,
        ]
        .iter()
        .try_fold(1usize, |product, n| product.checked_mul(*n))
        .ok_or_else(|| exhausted(usize::MAX))?;
        let pools = match layout.dtype {
            KvDtype::F32 => Pools::F32(Pool::new(values)?),
            KvDtype::F16 => Pools::F16(Pool::new(values)?),
            KvDtype::Bf16 => Pools::Bf16(Pool::new(values)?),
            KvDtype::Q8_0 => Pools::Q8(Pool::new(values)?),
            other => {
                return Err(Error::unsupported("the backend `cpu`", format!("kv_dtype = {other}")));
            }
        };
        Ok(Self { layout: layout.clone(), pools })
    }
}

impl<T: Stored> Pool<T> {
    fn new(values: usize) -> Result<Self> {
        let items = values / T::VALUES;
        Ok(Self { keys: Zeros::new(items)?, values: Zeros::new(items)? })
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
        let KvLayout { num_kv_heads, num_blocks, .. } = *self.layout;
        ((self.layer * num_kv_heads + head) * num_blocks + block) * self.items::<T>()
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

/// Bytes of a cache line, at which a pool begins.
const LINE: usize = 64;

/// Zeros whose pages the operating system commits when they are first written.
pub(crate) struct Zeros<T> {
    memory: Vec<T>,
    /// Items before the first cache line.
    start: usize,
}

impl<T: Stored> Zeros<T> {
    /// `len` zeros, or an error where the allocator refuses.
    fn new(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        // An alignment of a line would have the allocator clear every page.
        let spare = if LINE.is_multiple_of(size_of::<T>()) { LINE / size_of::<T>() } else { 0 };
        let items = len.saturating_add(if len == 0 { 0 } else { spare });
        let layout = Layout::array::<T>(items).map_err(|_| exhausted(bytes))?;
        if layout.size() == 0 {
            return Ok(Self { memory: Vec::new(), start: 0 });
        }
        // SAFETY: the layout's size is not zero.
        let data = unsafe { alloc_zeroed(layout) }.cast::<T>();
        if data.is_null() {
            return Err(exhausted(bytes));
        }
        // SAFETY: allocated by the global allocator with the layout of `items`
        // elements; zero bytes are a valid `T`, because it is `Pod`.
        let memory = unsafe { Vec::from_raw_parts(data, items, items) };
        let start = if spare == 0 { 0 } else { data.align_offset(LINE).min(spare) };
        Ok(Self { memory, start })
    }
}

impl<T> Deref for Zeros<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.get(self.start..).unwrap_or_default()
    }
}

impl<T> DerefMut for Zeros<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use inference_core::ErrorKind;

    use super::*;

    fn layout(dtype: KvDtype, num_blocks: usize) -> KvLayout {
        KvLayout { num_layers: 2, num_kv_heads: 2, head_dim: 8, block_size: 4, num_blocks, dtype }
    }

    #[test]
    fn pools_are_zero_and_as_large_as_the_layout_says() {
        let cache = CpuKvCache::new(&layout(KvDtype::F16, 3)).unwrap();
        let Pools::F16(pool) = &cache.pools else { panic!("wrong type") };
        assert!(pool.keys.len() >= 2 * 3 * 2 * 8 * 4);
        assert_eq!(pool.keys.as_ptr().align_offset(LINE), 0);
        assert!(pool.keys.iter().chain(&*pool.values).all(|v| v.to_bits() == 0));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let error = CpuKvCache::new(&layout(KvDtype::Q8_0, 3)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        for num_blocks in [usize::MAX / 8, usize::MAX / 4096] {
            let error = CpuKvCache::new(&layout(KvDtype::F32, num_blocks)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted);
        }
    }
}
