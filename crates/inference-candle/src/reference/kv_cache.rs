//! A KV pool of Candle tensors.

use std::any::Any;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use half::{bf16, f16};
use inference_core::{Error, KvDtype, Result};
use inference_engine::{BlockId, StepSequence};

use super::context;
use crate::{KvCache, KvLayout};

/// A KV pool: per layer one tensor of keys and one of values,
/// `[slots, kv_heads, head_dim]`.
#[derive(Debug)]
pub struct ReferenceKvCache {
    layout: KvLayout,
    layers: Vec<(Tensor, Tensor)>,
}

/// A KV pool on `device`.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported) for
/// [`KvDtype::Q8_0`], [`ErrorKind::Exhausted`](inference_core::ErrorKind::Exhausted)
/// where memory does not suffice.
pub fn kv_cache(device: &Device, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
    ReferenceKvCache::new(device, layout).map(|cache| Box::new(cache) as Box<dyn KvCache>)
}

impl ReferenceKvCache {
    /// A KV pool on `device`, as [`kv_cache`] makes it.
    ///
    /// # Errors
    ///
    /// As [`kv_cache`].
    pub fn new(device: &Device, layout: &KvLayout) -> Result<Self> {
        let dtype = match layout.dtype {
            KvDtype::F32 => DType::F32,
            KvDtype::F16 => DType::F16,
            KvDtype::Bf16 => DType::BF16,
            _ => return Err(Error::unsupported("the reference KV cache", "kv_dtype q8_0")),
        };
        let shape = [layout.slots(), layout.num_kv_heads, layout.head_dim];
        let bytes = [2 * layout.num_layers, dtype.size_in_bytes()]
            .iter()
            .chain(&shape)
            .try_fold(1_usize, |n, dim| n.checked_mul(*dim));
        let exhausted = || Error::Exhausted {
            resource: "memory for the KV pool, bytes".to_owned(),
            needed: bytes.map_or(u64::MAX, |n| n as u64),
            available: 0,
        };
        // Candle aborts where the host's allocator refuses: ask it first.
        let host = device.is_cpu();
        let fits = |bytes: usize| !host || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
        if !bytes.is_some_and(fits) {
            return Err(exhausted());
        }
        let zeros = || Tensor::zeros(&shape[..], dtype, device);
        let layers = (0..layout.num_layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<CandleResult<_>>()
            .map_err(context("allocating the KV pool"))?;
        Ok(Self { layout: layout.clone(), layers })
    }

    /// Stores keys and values, each `[len, kv_heads, head_dim]`, of the tokens
    /// of `sequence` in this step.
    pub(super) fn write(
        &self,
        layer: usize,
        sequence: &StepSequence,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<()> {
        let (keys, values) = self.layer(layer)?;
        let block_size = self.layout.block_size;
        let mut done = 0;
        while done < sequence.len {
            let position = sequence.position + done;
            let run = (block_size - position % block_size).min(sequence.len - done);
            let slot = self.slot(sequence, position)?;
            let store = |pool: &Tensor, new: &Tensor| -> CandleResult<()> {
                let new = new.narrow(0, done, run)?.to_dtype(pool.dtype())?.contiguous()?;
                pool.slice_set(&new.detach(), 0, slot)
            };
            store(keys, k).and_then(|()| store(values, v)).map_err(context("storing KV"))?;
            done += run;
        }
        Ok(())
    }

    /// Keys and values of the positions `from..to` of `sequence`, widened to
    /// f32, `[to - from, kv_heads, head_dim]`.
    pub(super) fn read(
        &self,
        layer: usize,
        sequence: &StepSequence,
        from: usize,
        to: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (keys, values) = self.layer(layer)?;
        let slots = (from..to)
            .map(|position| self.slot(sequence, position).map(|slot| slot as u32))
            .collect::<Result<Vec<u32>>>()?;
        let gather = || -> CandleResult<(Tensor, Tensor)> {
            let slots = Tensor::new(slots.as_slice(), keys.device())?;
            let read = |pool: &Tensor| pool.index_select(&slots, 0)?.to_dtype(DType::F32);
            Ok((read(keys)?, read(values)?))
        };
        gather().map_err(context("gathering KV"))
    }

    fn first_slot(&self, block: BlockId) -> usize {
        block as usize * self.layout.block_size
    }

    fn layer(&self, layer: usize) -> Result<&(Tensor, Tensor)> {
        let message = || format!("KV layer {layer} of {}", self.layers.len());
        self.layers.get(layer).ok_or_else(|| Error::engine_message(message()))
    }

    fn slot(&self, sequence: &StepSequence, position: usize) -> Result<usize> {
        let block_size = self.layout.block_size;
        let block = sequence.block_table.get(position / block_size).map(|block| *block as usize);
        match block.filter(|block| *block < self.layout.num_blocks) {
            Some(block) => Ok(block * block_size + position % block_size),
            None => Err(Error::engine_message(format!(
                "position {position} lies in block {block:?} of a pool of {}",
                self.layout.num_blocks
            ))),
        }
    }
}

impl KvCache for ReferenceKvCache {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        self.layout.check_block(from, len)?;
        self.layout.check_block(to, len)?;
        if len == 0 || from == to {
            return Ok(());
        }
        let (from, to) = (self.first_slot(from), self.first_slot(to));
        for pool in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            // A tensor cannot be set from a view of itself.
            pool.narrow(0, from, len)
                .and_then(|positions| pool.slice_set(&positions.copy()?, 0, to))
                .map_err(context("copying KV"))?;
        }
        Ok(())
    }

