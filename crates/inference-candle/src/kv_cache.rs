//! Keys and values of earlier tokens.

use std::any::Any;
use std::fmt;

use inference_core::{Error, KvDtype, Result};
use inference_engine::BlockId;

/// Elements that share a scale in q8_0.
pub(crate) const Q8_GROUP: usize = 32;

/// The shape of a KV pool: `num_blocks` blocks of `block_size` tokens, for
/// each layer `num_kv_heads x head_dim` keys and as many values per token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub num_layers: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks.
    pub num_blocks: usize,
    /// How elements are stored.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Whether the heads can be stored as the type says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// naming `kv_dtype`, for q8_0 and heads that do not consist of groups of
    /// 32 elements.
    pub fn validate(&self) -> Result<()> {
        if self.dtype == KvDtype::Q8_0 && !self.head_dim.is_multiple_of(Q8_GROUP) {
            let expected = format!(
                "f32, f16 or bf16: heads of {} elements are not made of groups of {Q8_GROUP}",
                self.head_dim
            );
            return Err(Error::invalid_option("kv_dtype", self.dtype, expected));
        }
        Ok(())
    }

    /// Token slots in the pool.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.block_size * self.num_blocks
    }

    /// Elements that one token's keys (or values) of one layer have.
    #[must_use]
    pub fn token_elems(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Bytes of one block, keys and values of all layers, as the element type
    /// stores them; saturating.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.position_bytes().saturating_mul(self.block_size as u64)
    }

    /// Bytes of one position, keys and values of all layers; saturating.
    #[must_use]
    pub fn position_bytes(&self) -> u64 {
        let heads = [2, self.num_layers, self.num_kv_heads]
            .iter()
            .fold(1_u64, |n, dim| n.saturating_mul(*dim as u64));
        heads.saturating_mul(self.head_bytes())
    }

    /// Bytes of one head's key (or value) at one position; saturating.
    #[must_use]
    pub fn head_bytes(&self) -> u64 {
        let elements = self.head_dim as u64;
        match self.dtype {
            KvDtype::F32 => elements.saturating_mul(4),
            // 32 bytes with one 16-bit scale.
            KvDtype::Q8_0 => elements.div_ceil(Q8_GROUP as u64).saturating_mul(34),
            _ => elements.saturating_mul(2),
        }
    }

    /// Whether block `block` is one of the pool and has `len` positions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput).
    pub fn check_block(&self, block: BlockId, len: usize) -> Result<()> {
        if block as usize >= self.num_blocks {
            let expected = format!("below {}", self.num_blocks);
            return Err(Error::invalid_input("KV block", expected, block.to_string()));
        }
        if len > self.block_size {
            let expected = format!("at most {}", self.block_size);
            return Err(Error::invalid_input("positions of a KV block", expected, len.to_string()));
        }
        Ok(())
    }

    /// As [`check_block`](Self::check_block), and whether `bytes` are those of
    /// `len` positions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput).
    pub fn check_write(&self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        self.check_block(block, len)?;
        let expected = self.position_bytes().saturating_mul(len as u64);
        if bytes.len() as u64 == expected {
            return Ok(());
        }
        let expected = format!("{expected} bytes for {len} positions");
        Err(Error::invalid_input("keys and values", expected, bytes.len().to_string()))
    }
}

/// A KV pool, made and understood by one implementation of
/// [`Ops`](crate::Ops), which downcasts it with [`as_any_mut`](Self::as_any_mut).
///
/// Outside of the pool keys and values have one format, whoever stores them:
/// `[position, layer, keys and values, kv_head, head_dim]` in the byte order of
/// the host, so that what one backend read another can write, in blocks of
/// another size.
/// Floats are as they are; q8_0 has, for each 32 elements of a head, an f16
/// scale and 32 signed bytes, of which an element is the product.
pub trait KvCache: Send + fmt::Debug {
    /// Its shape.
    fn layout(&self) -> &KvLayout;

    /// Copies the first `len` positions of block `from` into block `to`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// for a block outside of the pool or more positions than a block has,
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()>;

    /// The first `len` positions of a block, in the format described above.
    ///
    /// # Errors
    ///
    /// As [`copy_block`](Self::copy_block).
    fn read_block(&self, block: BlockId, len: usize) -> Result<Vec<u8>>;

    /// Puts back what [`read_block`](Self::read_block) read.
    ///
    /// # Errors
    ///
    /// As [`copy_block`](Self::copy_block), and
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// for another number of bytes than `len` positions have.
    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()>;

    /// The implementation's own type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
