//! Every reference adapter: read, merged into its base, and compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{forward, greedy, max_diff, sequence};
use inference_candle::{
    Decoder, DecoderConfig, MergedWeights, ModelFiles, ReferenceOps, SafetensorsFiles,
};
use inference_core::ModelSource;
use inference_fixtures::{floats, ids};
use inference_lora::{AdapterFiles, AdapterFormat, AdapterWeights, ReadOptions};

/// The fixtures' own.
const TOLERANCE: f32 = 2e-4;

fn fixture(case: &str) -> Option<(PathBuf, serde_json::Value, PathBuf)> {
    let folder = inference_fixtures::dir(&format!("lora/{case}"))?;
    let expected = inference_fixtures::json(&folder.join("expected.json"));
    let base = expected["base"].as_str().unwrap();
    let base = inference_fixtures::dir(&format!("tiny/{base}"))?;
    Some((folder, expected, base))
}

fn config(base: &Path) -> DecoderConfig {
    let json = std::fs::read(base.join("config.json")).unwrap();
    DecoderConfig::from_json("config.json", &json).unwrap()
}

fn read(folder: &Path, base: &Path) -> AdapterWeights {
    let files = AdapterFiles::open(folder).unwrap();
    files.read(&config(base).modules(), ReadOptions::new()).unwrap().weights
}

fn merged(base: &Path, adapter: AdapterWeights) -> Decoder {
    let mut config = config(base);
    let files = ModelFiles::new(&ModelSource::from(base)).unwrap();
    let source = Box::new(SafetensorsFiles::open(&files).unwrap());
    let weights = MergedWeights::new(source, &config, adapter, 1.0).unwrap();
    config.tied_head &= !weights.unties_head();
    Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu())).unwrap()
}

fn compare(decoder: &Decoder, expected: &serde_json::Value) {
    for (index, prompt) in expected["prompts"].as_array().unwrap().iter().enumerate() {
        let input = ids(&prompt["input_ids"]);
        let whole = sequence(0, input.len(), input.len());
        let logits = forward(decoder, &input, whole, None, &[input.len() - 1]).concat();
        for field in ["adapter_last_logits", "merged_last_logits"] {
            let difference = max_diff(&logits, &floats(&prompt[field]));
            assert!(difference < TOLERANCE, "prompt {index}, {field}: {difference}");
        }
        assert_eq!(greedy(decoder, &input, 16, 64), ids(&prompt["adapter_greedy"]), "{index}");
    }
}

macro_rules! parity {
    ($($name:ident: $case:literal,)*) => {
        $(#[test]
        fn $name() {
            let Some((folder, expected, base)) = fixture($case) else { return };
            assert_eq!(AdapterFiles::open(&folder).unwrap().format(), AdapterFormat::Peft);
            compare(&merged(&base, read(&folder, &base)), &expected);
        })*
    };
}

parity! {
    llama_modules_to_save: "llama-modules-to-save",
    llama_one_layer: "llama-one-layer",
    llama_pattern: "llama-pattern",
    llama_r4_attention: "llama-r4-attention",
    llama_r8_all: "llama-r8-all",
    llama_rslora: "llama-rslora",
    qwen2_bias: "qwen2-bias",
    qwen2_dora: "qwen2-dora",
    qwen2_r4_all: "qwen2-r4-all",
}
