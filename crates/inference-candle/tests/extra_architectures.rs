//! Architectures outside the parametric decoder against transformers
//! (`data/extra/make_extra.py`).

#![cfg(feature = "extra-architectures")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_candle::{ReferenceOps, extra_architectures, load_model};
use inference_core::{
    ErrorKind, GenerateOptions, KvDtype, LoadOptions, LogitRows, ModelSource, Prompt, QuantizeType,
    Result, TextModel,
};
use inference_fixtures::{floats, ids};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The tolerance on logits.
const TOLERANCE: f32 = 1e-3;

fn data(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/extra").join(case)
}

fn load_with(dir: &Path, options: &LoadOptions) -> Result<Arc<dyn TextModel>> {
    let ops = Arc::new(ReferenceOps::cpu());
    load_model("reference", &ModelSource::from(dir), options, ops)
}

fn load(dir: &Path) -> Result<Arc<dyn TextModel>> {
    load_with(dir, &LoadOptions::new())
}

fn logits(model: &dyn TextModel, prompt: &[u32], rows: LogitRows) -> Vec<f32> {
    let scorer = model.as_scorer().unwrap();
    scorer.prompt_logits(Prompt::from(prompt.to_vec()), rows).unwrap().values
}

fn greedy(model: &dyn TextModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let options = GenerateOptions::new().with_max_tokens(count).with_ignore_eos(true);
    let tokens = model.generate(Prompt::from(prompt.to_vec()), options).unwrap();
    tokens.map(|token| token.unwrap().id).collect()
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Prompts with what the reference computes from them.
fn prompts(case: &str) -> Vec<(Vec<u32>, Vec<f32>, Vec<u32>)> {
    let expected = inference_fixtures::json(&data(case).join("expected.json"));
    let prompt = |p: &Value| (ids(&p["input_ids"]), floats(&p["last_logits"]), ids(&p["greedy"]));
    expected["prompts"].as_array().unwrap().iter().map(prompt).collect()
}

fn check(case: &str) {
    let model = load(&data(case)).unwrap();
    for (input, reference, continuation) in prompts(case) {
        let whole = logits(&*model, &input, LogitRows::Last);
        let diff = max_diff(&whole, &reference);
        assert!(diff < TOLERANCE, "{case}: logits differ by {diff}");
        // The comparison means something: logits are spread.
        assert!(reference.iter().any(|logit| logit.abs() > 1.0), "{case}");
        // Every position's logits are those after a prompt that ends there.
        let all = logits(&*model, &input, LogitRows::All);
        let rows: Vec<&[f32]> = all.chunks_exact(reference.len()).collect();
        assert_eq!(rows.len(), input.len());
        for (end, row) in [(1, rows[0]), (2, rows[1]), (input.len(), rows[input.len() - 1])] {
            let prompt = logits(&*model, &input[..end], LogitRows::Last);
            let diff = max_diff(row, &prompt);
            assert!(diff < TOLERANCE, "{case}: row {end} differs by {diff}");
        }
        assert_eq!(greedy(&*model, &input, 12), continuation, "{case}");
    }
    let info = model.info();
    assert!(info.parameters > 0 && info.num_layers == 2 && info.vocab_size == 64, "{info:?}");
}

macro_rules! parity {
    ($($name:ident: $case:literal,)*) => {
        $(#[test]
        fn $name() {
            check($case);
        })*
    };
}

parity! {
    falcon: "falcon",
    falcon_bias: "falcon-bias",
    gpt_bigcode: "gpt_bigcode",
    helium: "helium",
    mamba: "mamba",
    mamba2: "mamba2",
    olmo: "olmo",
    phi: "phi",
    stablelm: "stablelm",
    stablelm_2: "stablelm-2",
    starcoder2: "starcoder2",
}

/// A copy of a case with another configuration.
fn changed(case: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut config = inference_fixtures::json(&data(case).join("config.json"));
    change(&mut config);
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(data(case).join(weights), copy.path().join(weights)).unwrap();
    copy
}

/// Loading fails, and says where.
fn refused(dir: &Path, options: &LoadOptions, kind: ErrorKind, place: &str) {
    let Err(error) = load_with(dir, options) else { panic!("{place} should be refused") };
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(place), "{error}");
}

#[test]
fn sequences_beside_each_other_are_as_they_are_alone() {
    for case in ["falcon", "mamba", "stablelm"] {
        let model = load_with(&data(case), &LoadOptions::new().with_parallel_slots(2)).unwrap();
        let mut streams: Vec<_> = prompts(case)
            .into_iter()
            .map(|(input, _, continuation)| {
                let options = GenerateOptions::new().with_max_tokens(12).with_ignore_eos(true);
                let stream = model.generate(Prompt::from(input), options).unwrap();
                (stream, Vec::new(), continuation)
            })
            .collect();
        for _ in 0..12 {
            for (stream, generated, _) in &mut streams {
                generated.push(stream.next().unwrap().unwrap().id);
            }
        }
        for (_, generated, continuation) in streams {
            assert_eq!(generated, continuation, "{case}");
        }
    }
}

#[test]
fn every_architecture_has_a_case() {
    let source = include_str!("extra_architectures.rs");
    for name in extra_architectures() {
        assert!(source.contains(&format!(": \"{name}\",")), "{name} is not tested");
    }
    assert!(extra_architectures().is_sorted());
}

