//! Adapters on the CPU's operations: the logits of real PEFT over dense and
//! quantized weights, and the same bits whatever the company.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use inference_candle::{
    CandleRunner, Decoder, DecoderConfig, KvLayout, ModelFiles, Ops, ReferenceOps, SafetensorsFiles,
};
use inference_core::{
    Backend, BatchItem, GenerateOptions, KvDtype, LoadOptions, LogitRows, ModelSource,
    QuantizeType, TextModel,
};
use inference_cpu::{CpuBackend, CpuOps, CpuOptions, Tier};
use inference_engine::{AdapterLease, AdapterSource, ModelRunner, StepBatch, StepSequence};
use inference_fixtures::{floats, ids};
use inference_lora::{AdapterWeights, ModuleDelta};
use proptest::prelude::*;

/// The tolerance on logits.
const TOLERANCE: f32 = 2e-4;

const CASES: [&str; 8] = [
    "llama-modules-to-save",
    "llama-one-layer",
    "llama-pattern",
    "llama-r4-attention",
    "llama-r8-all",
    "llama-rslora",
    "qwen2-bias",
    "qwen2-r4-all",
];

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn load(dir: &Path, options: &LoadOptions) -> Arc<dyn TextModel> {
    let options = options.clone().with_threads(2);
    CpuBackend::new().load_model(&ModelSource::from(dir), &options).unwrap()
}

fn greedy(model: &dyn TextModel, prompt: &[u32], adapter: Option<&str>) -> Vec<u32> {
    let mut options = GenerateOptions::new().with_max_tokens(16).with_ignore_eos(true);
    options = options.with_temperature(0.0);
    options.adapter = adapter.map(str::to_owned);
    let stream = model.generate(prompt.to_vec().into(), options).unwrap();
    stream.map(|token| token.unwrap().id).collect()
}

#[test]
fn logits_and_greedy_tokens_are_those_of_peft() {
    for case in CASES {
        let Some(dir) = inference_fixtures::dir(&format!("lora/{case}")) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let base = format!("tiny/{}", expected["base"].as_str().unwrap());
        let base = inference_fixtures::dir(&base).unwrap();
        let model = load(&base, &LoadOptions::new().with_adapter_path(&dir));
        let scorer = model.as_scorer().unwrap();
        let logits = |prompt: &[u32]| {
            scorer.prompt_logits(prompt.to_vec().into(), LogitRows::Last).unwrap().values
        };
        let adapters = model.as_adapters().unwrap();
        let prompts = expected["prompts"].as_array().unwrap();
        for prompt in prompts {
            let ids_in = ids(&prompt["input_ids"]);
            let off = max_diff(&logits(&ids_in), &floats(&prompt["adapter_last_logits"]));
            assert!(off < TOLERANCE, "{case}: off by {off}");
            assert_eq!(greedy(&*model, &ids_in, None), ids(&prompt["adapter_greedy"]), "{case}");
        }
        adapters.unload("default").unwrap();
        adapters.load("late", &dir, 1.0).unwrap();
        for prompt in prompts {
            let ids_in = ids(&prompt["input_ids"]);
            let off = max_diff(&logits(&ids_in), &floats(&prompt["base_last_logits"]));
            assert!(off < TOLERANCE, "{case}: the base is off by {off}");
            let late = greedy(&*model, &ids_in, Some("late"));
            assert_eq!(late, ids(&prompt["adapter_greedy"]), "{case}");
        }
    }
}

