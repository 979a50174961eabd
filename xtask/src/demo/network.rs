//! The decoder over weights under training.

use std::sync::Arc;

use candle_core::Tensor;
use inference_candle::{BatchView, Decoder, DecoderConfig, ReferenceOps, TensorWeights};
use inference_engine::StepSequence;

use super::architecture::config;
use crate::Result;

/// The project's own decoder, computed by the reference operations: what it
/// computes can be differentiated with respect to its weights.
#[derive(Debug)]
pub(crate) struct Network {
    decoder: Decoder,
}

impl Network {
    pub(crate) fn new(weights: &[(String, Tensor)]) -> Result<Self> {
        let config = DecoderConfig::from_json("config.json", config().to_string().as_bytes())?;
        let weights: TensorWeights = weights.iter().cloned().collect();
        Ok(Self { decoder: Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu()))? })
    }

    /// The logits after `rows` of `tokens`, which are sequences of `len`
    /// tokens each: `[rows, vocab]`.
    pub(crate) fn logits(&self, tokens: &[u32], len: usize, rows: &[usize]) -> Result<Tensor> {
        let sequences: Vec<_> = (0..tokens.len() / len)
            .map(|index| StepSequence {
                start: index * len,
                len,
                position: 0,
                prompt_len: len,
                adapter: None,
                block_table: Vec::new(),
            })
            .collect();
        let positions: Vec<usize> = sequences.iter().flat_map(|_| 0..len).collect();
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        Ok(self.decoder.forward(tokens, &batch, None, rows)?)
    }
}
