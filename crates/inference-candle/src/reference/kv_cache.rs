//! A KV pool of Candle tensors.

use std::any::Any;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use inference_core::{Error, KvDtype, Result};
use inference_engine::{BlockId, StepSequence};

use super::context;
use super::kv_plane::Plane;
use crate::{KvCache, KvLayout};

/// A KV pool of Candle tensors, for each layer of keys and of values.
#[derive(Debug)]
pub struct ReferenceKvCache {
    layout: KvLayout,
    device: Device,
    layers: Vec<(Plane, Plane)>,
}

/// A KV pool on `device`.
///
/// # Errors
///
/// As [`KvLayout::validate`], and
/// [`ErrorKind::Exhausted`](inference_core::ErrorKind::Exhausted) where memory
/// does not suffice.
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
        layout.validate()?;
        let shape = [layout.slots(), layout.num_kv_heads, layout.head_dim];
        let bytes = layout.block_bytes().checked_mul(layout.num_blocks as u64);
        let exhausted = || Error::Exhausted {
            resource: "memory for the KV pool, bytes".to_owned(),
            needed: bytes.unwrap_or(u64::MAX),
            available: 0,
        };
        // Candle aborts where the host's allocator refuses: ask it first.
        let host = device.is_cpu();
        let fits = |bytes: usize| !host || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
        if !bytes.and_then(|bytes| usize::try_from(bytes).ok()).is_some_and(fits) {
            return Err(exhausted());
        }
        let zeros = || match layout.dtype {
            KvDtype::F32 => Plane::dense(shape, DType::F32, device),
            KvDtype::F16 => Plane::dense(shape, DType::F16, device),
            KvDtype::Bf16 => Plane::dense(shape, DType::BF16, device),
            KvDtype::Q8_0 => Plane::q8(shape, device),
            other => candle_core::bail!("a KV pool of type {other}"),
        };
        let layers = (0..layout.num_layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<CandleResult<_>>()
            .map_err(context("allocating the KV pool"))?;
        Ok(Self { layout: layout.clone(), device: device.clone(), layers })
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
            let store = |plane: &Plane, new: &Tensor| plane.set(&new.narrow(0, done, run)?, slot);
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
            let slots = Tensor::new(slots.as_slice(), &self.device)?;
            Ok((keys.get(&slots)?, values.get(&slots)?))
        };
        gather().map_err(context("gathering KV"))
    }

    /// Keys and values of each layer.
    fn planes(&self) -> impl Iterator<Item = &Plane> {
        self.layers.iter().flat_map(|(keys, values)| [keys, values])
    }

    fn first_slot(&self, block: BlockId) -> usize {
        block as usize * self.layout.block_size
    }

    fn layer(&self, layer: usize) -> Result<&(Plane, Plane)> {
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
        self.planes().try_for_each(|plane| plane.copy(from, to, len)).map_err(context("copying KV"))
    }

    fn read_block(&self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        self.layout.check_block(block, len)?;
        let first = self.first_slot(block);
        let planes: Vec<Vec<u8>> = self
            .planes()
            .map(|plane| plane.to_bytes(first, len))
            .collect::<CandleResult<_>>()
            .map_err(context("reading KV"))?;
        // From one plane after the other to one position after the other.
        let mut bytes = Vec::with_capacity(planes.iter().map(Vec::len).sum());
        for position in 0..len {
            for plane in &planes {
                let size = plane.len() / len;
                bytes.extend_from_slice(&plane[position * size..(position + 1) * size]);
            }
        }
        Ok(bytes)
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        self.layout.check_write(block, len, bytes)?;
        let first = self.first_slot(block);
        let size =
            usize::try_from(self.layout.head_bytes()).unwrap_or(0) * self.layout.num_kv_heads;
        if len == 0 || size == 0 {
            return Ok(());
        }
        let positions = bytes.chunks_exact(bytes.len() / len);
        for (index, plane) in self.planes().enumerate() {
            let own: Vec<u8> = positions
                .clone()
                .flat_map(|position| &position[index * size..(index + 1) * size])
                .copied()
                .collect();
            plane.set_bytes(&own, first, len).map_err(context("writing KV"))?;
        }
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
