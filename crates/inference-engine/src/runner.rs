//! What the engine needs from whatever computes logits.

use inference_core::{AttentionSnapshot, Error, Result, TokenId};

use crate::adapters::AdapterId;

/// The index of a KV block in a runner's pool.
pub type BlockId = u32;

/// The fixed facts of a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunnerSpec {
    /// Size of the output vocabulary.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub context_len: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
}

impl RunnerSpec {
    /// The facts of a runner.
    #[must_use]
    pub fn new(
        vocab_size: usize,
        context_len: usize,
        block_size: usize,
        num_blocks: usize,
    ) -> Self {
        Self { vocab_size, context_len, block_size, num_blocks }
    }
}

/// One sequence's share of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSequence {
    /// Where its tokens begin in [`StepBatch::tokens`].
    pub start: usize,
    /// How many tokens it has in this step; at least 1.
    pub len: usize,
    /// The position of its first token in this step; the keys and values of
    /// all earlier positions are in its blocks already.
    pub position: usize,
    /// Tokens of its prompt: what the sequence was admitted with, the same
    /// number in all its steps. Rotary embeddings that depend on the length of
    /// the context (dynamic, longrope) are chosen by it, so that the choice
    /// does not depend on how the prompt is cut into steps; keys of a prefix
    /// may be shared only by sequences for which the choice is the same.
    pub prompt_len: usize,
    /// The adapter that changes the weights for it, the same in all its steps.
    /// There while a request holds an [`AdapterLease`](crate::AdapterLease) on
    /// it.
    pub adapter: Option<AdapterId>,
    /// Its blocks: position `p` lives in block `block_table[p / block_size]`,
    /// slot `p % block_size`. Long enough for `position + len`.
    pub block_table: Vec<BlockId>,
}

/// One step: a ragged batch of sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepBatch {
    /// The tokens of all sequences, one after the other, `[tokens]`.
    pub tokens: Vec<TokenId>,
    /// The sequences, in the order of their tokens; they cover `tokens`.
    pub sequences: Vec<StepSequence>,
    /// Indices into `tokens` whose logits are wanted, ascending.
    pub logit_rows: Vec<usize>,
}

/// Bytes that a runner holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Weights.
    pub weights: u64,
    /// Adapters.
    pub adapters: u64,
    /// One KV block.
    pub kv_block: u64,
    /// The activations of the largest step so far.
    pub activations: u64,
}

/// Computes logits for batches of tokens; owns weights and the KV pool.
///
/// The engine thread owns the runner and calls it once per step. A row's
/// logits must not depend on the other sequences of the batch, nor on how a
/// prompt was cut into steps.
pub trait ModelRunner: Send {
    /// The fixed facts.
    fn spec(&self) -> &RunnerSpec;

    /// Computes one step: stores the keys and values of every token in its
    /// block, and returns the logits of `batch.logit_rows`, row-major
    /// `[logit_rows, vocab_size]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine). The positions
    /// of this step then hold nothing of use; earlier ones are unharmed.
    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>>;

    /// Whether the runner can go on after `error`. If not, the engine answers
    /// every later call with it. Default: it cannot.
    fn survives(&self, error: &Error) -> bool {
        let _ = error;
        false
    }

    /// The KV blocks, where they can be shared, copied and moved, and where a
    /// position may be computed again, with another token, after later ones.
    /// `None` (the default) for a runner whose state is not one of positions:
    /// it has neither prefix cache, nor snapshots, nor speculative decoding.
    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        None
    }

    /// Bytes held.
    fn memory(&self) -> MemoryUsage;

    /// Whether [`inspect_attention`](Self::inspect_attention) works.
    fn inspects_attention(&self) -> bool {
        false
    }

    /// Post-rotary queries and keys of one prefill of `ids` with an adapter,
    /// without touching the KV pool.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported) by
    /// default.
    fn inspect_attention(
        &mut self,
        ids: &[TokenId],
        adapter: Option<AdapterId>,
    ) -> Result<AttentionSnapshot> {
        let _ = (ids, adapter);
        Err(Error::unsupported("this model runner", "attention_probe"))
    }
}

/// The KV pool of a runner, as prefix cache and snapshots use it.
pub trait KvBlocks {
    /// Whether [`read_block`](Self::read_block) and
    /// [`write_block`](Self::write_block) work. Default: they do. Without them
    /// there are no snapshots.
    fn can_be_read(&self) -> bool {
        true
    }

    /// The format of a block's bytes, for example `f16`; snapshots of another
    /// format cannot be written back. The bytes are those of one position after
    /// the other, so they do not depend on the number of tokens in a block.
    fn format(&self) -> String;

    /// Bytes of one position, all layers; the same for all positions.
    fn position_bytes(&self) -> u64;

    /// Two sequences may share the keys and values of a common prefix if this
    /// is the same for the lengths of both prompts. Depends on `prompt_len`
    /// where rotary embeddings do; see [`StepSequence::prompt_len`].
    fn sharing_class(&self, prompt_len: usize) -> u64;

    /// Copies the first `len` positions of block `from` into block `to`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()>;

    /// The first `len` positions of a block, all layers, as bytes that
    /// [`write_block`](Self::write_block) of a runner of the same model and
    /// [format](Self::format) takes back, bit for bit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    fn read_block(&mut self, block: BlockId, len: usize) -> Result<Vec<u8>>;

    /// Puts back what [`read_block`](Self::read_block) read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// where the number of bytes is not that of `len` positions,
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()>;
}
