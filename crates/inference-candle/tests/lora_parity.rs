//! Reference adapters on the reference operations: logits and greedy tokens of
//! real PEFT, what is refused, and gradients through the maps of an adapter.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use common::{argmax, decoder, max_diff, sequence};
use inference_candle::{AdapterRows, BatchView, Decoder, DecoderAdapter};
use inference_core::ErrorKind;
use inference_fixtures::{floats, ids};
use inference_lora::{AdapterFiles, AdapterWeights, ModuleDelta, ReadOptions};

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

fn weights(decoder: &Decoder, dir: &Path) -> AdapterWeights {
    let table = decoder.config().modules();
    AdapterFiles::open(dir).unwrap().read(&table, ReadOptions::new()).unwrap().weights
}

/// The last row of a prompt computed whole, with an adapter over its last
/// `adapted` tokens of the batch: the prompt stands after another's.
fn last_logits(
    decoder: &Decoder,
    adapter: Option<&DecoderAdapter>,
    prompt: &[u32],
    company: &[u32],
) -> Vec<f32> {
    let (before, len) = (company.len(), prompt.len());
    let mut sequences = Vec::new();
    if before > 0 {
        sequences.push(sequence(0, before, before));
    }
    let mut own = sequence(0, len, len);
    own.start = before;
    sequences.push(own);
    let positions: Vec<usize> = (0..before).chain(0..len).collect();
    let rows = (before as u32..(before + len) as u32).collect();
    let adapters: Vec<_> =
        adapter.map(|adapter| AdapterRows { adapter, scale: 1.0, rows }).into_iter().collect();
    let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &adapters };
    let tokens = [company, prompt].concat();
    let logits = decoder.forward(&tokens, &batch, None, &[before + len - 1]).unwrap();
    logits.to_vec2().unwrap().remove(0)
}

#[test]
fn logits_and_greedy_tokens_are_those_of_peft() {
    for case in CASES {
        let Some(dir) = inference_fixtures::dir(&format!("lora/{case}")) else { return };
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let base = expected["base"].as_str().unwrap();
        let decoder = decoder(&inference_fixtures::dir(&format!("tiny/{base}")).unwrap());
        let adapter = DecoderAdapter::new(&decoder, &weights(&decoder, &dir)).unwrap();
        for prompt in expected["prompts"].as_array().unwrap() {
            let prompt_ids = ids(&prompt["input_ids"]);
            let reference = floats(&prompt["adapter_last_logits"]);
            let plain = floats(&prompt["base_last_logits"]);
            for company in [&[][..], &[1, 2, 3]] {
                let found = last_logits(&decoder, Some(&adapter), &prompt_ids, company);
                let off = max_diff(&found, &reference);
                assert!(off < TOLERANCE, "{case}: off by {off}");
                let found = last_logits(&decoder, None, &prompt_ids, company);
                assert!(max_diff(&found, &plain) < TOLERANCE, "{case}: the base");
            }
            let mut all = prompt_ids.clone();
            for token in ids(&prompt["adapter_greedy"]) {
                let next = argmax(&last_logits(&decoder, Some(&adapter), &all, &[]));
                assert_eq!(next, token, "{case}");
                all.push(next);
            }
        }
    }
}

fn llama() -> Option<Decoder> {
    Some(decoder(&inference_fixtures::dir("tiny/llama-llama3rope")?))
}

