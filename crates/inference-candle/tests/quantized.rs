//! Quantized safetensors against transformers on the dequantized weights
//! (`data/quantized/make_quantized.py`), and what is wrong with some.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_candle::{
    ModelFiles, QuantizationScheme, QuantizedWeights, ReferenceOps, SafetensorsFiles, WeightSource,
    WeightType, load_model,
};
use inference_core::{
    ErrorKind, GenerateOptions, LoadOptions, LogitRows, ModelSource, Prompt, Result, TextModel,
};
use inference_fixtures::{floats, ids};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// The tolerance on logits.
const TOLERANCE: f32 = 1e-3;

const CASES: [&str; 8] = [
    "awq",
    "fp8-block",
    "fp8-scale",
    "gptq-asym",
    "gptq-sym",
    "gptq-v2-act-order",
    "mlx-4bit",
    "mlx-8bit",
];

fn data(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantized").join(case)
}

fn load(dir: &Path) -> Result<Arc<dyn TextModel>> {
    let ops = Arc::new(ReferenceOps::cpu());
    load_model("reference", &ModelSource::from(dir), &LoadOptions::new(), ops)
}

fn last_logits(model: &dyn TextModel, prompt: &[u32]) -> Vec<f32> {
    let scorer = model.as_scorer().unwrap();
    scorer.prompt_logits(Prompt::from(prompt.to_vec()), LogitRows::Last).unwrap().values
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_format_computes_what_its_dequantized_weights_do() {
    for case in CASES {
        let dir = data(case);
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        let model = load(&dir).unwrap();
        for prompt in expected["prompts"].as_array().unwrap() {
            let input = ids(&prompt["input_ids"]);
            let reference = floats(&prompt["last_logits"]);
            let logits = last_logits(&*model, &input);
            let diff = max_diff(&logits, &reference);
            assert!(diff < TOLERANCE, "{case}: logits differ by {diff}");
            // The comparison means something: logits are spread.
            assert!(reference.iter().any(|logit| logit.abs() > 1.0), "{case}");
            let options = GenerateOptions::new().with_max_tokens(8).with_ignore_eos(true);
            let tokens = model.generate(Prompt::from(input), options).unwrap();
            let generated: Vec<u32> = tokens.map(|token| token.unwrap().id).collect();
            assert_eq!(generated, ids(&prompt["greedy"]), "{case}");
        }
    }
}

/// The weights of a folder.
fn weights(dir: &Path) -> Result<QuantizedWeights> {
    let files = ModelFiles::new(&ModelSource::from(dir))?;
    let json = files.read_required("config.json")?;
    let scheme = QuantizationScheme::from_json("config.json", &json)?;
    Ok(QuantizedWeights::new(SafetensorsFiles::open(&files)?, scheme.unwrap()))
}

#[test]
fn weights_stay_in_their_codes() {
    let bits = |case: &str| if case.contains("fp8") || case.contains("8bit") { 8 } else { 4 };
    for case in CASES {
        let weights = weights(&data(case)).unwrap();
        let weight = weights.get("model.layers.0.self_attn.q_proj.weight").unwrap();
        assert!(matches!(weight.kind(), WeightType::Coded(_)), "{case}: {weight:?}");
        let quantization = weight.quantization().unwrap();
        assert_eq!(quantization.bits, bits(case), "{case}");
        // Codes, and at most 8 bits of scale and offset for 8 weights.
        let elements = weight.elem_count() as u64;
        let most = elements * u64::from(quantization.bits) / 8 + elements / 8;
        assert!(weight.stored_bytes() <= most, "{case}: {}", weight.stored_bytes());
        // Rows decode the same in any number, and as a part.
        let columns = weight.columns();
        let mut all = vec![0.0; weight.elem_count()];
        weight.decode_rows(0, &mut all).unwrap();
        let part = weight.narrow_rows(3..40).unwrap();
        let mut some = vec![0.0; 2 * columns];
        part.decode_rows(5, &mut some).unwrap();
        assert_eq!(some, all[8 * columns..10 * columns], "{case}");
        // A module's other tensors, and dense modules, are as they are.
        let norm = weights.get("model.norm.weight").unwrap();
        assert!(matches!(norm.kind(), WeightType::Dense(_)), "{case}");
    }
    for (case, dense) in [
        ("mlx-4bit", "self_attn.o_proj"),
        ("fp8-scale", "self_attn.k_proj"),
        ("fp8-block", "self_attn.v_proj"),
    ] {
        let name = format!("model.layers.0.{dense}.weight");
        let weight = weights(&data(case)).unwrap().get(&name).unwrap();
        assert!(matches!(weight.kind(), WeightType::Dense(_)), "{case}: {weight:?}");
    }
}

fn read(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header, bytes[8 + length..].to_vec())
}

