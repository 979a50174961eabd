//! The executor of steps computes, bit for bit, what its operations compute one
//! after the other, for every architecture, cut into steps anyhow.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../inference-candle/tests/support/gguf.rs"]
mod gguf;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use inference_candle::{
    Activation, AttentionSpec, BatchView, Decoder, DecoderConfig, GgufWeights, KvCache, KvLayout,
    Linear, ModelFiles, Ops, ReferenceOps, SafetensorsFiles, Weight, reference,
};
use inference_core::{Error, KvDtype, ModelSource, Precision, Result};
use inference_cpu::{CpuOps, CpuOptions};
use inference_engine::StepSequence;
use inference_fixtures::ids;
use inference_gguf::GgufFile;

const BLOCK: usize = 8;

/// The CPU's operations, one by one: blocks and steps are the reference's.
#[derive(Debug)]
struct OneByOne(CpuOps);

impl Ops for OneByOne {
    fn device(&self) -> &Device {
        self.0.device()
    }

    fn precision(&self) -> Precision {
        self.0.precision()
    }

    fn linear(&self, weight: &Weight, bias: Option<&Weight>) -> Result<Arc<dyn Linear>> {
        self.0.linear(weight, bias)
    }

    fn kv_cache(&self, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
        self.0.kv_cache(layout)
    }

    fn embedding(&self, table: &Weight, ids: &[u32]) -> Result<Tensor> {
        self.0.embedding(table, ids)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.0.rms_norm(x, weight, eps)
    }

    fn rope(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        self.0.rope(x, cos, sin)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: Option<(&mut dyn KvCache, usize)>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        self.0.attention(q, k, v, cache, batch, spec)
    }

    fn gated_activation(&self, gate: &Tensor, up: &Tensor, kind: Activation) -> Result<Tensor> {
        self.0.gated_activation(gate, up, kind)
    }

    fn add_scaled(&self, x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
        self.0.add_scaled(x, y, scale)
    }
}

/// A map that hides what it is, as one that an adapter wraps does.
#[derive(Debug)]
struct Wrapped(Arc<dyn Linear>);

impl Linear for Wrapped {
    fn in_features(&self) -> usize {
        self.0.in_features()
    }

    fn out_features(&self) -> usize {
        self.0.out_features()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// The CPU's operations, with every other map wrapped.
#[derive(Debug)]
struct HalfWrapped(CpuOps, std::sync::atomic::AtomicUsize);

impl Ops for HalfWrapped {
    fn device(&self) -> &Device {
        self.0.device()
    }

    fn linear(&self, weight: &Weight, bias: Option<&Weight>) -> Result<Arc<dyn Linear>> {
        let map = self.0.linear(weight, bias)?;
        let count = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(if count.is_multiple_of(2) { Arc::new(Wrapped(map)) } else { map })
    }

    fn kv_cache(&self, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
        self.0.kv_cache(layout)
    }

    fn step(
        &self,
        decoder: &Decoder,
        tokens: &[u32],
        batch: &BatchView<'_>,
        cache: Option<&mut dyn KvCache>,
        logit_rows: &[usize],
    ) -> Result<Tensor> {
        self.0.step(decoder, tokens, batch, cache, logit_rows)
    }
}

fn decoder(dir: &Path, ops: Arc<dyn Ops>) -> Decoder {
    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let json = files.read_required("config.json").unwrap();
    let config = DecoderConfig::from_json("config.json", &json).unwrap();
    Decoder::new(config, &SafetensorsFiles::open(&files).unwrap(), ops).unwrap()
}

/// Steps of parts of sequences, `(sequence, from, to)`.
type Steps = Vec<Vec<(usize, usize, usize)>>;

/// The bits of all logits of all steps, and of a part of the rows of each.
fn run(decoder: &Decoder, prompts: &[Vec<u32>], steps: &Steps, cached: bool) -> Vec<Vec<u32>> {
    let config = decoder.config();
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: BLOCK,
        num_blocks: 64,
        dtype: KvDtype::F16,
    };
    let mut cache = decoder.ops().kv_cache(&layout).unwrap();
    let mut all = Vec::new();
    for step in steps {
        let (mut tokens, mut sequences, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, from, to) in step.iter().copied() {
            sequences.push(StepSequence {
                start: tokens.len(),
                len: to - from,
                position: from,
                prompt_len: prompts[sequence].len(),
                adapter: None,
                block_table: (0..8u32).map(|b| b * 8 + sequence as u32).collect(),
            });
            tokens.extend(&prompts[sequence][from..to]);
            positions.extend(from..to);
        }
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let some: Vec<usize> = rows.iter().rev().step_by(3).copied().collect();
        for rows in [&rows, &some, &Vec::new()] {
            let cache: Option<&mut dyn KvCache> = if cached { Some(&mut *cache) } else { None };
            let logits = decoder.forward(&tokens, &batch, cache, rows).unwrap();
            let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            all.push(logits.iter().map(|x| x.to_bits()).collect());
        }
    }
    all
}

/// Compares the executor with its operations one by one; `load` makes the model
/// on operations.
fn compare(name: &Path, prompts: &[Vec<u32>], load: impl Fn(Arc<dyn Ops>) -> Decoder) {
    let [a, b] = [prompts[0].len(), prompts[1].len()];
    let (most, half) = (a - 1, b / 2);
    let steps = vec![vec![(0, 0, most)], vec![(1, 0, half), (0, most, a)], vec![(1, half, b)]];
    let whole = vec![vec![(1, 0, b), (0, 0, a)]];
    let ops = |threads| CpuOps::new(&CpuOptions::new().with_threads(threads)).unwrap();
    let one_by_one = load(Arc::new(OneByOne(ops(1))));
    let fused = load(Arc::new(ops(2)));
    let wrapped = load(Arc::new(HalfWrapped(ops(2), 0.into())));
    for (steps, cached) in [(&steps, true), (&whole, true), (&whole, false)] {
        let expected = run(&one_by_one, prompts, steps, cached);
        assert!(run(&fused, prompts, steps, cached) == expected, "{}", name.display());
        assert!(run(&wrapped, prompts, steps, cached) == expected, "{}", name.display());
    }
}

#[test]
fn computes_the_bits_of_its_operations() {
    let Some(dir) = inference_fixtures::dir("tiny") else { return };
    let mut cases: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|dir| dir.join("config.json").exists() && dir.join("expected.json").exists());
    cases.sort();
    let mut compared = 0;
    for dir in cases {
        let files = ModelFiles::new(&ModelSource::from(dir.as_path())).unwrap();
        let json = files.read_required("config.json").unwrap();
        let Ok(config) = DecoderConfig::from_json("config.json", &json) else { continue };
        let weights = SafetensorsFiles::open(&files).unwrap();
        // Some fixtures are quantized by schemes that only the loader reads.
        let loads = Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu()));
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let (Ok(_), Some(prompts)) = (loads, expected["prompts"].as_array()) else { continue };
        let prompts: Vec<_> = prompts.iter().map(|p| ids(&p["input_ids"])).collect();
        compare(&dir, &prompts, |ops| decoder(&dir, ops));
        compared += 1;
    }
    assert!(compared >= 12, "{compared} architectures");
}

