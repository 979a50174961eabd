//! The decoder beyond single prompts: batches, context-dependent rope,
//! training, attention inspection.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use common::{cache, decoder, forward, max_diff, sequence};
use inference_candle::{
    BatchView, CandleRunner, Decoder, DecoderConfig, ModelFiles, ReferenceOps, Rope,
    SafetensorsFiles, TensorWeights, WeightSource,
};
use inference_core::{ErrorKind, KvDtype, ModelSource};
use inference_engine::{ModelRunner, StepBatch, StepSequence};
use inference_fixtures::{floats, ids};

/// Prompts of different lengths in one batch, each in its own blocks, have the
/// logits that they have alone; so do ragged batches without a cache.
#[test]
fn batched_is_alone() {
    for case in ["tiny/qwen3moe", "tiny/phi3-longrope", "tiny/gemma3-text"] {
        let Some(dir) = inference_fixtures::dir(case) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let decoder = decoder(&dir);
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        let mut sequences = Vec::new();
        let mut rows = Vec::new();
        for (index, prompt) in expected["prompts"].as_array().unwrap().iter().enumerate() {
            let ids_in = ids(&prompt["input_ids"]);
            let start = tokens.len();
            let block_table = (0..8).map(|block| block * 3 + index as u32).collect();
            sequences.push(StepSequence {
                start,
                block_table,
                ..sequence(0, ids_in.len(), ids_in.len())
            });
            positions.extend(0..ids_in.len());
            tokens.extend(ids_in);
            rows.push(tokens.len() - 1);
        }
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let mut pool = cache(&decoder, KvDtype::F32);
        let cached = decoder.forward(&tokens, &batch, Some(&mut *pool), &rows).unwrap();
        let plain = decoder.forward(&tokens, &batch, None, &rows).unwrap();
        for logits in [cached, plain] {
            let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
            for (row, prompt) in logits.iter().zip(expected["prompts"].as_array().unwrap()) {
                let difference = max_diff(row, &floats(&prompt["last_logits"]));
                assert!(difference < 1e-3, "{case}: {difference}");
            }
        }
    }
}

/// The weights of a folder as variables.
fn variables(dir: &std::path::Path) -> (DecoderConfig, Vec<(String, Var)>) {
    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let json = files.read_required("config.json").unwrap();
    let config = DecoderConfig::from_json("config.json", &json).unwrap();
    let weights = SafetensorsFiles::open(&files).unwrap();
    let (header, _) = header(&dir.join("model.safetensors"));
    let variable = |name: &String| {
        let tensor = weights.get(name).unwrap().to_tensor(&Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(DType::F32).unwrap();
        (name.clone(), Var::from_tensor(&tensor).unwrap())
    };
    (config, header.iter().map(variable).collect())
}

fn header(path: &std::path::Path) -> (Vec<String>, usize) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    (names.cloned().collect(), length)
}

/// Mean cross-entropy of the next token, over sequences of one length.
fn loss(decoder: &Decoder, sequences: &[Vec<u32>]) -> Tensor {
    let len = sequences[0].len() - 1;
    let tokens: Vec<u32> = sequences.iter().flat_map(|s| s[..len].to_vec()).collect();
    let targets: Vec<u32> = sequences.iter().flat_map(|s| s[1..].to_vec()).collect();
    let views: Vec<StepSequence> = (0..sequences.len())
        .map(|index| StepSequence { start: index * len, ..sequence(0, len, len) })
        .collect();
    let positions: Vec<usize> = sequences.iter().flat_map(|_| 0..len).collect();
    let batch = BatchView { sequences: &views, positions: &positions, adapters: &[] };
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let logits = decoder.forward(&tokens, &batch, None, &rows).unwrap();
    let max = logits.max_keepdim(1).unwrap().detach();
    let sum = logits.broadcast_sub(&max).unwrap().exp().unwrap().sum_keepdim(1).unwrap();
    let log_sum = (sum.log().unwrap() + max).unwrap();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    (log_sum - logits.gather(&targets, 1).unwrap()).unwrap().mean_all().unwrap()
}

/// Gradients reach every weight of every kind of block, and updating the
/// variables in place changes what the decoder computes.
#[test]
fn every_architecture_can_be_trained() {
    for case in ["gemma3-text", "qwen3moe", "phi3-longrope", "olmo2", "qwen2", "granite"] {
        let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
        let (config, variables) = variables(&dir);
        let source: TensorWeights = variables
            .iter()
            .map(|(name, variable)| (name.clone(), variable.as_tensor().clone()))
            .collect();
        let decoder = Decoder::new(config, &source, Arc::new(ReferenceOps::cpu())).unwrap();
        let sequences: Vec<Vec<u32>> =
            (0..3).map(|s| (0..40).map(|t| (t * 37 + s * 11 + 5) % 300).collect()).collect();
        let before = loss(&decoder, &sequences);
        let gradients = before.backward().unwrap();
        for (name, variable) in &variables {
            let gradient = gradients.get(variable.as_tensor());
            // An expert that no token was sent to has none.
            if gradient.is_none() && name.contains(".experts.") {
                continue;
            }
            let gradient = gradient.unwrap_or_else(|| unreachable!("{case}: {name} has none"));
            let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(norm.is_finite() && norm > 0.0, "{case}: gradient of {name} is {norm}");
            let scale = 1e-2 / f64::from(norm.sqrt());
            let step = (gradient * scale).unwrap();
            variable.set(&variable.sub(&step).unwrap()).unwrap();
        }
        let before = before.to_scalar::<f32>().unwrap();
        let after = loss(&decoder, &sequences).to_scalar::<f32>().unwrap();
        assert!(after < before, "{case}: {before} to {after}");
    }
}