    fn read_block(&self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        self.layout.check_block(block, len)?;
        let first = self.first_slot(block);
        let read = |pool: &Tensor| to_bytes(&pool.narrow(0, first, len)?);
        let pools = self.layers.iter().flat_map(|(keys, values)| [keys, values]);
        let pools: Vec<Vec<u8>> =
            pools.map(read).collect::<CandleResult<_>>().map_err(context("reading KV"))?;
        // From one pool after the other to one position after the other.
        let mut bytes = Vec::with_capacity(pools.iter().map(Vec::len).sum());
        for position in 0..len {
            for pool in &pools {
                let size = pool.len() / len;
                bytes.extend_from_slice(&pool[position * size..(position + 1) * size]);
            }
        }
        Ok(bytes)
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        self.layout.check_write(block, len, bytes)?;
        let first = self.first_slot(block);
        let size =
            usize::try_from(self.layout.head_bytes()).unwrap_or(0) * self.layout.num_kv_heads;
        let pools = self.layers.iter().flat_map(|(keys, values)| [keys, values]);
        if len == 0 || size == 0 {
            return Ok(());
        }
        let positions = bytes.chunks_exact(bytes.len() / len);
        for (index, pool) in pools.enumerate() {
            let own: Vec<u8> = positions
                .clone()
                .flat_map(|position| &position[index * size..(index + 1) * size])
                .copied()
                .collect();
            let shape = [len, self.layout.num_kv_heads, self.layout.head_dim];
            from_bytes(&own, pool.dtype(), &shape, pool.device())
                .and_then(|new| pool.slice_set(&new, 0, first))
                .map_err(context("writing KV"))?;
        }
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The elements of a tensor of a stored type, in the byte order of the host.
fn to_bytes(tensor: &Tensor) -> CandleResult<Vec<u8>> {
    let tensor = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => tensor.to_vec1::<f32>()?.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        DType::F16 => tensor.to_vec1::<f16>()?.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        DType::BF16 => tensor.to_vec1::<bf16>()?.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        other => candle_core::bail!("keys and values of type {other:?}"),
    })
}

/// The inverse of [`to_bytes`].
fn from_bytes(
    bytes: &[u8],
    dtype: DType,
    shape: &[usize],
    device: &Device,
) -> CandleResult<Tensor> {
    Tensor::from_raw_buffer(bytes, dtype, shape, device)
}
