//! What the engine needs from whatever computes logits.

use inference_core::{AttentionSnapshot, Error, Result, TokenId};

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
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine). The blocks of
    /// this step's sequences then hold nothing of use.
    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>>;

    /// Whether the runner can go on after `error`. If not, the engine answers
    /// every later call with it. Default: it cannot.
    fn survives(&self, error: &Error) -> bool {
        let _ = error;
        false
    }

    /// Bytes held.
    fn memory(&self) -> MemoryUsage;

    /// Whether [`inspect_attention`](Self::inspect_attention) works.
    fn inspects_attention(&self) -> bool {
        false
    }

    /// Post-rotary queries and keys of one prefill of `ids`, without touching
    /// the KV pool.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported) by
    /// default.
    fn inspect_attention(&mut self, ids: &[TokenId]) -> Result<AttentionSnapshot> {
        let _ = ids;
        Err(Error::unsupported("this model runner", "attention_probe"))
    }
}
