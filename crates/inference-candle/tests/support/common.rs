//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; each uses its part")]

use std::path::Path;
use std::sync::Arc;

use inference_candle::{
    BatchView, Decoder, DecoderConfig, KvCache, KvLayout, ModelFiles, ReferenceOps,
    SafetensorsFiles,
};
use inference_core::{KvDtype, ModelSource};
use inference_engine::StepSequence;

/// The decoder of a folder, on the reference operations of the CPU.
pub(crate) fn decoder(dir: &Path) -> Decoder {
    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let json = files.read_required("config.json").unwrap();
    let config = DecoderConfig::from_json("config.json", &json).unwrap();
    let weights = SafetensorsFiles::open(&files).unwrap();
    Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu())).unwrap()
}

/// One sequence that begins at the batch's first token, in blocks 0, 1, ….
pub(crate) fn sequence(position: usize, len: usize, prompt_len: usize) -> StepSequence {
    let block_table = (0..64).collect();
    StepSequence { start: 0, len, position, prompt_len, adapter: None, block_table }
}

/// Logits of the rows of one sequence.
pub(crate) fn forward(
    decoder: &Decoder,
    ids: &[u32],
    sequence: StepSequence,
    cache: Option<&mut dyn KvCache>,
    rows: &[usize],
) -> Vec<Vec<f32>> {
    let positions: Vec<usize> = (sequence.position..sequence.position + ids.len()).collect();
    let sequences = [sequence];
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
    decoder.forward(ids, &batch, cache, rows).unwrap().to_vec2().unwrap()
}

/// A pool of 64 blocks of 8 tokens for the decoder.
pub(crate) fn cache(decoder: &Decoder, dtype: KvDtype) -> Box<dyn KvCache> {
    let config = decoder.config();
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: 8,
        num_blocks: 64,
        dtype,
    };
    decoder.ops().kv_cache(&layout).unwrap()
}

/// Greedy continuation through a KV cache, the prompt in chunks of `chunk`.
pub(crate) fn greedy(decoder: &Decoder, prompt: &[u32], count: usize, chunk: usize) -> Vec<u32> {
    let mut cache = cache(decoder, KvDtype::F32);
    let mut position = 0;
    let mut logits = Vec::new();
    for part in prompt.chunks(chunk) {
        let sequence = sequence(position, part.len(), prompt.len());
        logits = forward(decoder, part, sequence, Some(&mut *cache), &[part.len() - 1]);
        position += part.len();
    }
    let mut generated = Vec::new();
    loop {
        generated.push(argmax(&logits[0]));
        if generated.len() == count {
            return generated;
        }
        let sequence = sequence(position, 1, prompt.len());
        let last = [generated[generated.len() - 1]];
        logits = forward(decoder, &last, sequence, Some(&mut *cache), &[0]);
        position += 1;
    }
}

pub(crate) fn argmax(row: &[f32]) -> u32 {
    let largest = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    u32::try_from(largest.unwrap().0).unwrap()
}

/// The largest difference of two rows.
pub(crate) fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
