//! The engine's runner over a decoder.

use std::sync::Arc;

use inference_core::{AttentionSnapshot, Error, ErrorKind, Result, TokenId};
use inference_engine::{
    AdapterId, BlockId, KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch,
};

use crate::adapter_pool::{AdapterPool, Shared};
use crate::inspect::inspect_attention;
use crate::rope::sharing_class;
use crate::{AdapterRows, BatchView, Decoder, KvCache, MlpSpec};

/// A decoder with its KV pool, as the engine runs it.
#[derive(Debug)]
pub struct CandleRunner {
    decoder: Arc<Decoder>,
    adapters: Arc<Shared>,
    cache: Box<dyn KvCache>,
    spec: RunnerSpec,
    memory: MemoryUsage,
}

impl CandleRunner {
    /// A runner for sequences of at most `context_len` tokens.
    ///
    /// `cache` was made by the decoder's own operations.
    #[must_use]
    pub fn new(
        decoder: impl Into<Arc<Decoder>>,
        cache: Box<dyn KvCache>,
        context_len: usize,
    ) -> Self {
        let (decoder, layout) = (decoder.into(), cache.layout());
        let vocab = decoder.config().vocab_size;
        let spec = RunnerSpec::new(vocab, context_len, layout.block_size, layout.num_blocks);
        let memory = MemoryUsage {
            weights: decoder.weight_bytes(),
            kv_block: layout.block_bytes(),
            ..MemoryUsage::default()
        };
        let adapters = Shared::new(Arc::clone(&decoder));
        Self { decoder, adapters, cache, spec, memory }
    }

    /// Sets how many bytes adapters may take; by default
    /// [`DEFAULT_ADAPTER_BUDGET`](crate::DEFAULT_ADAPTER_BUDGET).
    #[must_use]
    pub fn with_adapter_budget(self, bytes: u64) -> Self {
        self.adapters.set_budget(bytes);
        self
    }

    /// The adapters of its sequences.
    #[must_use]
    pub fn adapters(&self) -> AdapterPool {
        AdapterPool::new(&self.adapters)
    }

    /// The decoder.
    #[must_use]
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// Checks what the decoder does not know: context and blocks.
    fn check(&self, batch: &StepBatch) -> Result<()> {
        let RunnerSpec { context_len, block_size, num_blocks, .. } = self.spec;
        for sequence in &batch.sequences {
            let end = sequence.position.saturating_add(sequence.len);
            if end > context_len {
                let expected = format!("positions below {context_len}");
                return Err(Error::invalid_input("sequence", expected, format!("{sequence:?}")));
            }
            let needed = end.div_ceil(block_size);
            let blocks = sequence.block_table.get(..needed);
            let valid = |blocks: &[u32]| blocks.iter().all(|block| (*block as usize) < num_blocks);
            if !blocks.is_some_and(valid) {
                let expected = format!("{needed} blocks below {num_blocks}");
                return Err(Error::invalid_input("block table", expected, format!("{sequence:?}")));
            }
        }
        Ok(())
    }

    /// Bytes of the largest tensors that are alive at once in a step: residual
    /// stream and block output, queries, keys and values, the MLP's three
    /// intermediate tensors, logits.
    fn activation_bytes(&self, batch: &StepBatch) -> u64 {
        let config = self.decoder.config();
        let intermediate = |mlp: &MlpSpec| match mlp {
            MlpSpec::Gated { intermediate } => *intermediate,
            MlpSpec::Moe { intermediate, experts_per_token, .. } => {
                intermediate * experts_per_token
            }
        };
        let widest = config.layers.iter().map(|layer| intermediate(&layer.mlp)).max().unwrap_or(0);
        let attention = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
        let per_token = 3 * config.hidden_size + attention.max(3 * widest);
        let elements = batch.tokens.len() * per_token + batch.logit_rows.len() * config.vocab_size;
        4 * elements as u64
    }
}

impl ModelRunner for CandleRunner {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>> {
        self.check(batch)?;
        let positions: Vec<usize> =
            batch.sequences.iter().flat_map(|s| s.position..s.position + s.len).collect();
        let mut ids: Vec<AdapterId> = batch.sequences.iter().filter_map(|s| s.adapter).collect();
        ids.sort_unstable();
        ids.dedup();
        let held = if ids.is_empty() { Vec::new() } else { self.adapters.held(&ids)? };
        let rows = |id: &AdapterId| {
            let of = batch.sequences.iter().filter(|s| s.adapter == Some(*id));
            of.flat_map(|s| s.start as u32..(s.start + s.len) as u32).collect()
        };
        let adapters: Vec<AdapterRows<'_>> = ids
            .iter()
            .zip(&held)
            .map(|(id, (adapter, scale))| AdapterRows { adapter, scale: *scale, rows: rows(id) })
            .collect();
        let view =
            BatchView { sequences: &batch.sequences, positions: &positions, adapters: &adapters };
        let cache: &mut dyn KvCache = &mut *self.cache;
        let logits = self.decoder.forward(&batch.tokens, &view, Some(cache), &batch.logit_rows)?;
        self.memory.activations = self.memory.activations.max(self.activation_bytes(batch));
        logits
            .flatten_all()
            .and_then(|logits| logits.to_vec1())
            .map_err(|e| Error::engine("reading logits", e))
    }

    fn survives(&self, error: &Error) -> bool {
        // Refused before anything was computed.
        error.kind() == ErrorKind::InvalidInput
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        Some(self)
    }

    fn memory(&self) -> MemoryUsage {
        MemoryUsage { adapters: self.adapters.bytes(), ..self.memory }
    }

    fn inspects_attention(&self) -> bool {
        true
    }

    fn inspect_attention(
        &mut self,
        ids: &[TokenId],
        adapter: Option<AdapterId>,
    ) -> Result<AttentionSnapshot> {
        if ids.is_empty() || ids.len() > self.spec.context_len {
            let expected = format!("1 to {} tokens", self.spec.context_len);
            return Err(Error::invalid_input("prompt", expected, ids.len().to_string()));
        }
        let held = self.adapters.held(adapter.as_slice())?;
        let rows = || (0..ids.len() as u32).collect();
        let adapters: Vec<_> = held
            .iter()
            .map(|(adapter, scale)| AdapterRows { adapter, scale: *scale, rows: rows() })
            .collect();
        inspect_attention(&self.decoder, ids, &adapters)
    }
}

impl KvBlocks for CandleRunner {
    fn format(&self) -> String {
        let dtype = self.cache.layout().dtype.as_str();
        if cfg!(target_endian = "big") { format!("{dtype}_be") } else { dtype.to_owned() }
    }

    fn position_bytes(&self) -> u64 {
        self.cache.layout().position_bytes()
    }

    fn sharing_class(&self, prompt_len: usize) -> u64 {
        sharing_class(self.decoder.ropes(), prompt_len)
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, len: usize) -> Result<()> {
        self.cache.copy_block(from, to, len)
    }

    fn read_block(&mut self, block: BlockId, len: usize) -> Result<Vec<u8>> {
        self.cache.read_block(block, len)
    }

    fn write_block(&mut self, block: BlockId, len: usize, bytes: &[u8]) -> Result<()> {
        self.cache.write_block(block, len, bytes)
    }
}