fn write(path: &Path, header: &Map<String, Value>, data: &[u8]) {
    let json = serde_json::to_vec(header).unwrap();
    let length = json.len() as u64;
    std::fs::write(path, [&length.to_le_bytes()[..], &json, data].concat()).unwrap();
}

/// A copy of a case whose configuration, header and data were changed.
fn changed(
    case: &str,
    change: impl FnOnce(&mut Value, &mut Map<String, Value>, &mut Vec<u8>),
) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut config = inference_fixtures::json(&data(case).join("config.json"));
    let (mut header, mut bytes) = read(&data(case).join("model.safetensors"));
    change(&mut config, &mut header, &mut bytes);
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    write(&copy.path().join("model.safetensors"), &header, &bytes);
    copy
}

#[test]
fn the_version_of_gptq_matters() {
    let dir = changed("gptq-asym", |config, _, _| {
        config["quantization_config"]["checkpoint_format"] = json!("gptq_v2");
    });
    let prompt = [1, 5, 9, 33];
    let right = last_logits(&*load(&data("gptq-asym")).unwrap(), &prompt);
    let wrong = last_logits(&*load(dir.path()).unwrap(), &prompt);
    assert!(max_diff(&right, &wrong) > 0.1);
}

#[test]
fn fp8_codes_are_those_of_torch() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"quantization_config": {"quant_method": "fp8"}});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(1.0_f32.to_le_bytes());
    let header = json!({
        "x.weight": {"dtype": "F8_E4M3", "shape": [16, 16], "data_offsets": [0, 256]},
        "x.weight_scale_inv": {"dtype": "F32", "shape": [], "data_offsets": [256, 260]},
    });
    write(&dir.path().join("model.safetensors"), header.as_object().unwrap(), &bytes);
    let mut values = [0.0; 256];
    weights(dir.path()).unwrap().get("x.weight").unwrap().decode_rows(0, &mut values).unwrap();
    let torch = inference_fixtures::json(&data("e4m3.json"));
    for (code, value) in torch.as_array().unwrap().iter().enumerate() {
        match value.as_f64() {
            Some(value) => assert_eq!(values[code].to_bits(), (value as f32).to_bits(), "{code}"),
            None => assert!(values[code].is_nan(), "{code}"),
        }
    }
}

const LAYER: &str = "model.layers.0.";

#[test]
fn a_missing_tensor_is_named() {
    for (case, tensor) in [
        ("mlx-4bit", "mlp.up_proj.scales"),
        ("mlx-8bit", "mlp.up_proj.biases"),
        ("gptq-sym", "mlp.up_proj.scales"),
        ("gptq-asym", "self_attn.q_proj.qzeros"),
        ("awq", "mlp.up_proj.qzeros"),
        ("fp8-scale", "mlp.down_proj.weight_scale"),
        ("fp8-block", "mlp.down_proj.weight_scale_inv"),
    ] {
        let name = format!("{LAYER}{tensor}");
        let dir = changed(case, |_, header, _| drop(header.shift_remove(&name).unwrap()));
        refused(case, dir.path(), &name);
    }
}