#[test]
fn computes_the_bits_of_its_operations_on_quantized_weights() {
    for case in gguf::FOLDERS.into_iter().flat_map(gguf::cases) {
        let prompts: Vec<_> = case.prompts.into_iter().map(|prompt| prompt.ids).collect();
        compare(&case.path, &prompts, |ops| {
            let file = GgufFile::open(&case.path).unwrap();
            let config = DecoderConfig::from_gguf(&file).unwrap();
            Decoder::new(config.clone(), &GgufWeights::new(file, &config).unwrap(), ops).unwrap()
        });
    }
}

#[test]
fn two_steps_at_once_do_not_share_buffers() {
    let Some(dir) = inference_fixtures::dir("tiny/llama-h256") else { return };
    let fused = decoder(&dir, Arc::new(CpuOps::new(&CpuOptions::new().with_threads(2)).unwrap()));
    let prompts: Vec<Vec<u32>> = vec![(1..20).collect(), (3..9).collect()];
    let steps = [vec![vec![(0, 0, 19)]], vec![vec![(1, 0, 6)]]];
    let expected: Vec<_> = steps.iter().map(|s| run(&fused, &prompts, s, true)).collect();
    std::thread::scope(|scope| {
        for (steps, expected) in steps.iter().zip(&expected) {
            let (fused, prompts) = (&fused, &prompts);
            scope.spawn(move || {
                for _ in 0..20 {
                    assert!(run(fused, prompts, steps, true) == *expected);
                }
            });
        }
    });
}

#[test]
fn a_cache_of_somebody_else_is_an_error() {
    let Some(dir) = inference_fixtures::dir("tiny/llama-h256") else { return };
    let fused = decoder(&dir, Arc::new(CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap()));
    let config = fused.config();
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: BLOCK,
        num_blocks: 4,
        dtype: KvDtype::F32,
    };
    let mut cache = reference::kv_cache(&Device::Cpu, &layout).unwrap();
    let block_table = vec![0];
    let sequence =
        StepSequence { start: 0, len: 1, position: 0, prompt_len: 1, adapter: None, block_table };
    let batch = BatchView { sequences: &[sequence], positions: &[0], adapters: &[] };
    let error: Error = fused.forward(&[1], &batch, Some(&mut *cache), &[0]).unwrap_err();
    assert!(error.to_string().contains("another implementation"), "{error}");
}