/// Over quantized weights an adapter is applied as it is, not quantized: as
/// the reference applies it over the same weights, decoded.
#[test]
fn quantized_weights_keep_an_exact_adapter() {
    for (base, case) in [("llama-llama3rope", "llama-r8-all"), ("qwen2", "qwen2-bias")] {
        let Some(base) = inference_fixtures::dir(&format!("tiny/{base}")) else { return };
        let adapter = inference_fixtures::dir(&format!("lora/{case}")).unwrap();
        let expected = inference_fixtures::json(&adapter.join("expected.json"));
        for kind in [QuantizeType::Q8_0, QuantizeType::Q4_0] {
            let options = LoadOptions::new()
                .with_quantize(kind)
                .with_precision(inference_core::Precision::Exact)
                .with_adapter_path(&adapter);
            let model = load(&base, &options);
            let ops =
                Arc::new(ReferenceOps::cpu().with_precision(inference_core::Precision::Exact));
            let mut plain = options.clone();
            plain.precision = None;
            let source = ModelSource::from(base.clone());
            let reference = inference_candle::load_model("cpu", &source, &plain, ops).unwrap();
            for prompt in expected["prompts"].as_array().unwrap() {
                let prompt = ids(&prompt["input_ids"]);
                let [found, wanted] = [&model, &reference].map(|model| {
                    let scorer = model.as_scorer().unwrap();
                    scorer.prompt_logits(prompt.clone().into(), LogitRows::Last).unwrap().values
                });
                let off = max_diff(&found, &wanted);
                assert!(off < TOLERANCE, "{case} over {kind:?}: off by {off}");
                let tokens = [&model, &reference].map(|model| greedy(&**model, &prompt, None));
                assert_eq!(tokens[0], tokens[1], "{case} over {kind:?}");
            }
        }
    }
}

const BLOCK: usize = 8;
const BLOCKS: usize = 64;

fn runner(dir: &Path, ops: Arc<dyn Ops>) -> CandleRunner {
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
        dtype: KvDtype::F32,
    };
    let cache = ops.kv_cache(&layout).unwrap();
    CandleRunner::new(Decoder::new(config, &weights, ops).unwrap(), cache, 256)
}

fn cpu(threads: usize, tier: Tier) -> Arc<dyn Ops> {
    Arc::new(CpuOps::new(&CpuOptions::new().with_tier(tier).with_threads(threads)).unwrap())
}

