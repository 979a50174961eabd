//! The pool of keys and values.

use std::alloc::{Layout, alloc_zeroed};
use std::any::Any;
use std::fmt;
use std::ops::Range;

use half::{bf16, f16};
use inference_candle::{KvCache, KvLayout};
use inference_core::{Error, KvDtype, Result};
use inference_engine::BlockId;

use crate::kernels::{Q8Block, Stored};

/// Keys and values as `[layer, block, kv_head, slot, head_dim]`, one
/// allocation each: the keys of one head in one block follow each other.
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
    pub(crate) keys: Vec<T>,
    pub(crate) values: Vec<T>,
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
        Ok(Self { keys: zeros(items)?, values: zeros(items)? })
    }
}

impl<T: Stored> Pool<T> {
    /// The items of `len` positions of a block, in the order of the format
    /// outside of the pool: runs of one head at one position.
    fn runs(
        layout: &KvLayout,
        block: usize,
        len: usize,
    ) -> impl Iterator<Item = (bool, Range<usize>)> {
        let &KvLayout { num_layers, num_kv_heads, head_dim, .. } = layout;
        let items = head_dim / T::VALUES;
        (0..len).flat_map(move |slot| {
            (0..num_layers).flat_map(move |layer| {
                let first = move |head| LayerBlocks { layout, layer }.head::<T>(block, head);
                [true, false].into_iter().flat_map(move |keys| {
                    (0..num_kv_heads).map(move |head| {
                        let start = first(head) + slot * items;
                        (keys, start..start + items)
                    })
                })
            })
        })
    }

    fn read(&self, layout: &KvLayout, block: usize, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (keys, range) in Self::runs(layout, block, len) {
            let pool = if keys { &self.keys } else { &self.values };
            let run = pool.get(range).ok_or_else(outside)?;
            bytes.extend_from_slice(bytemuck::cast_slice(run));
        }
        Ok(bytes)
    }

    fn write(&mut self, layout: &KvLayout, block: usize, len: usize, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for (keys, range) in Self::runs(layout, block, len) {
            let pool = if keys { &mut self.keys } else { &mut self.values };
            let run: &mut [u8] = bytemuck::cast_slice_mut(pool.get_mut(range).ok_or_else(outside)?);
            let (new, after) = rest.split_at_checked(run.len()).ok_or_else(outside)?;
            run.copy_from_slice(new);
            rest = after;
        }
        Ok(())
    }
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
    /// The index of the first item of a head's first slot in a block.
    pub(crate) fn head<T: Stored>(&self, block: usize, head: usize) -> usize {
        let KvLayout { num_kv_heads, head_dim, block_size, num_blocks, .. } = *self.layout;
        let items = block_size * (head_dim / T::VALUES);
        ((self.layer * num_blocks + block) * num_kv_heads + head) * items
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

/// `len` zeros, or an error where the allocator refuses. Fresh zero pages of
/// the operating system are not touched.
fn zeros<T: Stored>(len: usize) -> Result<Vec<T>> {
    let bytes = len.saturating_mul(size_of::<T>());
    let layout = Layout::array::<T>(len).map_err(|_| exhausted(bytes))?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout's size is not zero.
    let data = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if data.is_null() {
        return Err(exhausted(bytes));
    }
    // SAFETY: allocated by the global allocator with the layout of `len`
    // elements; zero bytes are a valid `T`, because it is `Pod`.
    Ok(unsafe { Vec::from_raw_parts(data, len, len) })
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
        assert_eq!(pool.keys.len(), 2 * 3 * 2 * 8 * 4);
        assert!(pool.keys.iter().chain(&pool.values).all(|v| v.to_bits() == 0));
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