#[test]
fn a_misshapen_tensor_is_named() {
    for (case, tensor, shape) in [
        ("mlx-4bit", "mlp.up_proj.scales", json!([48, 4])),
        ("mlx-8bit", "mlp.up_proj.biases", json!([1, 64])),
        ("mlx-4bit", "mlp.up_proj.weight", json!([768])),
        ("gptq-asym", "mlp.up_proj.scales", json!([96, 2])),
        ("gptq-asym", "mlp.up_proj.qzeros", json!([24])),
        ("gptq-asym", "mlp.up_proj.qweight", json!([96, 8])),
        ("gptq-v2-act-order", "mlp.up_proj.g_idx", json!([8, 8])),
        ("awq", "mlp.up_proj.scales", json!([96, 2])),
        ("awq", "mlp.up_proj.qzeros", json!([12, 2])),
        ("fp8-scale", "mlp.down_proj.weight_scale", json!([1, 64])),
        ("fp8-block", "mlp.down_proj.weight_scale_inv", json!([2, 1])),
    ] {
        let name = format!("{LAYER}{tensor}");
        let dir = changed(case, |_, header, _| header[&name]["shape"] = shape);
        // The tensor, or the one that it has to agree with.
        let module = name.rsplit_once('.').unwrap().0;
        refused(case, dir.path(), module);
    }
}

#[test]
fn groups_that_do_not_divide_are_refused_by_tensor() {
    for (case, field, group) in [
        ("mlx-4bit", "quantization", json!(128)),
        ("gptq-asym", "quantization_config", json!(40)),
        ("awq", "quantization_config", json!(48)),
    ] {
        let dir = changed(case, |config, _, _| config[field]["group_size"] = group);
        refused(case, dir.path(), "whole groups");
        refused(case, dir.path(), "tensor `model.");
    }
}

#[test]
fn a_group_index_beyond_the_groups_is_refused() {
    let name = format!("{LAYER}mlp.up_proj.g_idx");
    let dir = changed("gptq-v2-act-order", |_, header, bytes| {
        let at = header[&name]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[at..at + 4].copy_from_slice(&(-1_i32).to_le_bytes());
    });
    refused("g_idx", dir.path(), &name);
}

/// Loading fails as an invalid model, and says where.
fn refused(case: &str, dir: &Path, place: &str) {
    let Err(error) = load(dir) else { panic!("{case} should be refused for {place}") };
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{case}: {error}");
    assert!(error.to_string().contains(place), "{case}: {error}");
}

#[test]
fn other_methods_are_refused_by_name() {
    let method = |name: &str| json!({"quant_method": name, "bits": 4, "group_size": 32});
    let cases = [
        ("quantization_config", method("bitsandbytes"), "bitsandbytes"),
        ("quantization_config", method("hqq"), "hqq"),
        ("quantization_config", method("eetq"), "eetq"),
        ("quantization_config", method("quanto"), "quanto"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 3}), "bits"),
        ("quantization_config", json!({"quant_method": "awq", "bits": 8}), "bits"),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            "marlin",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*": {"bits": 8}}}),
            "dynamic",
        ),
        (
            "quantization_config",
            json!({"quant_method": "awq", "bits": 4, "version": "gemv"}),
            "gemv",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            "pack-quantized",
        ),
        ("quantization_config", json!({"quant_method": "fp8", "fmt": "e5m2"}), "e5m2"),
        ("quantization", json!({"bits": 6, "group_size": 64}), "bits"),
        ("quantization", json!({"bits": 4, "group_size": 16}), "group_size"),
        ("quantization", json!({"bits": 4, "group_size": 32, "mode": "mxfp4"}), "mxfp4"),
    ];
    for (field, value, name) in cases {
        let dir = changed("gptq-sym", |config, _, _| {
            config.as_object_mut().unwrap().shift_remove("quantization_config");
            config[field] = value;
        });
        let Err(error) = load(dir.path()) else { panic!("{name} should be refused") };
        assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes of header and configuration replaced: a model or an error.
    #[test]
    fn damaged_descriptions_are_a_model_or_an_error(
        case in 0..CASES.len(),
        in_config in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), b' '..b'~'), 1..4),
    ) {
        let copy = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            let mut bytes = std::fs::read(data(CASES[case]).join(name)).unwrap();
            if in_config == (name == "config.json") {
                let range = match name {
                    "config.json" => 0..bytes.len(),
                    _ => 8..8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize,
                };
                for (index, byte) in &changes {
                    bytes[range.start + index.index(range.len())] = *byte;
                }
            }
            std::fs::write(copy.path().join(name), bytes).unwrap();
        }
        if let Err(error) = load(copy.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
