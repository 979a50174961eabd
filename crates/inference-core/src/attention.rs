//! Looking at attention.

use crate::{Prompt, Result, TokenId};

/// Queries and keys of one layer in one prefill.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LayerAttention {
    /// The layer, counted from 0.
    pub layer: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key heads; query head `h` reads key head `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Post-rotary queries, row-major `[num_heads, tokens, head_dim]`.
    pub queries: Vec<f32>,
    /// Post-rotary keys, row-major `[num_kv_heads, tokens, head_dim]`.
    pub keys: Vec<f32>,
}

impl LayerAttention {
    /// The queries and keys of a layer; shapes as the fields say.
    #[must_use]
    pub fn new(
        layer: usize,
        [num_heads, num_kv_heads, head_dim]: [usize; 3],
        queries: Vec<f32>,
        keys: Vec<f32>,
    ) -> Self {
        Self { layer, num_heads, num_kv_heads, head_dim, queries, keys }
    }

    /// Post-rotary queries of one head, `[tokens, head_dim]`.
    ///
    /// # Panics
    ///
    /// If `head` is not below [`num_heads`](Self::num_heads).
    #[must_use]
    pub fn head_queries(&self, head: usize) -> &[f32] {
        head_rows(&self.queries, self.num_heads, head)
    }

    /// Post-rotary keys of one key head, `[tokens, head_dim]`.
    ///
    /// # Panics
    ///
    /// If `head` is not below [`num_kv_heads`](Self::num_kv_heads).
    #[must_use]
    pub fn head_keys(&self, head: usize) -> &[f32] {
        head_rows(&self.keys, self.num_kv_heads, head)
    }
}

fn head_rows(values: &[f32], heads: usize, head: usize) -> &[f32] {
    assert!(head < heads, "head {head} of {heads}");
    let size = values.len() / heads;
    &values[head * size..(head + 1) * size]
}

/// Queries and keys of one prompt, for every layer and head.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AttentionSnapshot {
    /// The prompt's ids, `[tokens]`.
    pub ids: Vec<TokenId>,
    /// One entry per layer, in order.
    pub layers: Vec<LayerAttention>,
}

impl AttentionSnapshot {
    /// A snapshot.
    #[must_use]
    pub fn new(ids: Vec<TokenId>, layers: Vec<LayerAttention>) -> Self {
        Self { ids, layers }
    }
}

/// A model whose attention can be looked at.
pub trait AttentionInspector: Send + Sync {
    /// Runs one prefill of `prompt` and returns its post-rotary queries and
    /// keys, per layer and head.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](crate::TextModel::generate) for its prompt.
    fn inspect_attention(&self, prompt: Prompt) -> Result<AttentionSnapshot>;
}
