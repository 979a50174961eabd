//! A sequence's logits are the same bits alone or batched, in whatever order,
//! cut into steps anyhow, with any number of threads, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use inference_candle::{
    CandleRunner, Decoder, DecoderConfig, KvLayout, ModelFiles, SafetensorsFiles,
};
use inference_core::{
    Backend, BatchItem, GenerateOptions, KvDtype, LoadOptions, ModelSource, TextModel,
};
use inference_cpu::{CpuBackend, CpuOps, CpuOptions, Tier};
use inference_engine::{ModelRunner, StepBatch, StepSequence};
use inference_fixtures::ids;

const BLOCK: usize = 8;
const BLOCKS: usize = 64;

/// One checkpoint for each kind of layer.
const CASES: [&str; 7] =
    ["llama-h256", "qwen3", "gemma2", "gemma3-text", "mistral-window8", "mixtral", "phi3-longrope"];

/// The cases with each way to store keys and values that is tested with them.
fn cases() -> impl Iterator<Item = (&'static str, KvDtype)> {
    let q8 = ["llama-h256", "qwen3", "qwen3moe"];
    let floats = CASES.into_iter().map(|case| (case, KvDtype::F32));
    floats.chain(q8.into_iter().map(|case| (case, KvDtype::Q8_0)))
}

fn runner(dir: &Path, options: &CpuOptions, dtype: KvDtype) -> CandleRunner {
    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let json = files.read_required("config.json").unwrap();
    let config = DecoderConfig::from_json("config.json", &json).unwrap();
    let weights = SafetensorsFiles::open(&files).unwrap();
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: BLOCK,
        num_blocks: BLOCKS,
        dtype,
    };
    let ops: Arc<dyn inference_candle::Ops> = Arc::new(CpuOps::new(options).unwrap());
    let cache = ops.kv_cache(&layout).unwrap();
    CandleRunner::new(Decoder::new(config, &weights, ops).unwrap(), cache, 256)
}

/// Runs steps over parts of sequences, `(sequence, from, to)`, and returns the
/// bits of every position's logits, by sequence.
fn run(
    runner: &mut CandleRunner,
    prompts: &[&[u32]],
    steps: &[Vec<(usize, usize, usize)>],
) -> Vec<Vec<Vec<u32>>> {
    let vocab = runner.spec().vocab_size;
    let mut logits = vec![Vec::new(); prompts.len()];
    for step in steps {
        let mut batch = StepBatch::default();
        for (sequence, from, to) in step.iter().copied() {
            // Blocks of its own, in an order of their own.
            let blocks = (0..8u32).map(|b| (b * 5 % 8) * 8 + sequence as u32);
            batch.sequences.push(StepSequence {
                start: batch.tokens.len(),
                len: to - from,
                position: from,
                prompt_len: prompts[sequence].len(),
                adapter: None,
                block_table: blocks.collect(),
            });
            batch.tokens.extend(&prompts[sequence][from..to]);
        }
        batch.logit_rows = (0..batch.tokens.len()).collect();
        let values = runner.forward(&batch).unwrap();
        let mut rows = values.chunks_exact(vocab);
        for (sequence, from, to) in step.iter().copied() {
            for _ in from..to {
                let row: Vec<u32> = rows.next().unwrap().iter().map(|x| x.to_bits()).collect();
                logits[sequence].push(row);
            }
        }
    }
    logits
}

#[test]
fn of_every_position_however_it_is_computed() {
    for (case, dtype) in cases() {
        let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let prompts: Vec<Vec<u32>> = expected["prompts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|prompt| ids(&prompt["input_ids"]))
            .collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let [a, b, c] = [0, 1, 2].map(|i| prompts[i].len());
        let alone = vec![vec![(0, 0, a)], vec![(1, 0, b)], vec![(2, 0, c)]];
        let first = CpuOptions::new().with_tier(Tier::Scalar).with_threads(1);
        let reference = run(&mut runner(&dir, &first, dtype), &prompts, &alone);

        let one_by_one =
            (0..3).flat_map(|s| (0..prompts[s].len()).map(move |t| vec![(s, t, t + 1)]));
        let ways = [
            ("alone", alone.clone()),
            ("together", vec![vec![(0, 0, a), (1, 0, b), (2, 0, c)]]),
            ("in another order", vec![vec![(2, 0, c), (0, 0, a), (1, 0, b)]]),
            ("a long one in company", vec![vec![(2, 0, c), (1, 0, b)], vec![(0, 0, a)]]),
            (
                "in chunks",
                vec![
                    vec![(2, 0, 7), (0, 0, 1)],
                    vec![(0, 1, a), (2, 7, 8), (1, 0, 16)],
                    vec![(1, 16, b), (2, 8, c)],
                ],
            ),
            ("token by token", one_by_one.collect()),
        ];
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            for threads in [1, 2] {
                let options = CpuOptions::new().with_tier(tier).with_threads(threads);
                // One pool for all ways: what lies in it from before is never read.
                let mut runner = runner(&dir, &options, dtype);
                for (name, steps) in &ways {
                    let found = run(&mut runner, &prompts, steps);
                    assert!(
                        found == reference,
                        "{case}, {dtype}: {name}, {tier}, {threads} threads"
                    );
                }
            }
        }
    }
}

/// The bits of each generated token's logits, by item.
fn generated(model: &dyn TextModel, prompts: &[Vec<u32>]) -> Vec<Vec<Vec<u32>>> {
    let options = GenerateOptions::new()
        .with_max_tokens(12)
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_logits(true);
    let items = prompts
        .iter()
        .map(|prompt| BatchItem::new(prompt.clone()).with_options(options.clone()))
        .collect();
    let outputs = model.batch_generate(items).unwrap().collect_all();
    let bits = |token: &inference_core::Token| -> Vec<u32> {
        token.logits.as_ref().unwrap().iter().map(|x| x.to_bits()).collect()
    };
    outputs.into_iter().map(|output| output.unwrap().tokens.iter().map(bits).collect()).collect()
}

#[test]
fn of_every_generated_token_through_the_contract() {
    for (case, dtype) in cases() {
        let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let prompts = expected["prompts"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|p| ids(&p["input_ids"])).collect();
        let load = |options: LoadOptions| {
            let options = options.with_kv_dtype(dtype);
            CpuBackend::new().load_model(&ModelSource::from(dir.as_path()), &options).unwrap()
        };
        let model = load(LoadOptions::new().with_threads(1).with_parallel_slots(1));
        let alone: Vec<_> =
            prompts.iter().flat_map(|p| generated(&*model, std::slice::from_ref(p))).collect();
        assert!(alone.iter().all(|tokens| tokens.len() == 12), "{case}");
        for (threads, slots) in [(1, 8), (2, 8), (2, 2)] {
            let options = LoadOptions::new().with_threads(threads).with_parallel_slots(slots);
            let model = load(options);
            for order in [vec![0, 1, 2], vec![2, 0, 1], vec![1, 1, 0, 2, 0]] {
                let batch: Vec<_> = order.iter().map(|i| prompts[*i].clone()).collect();
                let found = generated(&*model, &batch);
                for (found, i) in found.iter().zip(&order) {
                    assert!(found == &alone[*i], "{case}, prompt {i} of {order:?}, {threads}");
                }
            }
        }
    }
}