/// Reproducible values in (-0.5, 0.5).
fn noise(shape: (usize, usize), seed: usize) -> Tensor {
    let value = |i: usize| {
        let hash = (i * 2 + seed * 7919 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        hash as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// An adapter of some of the modules: low-rank changes, and for odd seeds
/// another head and a bias of a `B`.
fn adapter(runner: &CandleRunner, seed: usize) -> AdapterWeights {
    let table = runner.decoder().config().modules();
    let mut weights = AdapterWeights::default();
    for (index, (name, module)) in table.modules.iter().enumerate() {
        if !name.ends_with("_proj") || name.contains("experts") || (index + seed).is_multiple_of(3)
        {
            continue;
        }
        let rank = [1, 4, 17][(index + seed) % 3];
        let a = noise((rank, module.input), seed + index);
        let b = noise((module.out, rank), seed + index + 1);
        let mut delta = ModuleDelta::new(a, b, 0.2);
        if seed % 2 == 1 {
            delta = delta.with_bias(noise((1, module.out), seed).squeeze(0).unwrap());
        }
        weights.modules.insert(name.clone(), delta);
    }
    if seed % 2 == 1 {
        let head = &table.modules["lm_head"];
        weights.weights.insert("lm_head".to_owned(), noise((head.out, head.input), seed));
    }
    weights
}

/// Part of a step: which sequence, from and to which of its tokens.
type Part = (usize, usize, usize);

/// Bits of every position's logits, by sequence; sequence `i` has the `i`-th
/// lease.
fn run(
    runner: &mut CandleRunner,
    leases: &[Option<AdapterLease>],
    prompts: &[Vec<u32>],
    steps: &[Vec<Part>],
) -> Vec<Vec<Vec<u32>>> {
    let vocab = runner.spec().vocab_size;
    let mut logits = vec![Vec::new(); prompts.len()];
    for step in steps {
        let mut batch = StepBatch::default();
        for (sequence, from, to) in step.iter().copied() {
            let blocks = (0..8u32).map(|b| (b * 5 % 8) * 8 + sequence as u32);
            batch.sequences.push(StepSequence {
                start: batch.tokens.len(),
                len: to - from,
                position: from,
                prompt_len: prompts[sequence].len(),
                adapter: leases[sequence].as_ref().map(AdapterLease::id),
                block_table: blocks.collect(),
            });
            batch.tokens.extend(&prompts[sequence][from..to]);
        }
        batch.logit_rows = (0..batch.tokens.len()).collect();
        let values = runner.forward(&batch).unwrap();
        let mut rows = values.chunks_exact(vocab);
        for (sequence, from, to) in step.iter().copied() {
            for row in rows.by_ref().take(to - from) {
                logits[sequence].push(row.iter().map(|x| x.to_bits()).collect());
            }
        }
    }
    logits
}

/// Which adapter each of six sequences has: two of one, one of another scale.
const CHOICE: [Option<&str>; 6] = [Some("a"), None, Some("b"), Some("a"), Some("half"), None];

fn with_adapters(dir: &Path, ops: Arc<dyn Ops>) -> (CandleRunner, Vec<Option<AdapterLease>>) {
    let runner = runner(dir, ops);
    let pool = runner.adapters();
    for (name, seed, scale) in [("a", 1, 1.0), ("b", 2, 1.0), ("half", 1, 0.5)] {
        pool.insert(name, &adapter(&runner, seed), scale).unwrap();
    }
    let leases = CHOICE.map(|name| name.map(|name| pool.acquire(Some(name)).unwrap().unwrap()));
    (runner, leases.into())
}

fn dirs() -> Vec<PathBuf> {
    let cases = ["llama-llama3rope", "phi3-longrope", "gemma2", "mixtral", "llama-h256"];
    cases.iter().filter_map(|case| inference_fixtures::dir(&format!("tiny/{case}"))).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..6).map(|s| (0..9 + s * 5).map(|i| (i * 7 + s * 13 + 3) % 200).collect()).collect()
}

#[test]
fn the_same_bits_alone_and_in_any_company() {
    for dir in dirs() {
        let prompts = prompts();
        let len = |s: usize| prompts[s].len();
        let alone: Vec<Vec<Part>> = (0..6).map(|s| vec![(s, 0, len(s))]).collect();
        let (mut first, leases) = with_adapters(&dir, cpu(1, Tier::Scalar));
        let reference = run(&mut first, &leases, &prompts, &alone);
        let differs = |a: usize, b: usize| reference[a][0] != reference[b][0];
        assert!(differs(0, 1) && differs(0, 2), "adapters change something");
        let together: Vec<Part> = (0..6).map(|s| (s, 0, len(s))).collect();
        let backwards: Vec<Part> = together.iter().rev().copied().collect();
        let one_by_one: Vec<Vec<Part>> = (0..len(5))
            .map(|t| (0..6).filter(|s| t < len(*s)).map(|s| (s, t, t + 1)).collect())
            .collect();
        let chunks: Vec<Vec<Part>> = (0..9)
            .map(|c| {
                let part = |s: usize| (s, (c * 4).min(len(s)), (c * 4 + 4).min(len(s)));
                (0..6).map(part).filter(|(_, from, to)| from < to).collect()
            })
            .collect();
        let ways = [vec![together], vec![backwards], one_by_one, chunks];
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            for threads in [1, 2, 5] {
                let (mut runner, leases) = with_adapters(&dir, cpu(threads, tier));
                for steps in &ways {
                    let found = run(&mut runner, &leases, &prompts, steps);
                    assert!(found == reference, "{}, {tier}, {threads} threads", dir.display());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any cut of the prompts into steps, in any order of sequences.
    #[test]
    fn any_schedule_gives_the_same_bits(cuts in prop::collection::vec((0_usize..6, 1_usize..12), 1..40)) {
        let Some(dir) = inference_fixtures::dir("tiny/llama-llama3rope") else { return Ok(()) };
        let prompts = prompts();
        let (mut runner, leases) = with_adapters(&dir, cpu(2, Tier::best()));
        let alone: Vec<Vec<Part>> = (0..6).map(|s| vec![(s, 0, prompts[s].len())]).collect();
        let reference = run(&mut runner, &leases, &prompts, &alone);
        let mut done = [0; 6];
        let mut steps: Vec<Vec<Part>> = vec![Vec::new()];
        for (sequence, count) in cuts {
            let to = (done[sequence] + count).min(prompts[sequence].len());
            if to == done[sequence] {
                continue;
            }
            let step = steps.last_mut().unwrap();
            if step.iter().any(|(s, ..)| *s == sequence) {
                steps.push(Vec::new());
            }
            steps.last_mut().unwrap().push((sequence, done[sequence], to));
            done[sequence] = to;
        }
        steps.retain(|step| !step.is_empty());
        let found = run(&mut runner, &leases, &prompts, &steps);
        for (found, reference) in found.iter().zip(&reference) {
            prop_assert!(found[..] == reference[..found.len()]);
        }
    }
}

/// The executor and the reference's blocks over the same operations, and the
/// reference operations as far as they round the same.
#[test]
fn the_executor_is_the_reference() {
    for dir in dirs() {
        let prompts = prompts();
        let together = vec![(0..6).map(|s| (s, 0, prompts[s].len())).collect::<Vec<Part>>()];
        let (mut own, leases) = with_adapters(&dir, cpu(2, Tier::best()));
        let found = run(&mut own, &leases, &prompts, &together);
        let (mut reference, leases) = with_adapters(&dir, Arc::new(ReferenceOps::cpu()));
        let wanted = run(&mut reference, &leases, &prompts, &together);
        for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
            let [found, wanted] = [found, wanted]
                .map(|row| row.iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<f32>>());
            let size = wanted.iter().fold(1.0f32, |size, x| size.max(x.abs()));
            let off = max_diff(&found, &wanted) / size;
            assert!(off < TOLERANCE, "{}: off by {off}", dir.display());
        }
    }
}

/// Requests of many adapters through the engine, of which few fit the memory.
#[test]
fn hundreds_of_adapters_take_turns_in_memory() {
    let Some(base) = inference_fixtures::dir("tiny/llama-llama3rope") else { return };
    let files = ["llama-r8-all", "llama-r4-attention", "llama-rslora"]
        .map(|case| inference_fixtures::dir(&format!("lora/{case}")).unwrap());
    let one = load(&base, &LoadOptions::new());
    let sizes =
        files.each_ref().map(|file| one.as_adapters().unwrap().load("x", file, 1.0).unwrap().bytes);
    // Room for any two.
    let budget = sizes.iter().sum::<u64>() - sizes.iter().min().unwrap();
    let model = load(&base, &LoadOptions::new().with_adapter_budget(budget));
    let adapters = model.as_adapters().unwrap();
    for index in 0..200 {
        adapters.load(&format!("{index}"), &files[index % 3], 1.0).unwrap();
    }
    let resident: u64 =
        adapters.list().iter().filter(|info| info.resident).map(|info| info.bytes).sum();
    assert_eq!(adapters.list().len(), 200);
    assert!(resident <= budget, "{resident} of {budget}");
    let prompt = vec![5, 6, 7];
    let expected: BTreeMap<usize, Vec<u32>> = (0..3)
        .map(|kind| {
            one.as_adapters().unwrap().load("x", &files[kind], 1.0).unwrap();
            (kind, greedy(&*one, &prompt, Some("x")))
        })
        .collect();
    assert!(expected[&0] != expected[&1]);
    for index in [0, 199, 1, 2, 100, 57, 0, 3] {
        let name = index.to_string();
        assert_eq!(greedy(&*model, &prompt, Some(&name)), expected[&(index % 3)], "{index}");
    }
    // What does not fit beside those in use is refused with the numbers.
    let items = (0..3).map(|index| {
        let options = GenerateOptions::new().with_max_tokens(4).with_adapter(index.to_string());
        BatchItem::new(prompt.clone()).with_options(options)
    });
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    let refused: Vec<_> = outputs.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|e| e.kind() == inference_core::ErrorKind::Exhausted));
    assert_eq!(greedy(&*model, &prompt, Some("2")), expected[&2], "there is room again");
}
