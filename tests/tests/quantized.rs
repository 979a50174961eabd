//! Quantized safetensors on the CPU backend, against transformers on the
//! dequantized weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::Path;

use inference::prelude::*;
use inference_core::{LogitRows, Precision, Prompt};
use inference_fixtures::{floats, ids};

#[test]
fn every_format_computes_what_its_dequantized_weights_do() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/inference-candle/tests/data");
    let mut cases = 0;
    for entry in std::fs::read_dir(data.join("quantized")).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        cases += 1;
        let expected = inference_fixtures::json(&dir.join("expected.json"));
        for precision in [None, Some(Precision::Exact)] {
            let mut options = LoadOptions::new().with_backend("cpu").with_threads(2);
            options.precision = precision;
            let model = inference::load(dir.as_path(), &options).unwrap();
            for prompt in expected["prompts"].as_array().unwrap() {
                let input = Prompt::from(ids(&prompt["input_ids"]));
                let scorer = model.as_scorer().unwrap();
                let logits = scorer.prompt_logits(input.clone(), LogitRows::Last).unwrap().values;
                let reference = floats(&prompt["last_logits"]);
                assert_eq!(logits.len(), reference.len());
                let differences = logits.iter().zip(&reference).map(|(a, b)| (a - b).abs());
                let diff = differences.fold(0.0, f32::max);
                assert!(diff < 1e-3, "{}: logits differ by {diff}", dir.display());
                let options = GenerateOptions::new().with_max_tokens(8).with_ignore_eos(true);
                let tokens = model.generate(input, options).unwrap();
                let generated: Vec<u32> = tokens.map(|token| token.unwrap().id).collect();
                assert_eq!(generated, ids(&prompt["greedy"]), "{}", dir.display());
            }
        }
    }
    assert_eq!(cases, 8);
}