/// A batch of sequences of one length (one product) and of two lengths (one
/// after the other) have the same logits.
#[test]
fn training_batches_are_what_sequences_are_alone() {
    let Some(dir) = inference_fixtures::dir("tiny/mistral-window8") else { return };
    let decoder = decoder(&dir);
    let a: Vec<u32> = (0..20).collect();
    let b: Vec<u32> = (100..120).collect();
    let rows: Vec<usize> = (0..20).collect();
    let alone =
        [&a, &b].map(|ids| forward(&decoder, ids, sequence(0, 20, 20), None, &rows).concat());
    let views = [sequence(0, 20, 20), StepSequence { start: 20, ..sequence(0, 20, 20) }];
    let positions: Vec<usize> = (0..20).chain(0..20).collect();
    let batch = BatchView { sequences: &views, positions: &positions, adapters: &[] };
    let rows: Vec<usize> = (0..40).collect();
    let both = decoder.forward(&[a, b].concat(), &batch, None, &rows).unwrap();
    let both: Vec<f32> = both.flatten_all().unwrap().to_vec1().unwrap();
    assert!(max_diff(&both, &alone.concat()) < 1e-4);
}

/// Layer 0's queries and keys, computed by hand from the weights.
#[test]
fn inspected_attention_is_post_rotary() {
    let Some(dir) = inference_fixtures::dir("models/stories260k") else { return };
    let decoder = decoder(&dir);
    let pool = cache(&decoder, KvDtype::F32);
    let mut runner = CandleRunner::new(decoder, pool, 64);
    assert!(runner.inspects_attention());
    let prompt = [1, 403, 407, 261];
    let snapshot = runner.inspect_attention(&prompt, None).unwrap();
    assert_eq!((snapshot.ids.as_slice(), snapshot.layers.len()), (&prompt[..], 5));

    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let weights = SafetensorsFiles::open(&files).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let tensor = weights.get(name).unwrap().to_tensor(&Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    let layer = |name: &str| values(&format!("model.layers.0.{name}.weight"));
    let (embedding, norm) = (values("model.embed_tokens.weight"), layer("input_layernorm"));
    let rope = Rope::new(runner.decoder().config().ropes[0].clone());
    let frequencies = rope.frequencies(prompt.len());
    for (projection, heads) in [("self_attn.q_proj", 8), ("self_attn.k_proj", 4)] {
        let weight = layer(projection);
        for (position, id) in prompt.iter().enumerate() {
            let row = &embedding[*id as usize * 64..][..64];
            let mean = row.iter().map(|v| v * v).sum::<f32>() / 64.0;
            let x: Vec<f32> =
                row.iter().zip(&norm).map(|(v, w)| v / (mean + 1e-5).sqrt() * w).collect();
            for head in 0..heads {
                let project = |d: usize| -> f32 {
                    let row = &weight[(head * 8 + d) * 64..][..64];
                    row.iter().zip(&x).map(|(w, x)| w * x).sum()
                };
                let mut expected = [0.0; 8];
                for pair in 0..4 {
                    let angle = position as f32 * frequencies[pair];
                    let (a, b) = (project(pair), project(pair + 4));
                    expected[pair] = a * angle.cos() - b * angle.sin();
                    expected[pair + 4] = b * angle.cos() + a * angle.sin();
                }
                let first = &snapshot.layers[0];
                let found = match heads {
                    8 => first.head_queries(head),
                    _ => first.head_keys(head),
                };
                let difference = max_diff(&found[position * 8..][..8], &expected);
                assert!(difference < 1e-4, "{projection} head {head}: {difference}");
            }
        }
    }
    let empty = runner.inspect_attention(&[], None).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::InvalidInput);
}

/// A step that does not fit is refused before anything is computed, and the
/// runner goes on.
#[test]
fn steps_that_do_not_fit_are_refused() {
    let Some(dir) = inference_fixtures::dir("tiny/qwen2") else { return };
    let decoder = decoder(&dir);
    let pool = cache(&decoder, KvDtype::F32);
    let mut runner = CandleRunner::new(decoder, pool, 32);
    let good = StepBatch {
        tokens: vec![1, 2, 3],
        sequences: vec![sequence(0, 3, 3)],
        logit_rows: vec![2],
    };
    let changed = |change: &dyn Fn(&mut StepBatch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch
    };
    for bad in [
        changed(&|b| b.tokens[1] = 384),
        changed(&|b| b.logit_rows = vec![3]),
        changed(&|b| b.sequences[0].len = 2),
        changed(&|b| b.sequences[0].start = 1),
        changed(&|b| b.sequences[0].position = 30),
        changed(&|b| b.sequences[0].position = usize::MAX),
        changed(&|b| b.sequences[0].block_table.clear()),
        changed(&|b| b.sequences[0].block_table = vec![64]),
        changed(&|b| b.sequences.clear()),
        StepBatch::default(),
    ] {
        let error = runner.forward(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}: {error}");
        assert!(runner.survives(&error));
    }
    let logits = runner.forward(&good).unwrap();
    assert_eq!(logits.len(), 384);
    // A part of a prompt that nobody wants logits of.
    let silent = changed(&|b| b.logit_rows.clear());
    assert_eq!(runner.forward(&silent).unwrap(), Vec::<f32>::new());
    let memory = runner.memory();
    // 2 layers x 2 heads x 16 x 8 tokens x 2 x 4 bytes.
    assert_eq!(memory.kv_block, 4096);
    assert!(memory.activations > 0);
    assert_eq!(memory.weights, 4 * runner.decoder().parameters());
}