#[test]
fn what_is_computed_otherwise_is_refused_by_field() {
    for (case, field, value) in [
        ("falcon", "activation", json!("gelu")),
        ("falcon", "alibi", json!(true)),
        ("falcon", "new_decoder_architecture", json!(true)),
        ("falcon", "multi_query", json!(false)),
        ("falcon", "rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"})),
        ("gpt_bigcode", "multi_query", json!(false)),
        ("helium", "attention_bias", json!(true)),
        ("mamba", "state_size", json!(8)),
        ("mamba", "layer_norm_epsilon", json!(1e-6)),
        ("mamba", "tie_word_embeddings", json!(false)),
        ("mamba2", "n_groups", json!(2)),
        ("mamba2", "tie_word_embeddings", json!(false)),
        ("mamba2", "time_step_limit", json!([0.0, 0.5])),
        ("phi", "qk_layernorm", json!(true)),
        ("stablelm", "use_parallel_residual", json!(true)),
        ("stablelm", "qk_layernorm", json!(true)),
        ("starcoder2", "tie_word_embeddings", json!(false)),
        ("starcoder2", "hidden_act", json!("mish")),
        ("olmo", "rope_parameters", json!({"rope_theta": 1e4, "rope_type": "linear", "factor": 2})),
        ("olmo", "quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        ("olmo", "architectures", json!(["OlmoForSequenceClassification"])),
    ] {
        let dir = changed(case, |config| config[field] = value);
        refused(dir.path(), &LoadOptions::new(), ErrorKind::UnsupportedModel, field);
    }
}

#[test]
fn options_without_a_meaning_are_refused() {
    for (options, name) in [
        (LoadOptions::new().with_threads(2), "threads"),
        (LoadOptions::new().with_kv_dtype(KvDtype::F16), "kv_dtype"),
        (LoadOptions::new().with_quantize(QuantizeType::Q8_0), "quantize"),
    ] {
        refused(&data("phi"), &options, ErrorKind::Unsupported, name);
    }
    let long = LoadOptions::new().with_context_len(129);
    refused(&data("phi"), &long, ErrorKind::InvalidOption, "context_len");
}

/// The window of StarCoder 2 bounds its context.
#[test]
fn the_context_is_what_is_computed_as_trained() {
    let context = |case: &str| load(&data(case)).unwrap().info().context_len;
    assert_eq!(context("starcoder2"), 96);
    assert_eq!(context("olmo"), 128);
    // A token's keys and values: 2 layers, 1 head of 8, f32.
    let options = LoadOptions::new().with_kv_budget(50 * 2 * 2 * 8 * 4);
    assert_eq!(load_with(&data("falcon"), &options).unwrap().info().context_len, 50);
    let dir = data("falcon");
    refused(&dir, &LoadOptions::new().with_kv_budget(100), ErrorKind::Exhausted, "kv_budget");
}

#[test]
fn tensors_that_are_missing_misshapen_or_left_over_are_named() {
    for (field, value, kind, tensor) in [
        ("intermediate_size", json!(40), ErrorKind::InvalidModel, "model.layers.0.mlp"),
        ("num_hidden_layers", json!(3), ErrorKind::InvalidModel, "model.layers.2."),
        ("num_hidden_layers", json!(1), ErrorKind::UnsupportedModel, "model.layers.1."),
        ("vocab_size", json!(65), ErrorKind::InvalidModel, "model.embed_tokens.weight"),
    ] {
        let dir = changed("stablelm", |config| config[field] = value);
        refused(dir.path(), &LoadOptions::new(), kind, tensor);
    }
    // Biases of queries that the configuration does not know.
    let dir = changed("stablelm-2", |config| config["use_qkv_bias"] = json!(false));
    let unused = "self_attn.k_proj.bias";
    refused(dir.path(), &LoadOptions::new(), ErrorKind::UnsupportedModel, unused);
}

const CASES: [&str; 9] =
    ["falcon", "gpt_bigcode", "helium", "mamba", "mamba2", "olmo", "phi", "stablelm", "starcoder2"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A field of the configuration replaced: a model or an error.
    #[test]
    fn damaged_configurations_are_a_model_or_an_error(
        case in 0..CASES.len(),
        field in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            json!(null), json!(0), json!(1), json!(3), json!(1 << 20), json!(-1), json!(0.5),
            json!(1e300), json!(true), json!(false), json!("x"), json!([]), json!({}),
        ]),
    ) {
        let dir = changed(CASES[case], |config| {
            let fields = config.as_object_mut().unwrap();
            let name = fields.keys().nth(field.index(fields.len())).unwrap().clone();
            fields[&name] = value.clone();
        });
        if let Ok(model) = load(dir.path()) {
            if model.info().context_len < 5 {
                // A context too short for the prompt is a model too, and says so.
                let error = model.generate(Prompt::from(vec![1; 5]), GenerateOptions::new());
                prop_assert_eq!(error.unwrap_err().kind(), ErrorKind::Exhausted);
            } else {
                prop_assert_eq!(greedy(&*model, &[1, 2, 3], 2).len(), 2);
            }
        }
    }
}
