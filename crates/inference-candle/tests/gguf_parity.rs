//! Every GGUF file of the reference data, on the reference operations: exact
//! logits, and default ones as near as llama.cpp's.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;
#[path = "support/gguf.rs"]
mod gguf;

use std::path::Path;
use std::sync::Arc;

use common::{forward, greedy, max_diff, sequence};
use gguf::{FOLDERS, GgufCase, cases};
use inference_candle::{Decoder, DecoderConfig, GgufWeights, ReferenceOps};
use inference_core::Precision;
use inference_gguf::GgufFile;

/// The tolerance on exact logits.
const TOLERANCE: f32 = 1e-3;

fn decoder(path: &Path, precision: Precision) -> Decoder {
    let file = GgufFile::open(path).unwrap();
    let config = DecoderConfig::from_gguf(&file).unwrap();
    let weights = GgufWeights::new(file, &config).unwrap();
    let ops = ReferenceOps::cpu().with_precision(precision);
    Decoder::new(config, &weights, Arc::new(ops)).unwrap()
}

/// The largest difference of last logits over the prompts.
fn last_logits_diff(decoder: &Decoder, case: &GgufCase) -> f32 {
    let mut largest = 0.0_f32;
    for prompt in &case.prompts {
        let len = prompt.ids.len();
        let logits = forward(decoder, &prompt.ids, sequence(0, len, len), None, &[len - 1]);
        largest = largest.max(max_diff(&logits[0], &prompt.last_logits));
    }
    largest
}

fn check_exact(folder: &str) {
    for case in cases(folder) {
        let decoder = decoder(&case.path, Precision::Exact);
        let diff = last_logits_diff(&decoder, &case);
        assert!(diff < TOLERANCE, "{}: last logits differ by {diff}", case.name);
        for prompt in &case.prompts {
            let generated = greedy(&decoder, &prompt.ids, prompt.greedy.len(), 7);
            assert_eq!(generated, prompt.greedy, "{}", case.name);
        }
    }
}

macro_rules! exact {
    ($($name:ident: $folder:literal,)*) => {
        $(#[test]
        fn $name() {
            check_exact($folder);
        })*
    };
}

exact! {
    gemma3: "gemma3",
    llama: "llama",
    llama_h256: "llama-h256",
    qwen2: "qwen2",
    qwen3: "qwen3",
    stories260k: "stories260k",
}

/// Candle's kernels quantize activations as llama.cpp's do. What they deviate
/// is rounding noise, whose largest value over the logits is a matter of
/// chance: of the same size, not below it in every file.
const NOISE: f32 = 1.5;

#[test]
fn default_precision_is_as_near_as_llama_cpp() {
    let mut worse = Vec::new();
    for case in FOLDERS.into_iter().flat_map(cases) {
        let decoder = decoder(&case.path, Precision::Fast);
        let diff = last_logits_diff(&decoder, &case);
        eprintln!("{:28} {diff:9.4}, llama.cpp {:9.4}", case.name, case.llama_cpp_diff);
        if diff > NOISE * case.llama_cpp_diff {
            worse.push(case.name);
        }
    }
    assert_eq!(worse, Vec::<String>::new(), "differ more than llama.cpp");
}

#[test]
fn every_folder_is_tested() {
    let Some(dir) = inference_fixtures::dir("gguf") else { return };
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(FOLDERS.contains(&name.as_str()), "{name} is not tested");
        }
    }
}
