//! Keys and values of earlier tokens.

use std::any::Any;
use std::fmt;

use inference_core::KvDtype;

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
        let elements = [2, self.block_size, self.num_layers, self.num_kv_heads, self.head_dim]
            .iter()
            .fold(1_u64, |n, dim| n.saturating_mul(*dim as u64));
        match self.dtype {
            KvDtype::F32 => elements.saturating_mul(4),
            // Blocks of 32 with one 16-bit scale: 34 bytes.
            KvDtype::Q8_0 => elements.saturating_mul(34).div_ceil(32),
            _ => elements.saturating_mul(2),
        }
    }
}

/// A KV pool, made and understood by one implementation of
/// [`Ops`](crate::Ops), which downcasts it with [`as_any_mut`](Self::as_any_mut).
pub trait KvCache: Send + fmt::Debug {
    /// Its shape.
    fn layout(&self) -> &KvLayout;

    /// The implementation's own type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
