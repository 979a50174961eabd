//! A KV pool of Candle tensors.

use std::any::Any;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use inference_core::{Error, KvDtype, Result};
use inference_engine::StepSequence;

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

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
