//! Logits of a batch, from the tokens in the KV pool.

use inference_core::{Error, Result, TokenId};
use inference_engine::{BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch};

use crate::byte_vocabulary::VOCAB_SIZE;
use crate::counts::Counts;

/// Tokens per block.
pub(crate) const BLOCK_SIZE: usize = 16;

/// Bytes of one block.
pub(crate) const BLOCK_BYTES: u64 = (BLOCK_SIZE * size_of::<TokenId>()) as u64;

/// Where a transformer has keys and values of a position, this model has the
/// position's token: the last ones are all that it looks at.
pub(crate) struct NgramRunner {
    counts: Counts,
    spec: RunnerSpec,
    pool: Vec<TokenId>,
}

impl NgramRunner {
    pub(crate) fn new(counts: Counts, context_len: usize, num_blocks: usize) -> Self {
        let spec = RunnerSpec::new(VOCAB_SIZE, context_len, BLOCK_SIZE, num_blocks);
        Self { counts, spec, pool: vec![0; num_blocks * BLOCK_SIZE] }
    }

    fn block(&mut self, block: BlockId, len: usize) -> Result<&mut [TokenId]> {
        let start = block as usize * BLOCK_SIZE;
        let outside = || Error::engine_message(format!("{len} positions of KV block {block}"));
        self.pool.get_mut(start..start + len.min(BLOCK_SIZE)).ok_or_else(outside)
    }
}

/// Where a position lies in the pool.
fn slot(table: &[BlockId], position: usize) -> usize {
    table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE
}

impl ModelRunner for NgramRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>> {
        let mut logits = Vec::with_capacity(batch.logit_rows.len() * VOCAB_SIZE);
        let mut rows = batch.logit_rows.iter().copied().peekable();
        for sequence in &batch.sequences {
            let tokens = sequence.start..sequence.start + sequence.len;
            for (offset, token) in batch.tokens[tokens.clone()].iter().enumerate() {
                self.pool[slot(&sequence.block_table, sequence.position + offset)] = *token;
            }
            while let Some(row) = rows.next_if(|row| tokens.contains(row)) {
                let end = sequence.position + (row - sequence.start) + 1;
                let begin = end.saturating_sub(self.counts.order() - 1);
                let token = |position| self.pool[slot(&sequence.block_table, position)];
                let history: Vec<_> = (begin..end).map(token).collect();
                logits.extend(self.counts.log_probabilities(&history));
            }
        }
        Ok(logits)
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        Some(self)
    }

    fn memory(&self) -> MemoryUsage {
        // An n-gram's token and count.
        let weights = self.counts.ngrams() * (size_of::<TokenId>() + size_of::<u64>());
        MemoryUsage { weights: weights as u64, kv_block: BLOCK_BYTES, ..MemoryUsage::default() }
    }
}

/// With this, prefix cache, snapshots and speculative decoding work.
impl KvBlocks for NgramRunner {
    fn format(&self) -> String {
        "token ids, u32".to_owned()
    }

    fn position_bytes(&self) -> u64 {
        size_of::<TokenId>() as u64
    }

    fn sharing_class(&self, _prompt_len: usize) -> u64 {
        0
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        let tokens = self.block(from, len)?.to_vec();
        self.block(to, len)?.copy_from_slice(&tokens);
        Ok(())
    }

    fn read_block(&mut self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        Ok(self.block(block, len)?.iter().flat_map(|token| token.to_le_bytes()).collect())
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        let (chunks, rest) = bytes.as_chunks();
        if chunks.len() != len || !rest.is_empty() {
            let expected = format!("{} bytes", len * size_of::<TokenId>());
            return Err(Error::invalid_input("KV block", expected, bytes.len().to_string()));
        }
        for (token, bytes) in self.block(block, len)?.iter_mut().zip(chunks) {
            *token = TokenId::from_le_bytes(*bytes);
        }
        Ok(())
    }
}