fn zeros(rows: usize, columns: usize) -> Tensor {
    Tensor::zeros((rows, columns), candle_core::DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let Some(decoder) = llama() else { return };
    let hidden = decoder.config().hidden_size;
    let q = "layers.0.self_attn.q_proj";
    let one = |name: &str, a: Tensor, b: Tensor| {
        AdapterWeights::new(BTreeMap::from([(name.to_owned(), ModuleDelta::new(a, b, 1.0))]))
    };
    for (weights, kind, parts) in [
        (one(q, zeros(4, 7), zeros(hidden, 4)), ErrorKind::InvalidInput, [q, "[rank, "]),
        (one(q, zeros(4, hidden), zeros(9, 4)), ErrorKind::InvalidInput, [q, "[9, 4]"]),
        (one(q, zeros(4, hidden), zeros(hidden, 3)), ErrorKind::InvalidInput, [q, ", 3]"]),
        (one(q, zeros(0, hidden), zeros(hidden, 0)), ErrorKind::InvalidInput, [q, "[0, "]),
        (
            one("layers.99.x", zeros(1, 1), zeros(1, 1)),
            ErrorKind::InvalidInput,
            ["layers.99.x", "down_proj"],
        ),
        (
            one("embed_tokens", zeros(1, 1), zeros(1, 1)),
            ErrorKind::UnsupportedModel,
            ["embed_tokens", "merge"],
        ),
    ] {
        let error = DecoderAdapter::new(&decoder, &weights).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    let Some(dora) = inference_fixtures::dir("lora/qwen2-dora") else { return };
    let qwen2 = self::decoder(&inference_fixtures::dir("tiny/qwen2").unwrap());
    let error = DecoderAdapter::new(&qwen2, &weights(&qwen2, &dora)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.to_string().contains("DoRA"), "{error}");
}

/// Of a mixture of experts attention can be changed, experts cannot.
#[test]
fn experts_are_refused_by_name() {
    let Some(dir) = inference_fixtures::dir("tiny/mixtral") else { return };
    let decoder = decoder(&dir);
    let table = decoder.config().modules();
    for (name, module) in &table.modules {
        let (a, b) = (zeros(2, module.input), zeros(module.out, 2));
        let delta = ModuleDelta::new(a, b, 1.0);
        let weights = AdapterWeights::new(BTreeMap::from([(name.clone(), delta)]));
        let made = DecoderAdapter::new(&decoder, &weights);
        let works = name.contains("self_attn.") && !name.ends_with("norm") || name == "lm_head";
        assert_eq!(made.is_ok(), works, "{name}");
        if let Err(error) = made {
            assert!(error.to_string().contains(name.as_str()), "{error}");
        }
    }
}

/// Rows of fused maps: the delta of the whole is that of its parts.
#[test]
fn a_fused_map_gets_its_rows_of_b() {
    let Some(dir) = inference_fixtures::dir("tiny/phi3-longrope") else { return };
    let decoder = decoder(&dir);
    let table = decoder.config().modules();
    let name = "layers.0.self_attn.qkv_proj";
    let module = &table.modules[name];
    let random = |rows, columns| Tensor::randn(0f32, 0.5, (rows, columns), &Device::Cpu).unwrap();
    let (a, b) = (random(3, module.input), random(module.out, 3));
    let delta = ModuleDelta::new(a.clone(), b.clone(), 0.5);
    let weights = AdapterWeights::new(BTreeMap::from([(name.to_owned(), delta)]));
    let adapter = DecoderAdapter::new(&decoder, &weights).unwrap();
    let x = random(4, module.input);
    let groups = [AdapterRows { adapter: &adapter, scale: 2.0, rows: vec![1, 3] }];
    use inference_candle::{AdaptedMap, LayerMap, project};
    let outputs = [LayerMap::Query, LayerMap::Key, LayerMap::Value].map(|map| {
        let linear = decoder.layer_map(0, map).unwrap();
        let at = AdaptedMap::Layer(0, map);
        let adapted = project(&**decoder.ops(), linear, at, &x, &groups).unwrap();
        (adapted - linear.forward(&x).unwrap()).unwrap()
    });
    let found = Tensor::cat(&outputs, 1).unwrap().to_vec2::<f32>().unwrap();
    let whole = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
    let whole = whole.to_vec2::<f32>().unwrap();
    for row in 0..4 {
        let expected = if row % 2 == 1 { whole[row].clone() } else { vec![0.0; module.out] };
        let off = max_diff(&found[row], &expected);
        assert!(off < 1e-4, "row {row}: {off}");
    }
}

/// Adapters of variables can be trained through the reference.
#[test]
fn gradients_reach_every_factor() {
    let Some(decoder) = llama() else { return };
    let table = decoder.config().modules();
    let mut variables = Vec::new();
    let mut modules = BTreeMap::new();
    let maps = table.modules.iter().filter(|(name, _)| name.ends_with("_proj"));
    for (name, module) in maps {
        let [a, b] = [(2, module.input), (module.out, 2)]
            .map(|shape| Var::randn(0f32, 0.1, shape, &Device::Cpu).unwrap());
        let delta = ModuleDelta::new(a.as_tensor().clone(), b.as_tensor().clone(), 1.0);
        modules.insert(name.clone(), delta);
        variables.extend([(name.clone(), a), (name.clone(), b)]);
    }
    assert_eq!(variables.len(), decoder.layers().len() * 14);
    let adapter = DecoderAdapter::new(&decoder, &AdapterWeights::new(modules)).unwrap();
    let sequences = [sequence(0, 5, 5)];
    let adapters = [AdapterRows { adapter: &adapter, scale: 1.0, rows: vec![0, 1, 2, 3] }];
    let batch =
        BatchView { sequences: &sequences, positions: &[0, 1, 2, 3, 4], adapters: &adapters };
    let logits = decoder.forward(&[1, 2, 3, 4, 5], &batch, None, &[0, 1, 2, 3, 4]).unwrap();
    let gradients = logits.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for (name, variable) in &variables {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has none"));
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest > 0.0 && largest.is_finite(), "{name}: {largest}");
    }
}
