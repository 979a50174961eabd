//! Every GGUF file of the reference data through the contract: exact logits
//! and continuations, and default ones as near as llama.cpp's.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../inference-candle/tests/support/gguf.rs"]
mod gguf;

use std::sync::Arc;

use gguf::{FOLDERS, GgufCase, cases};
use inference_core::{
    Backend, GenerateOptions, LoadOptions, LogitRows, ModelSource, Precision, Prompt, TextModel,
};
use inference_cpu::{CpuBackend, Tier};

/// The tolerance on exact logits.
const TOLERANCE: f32 = 1e-3;

fn load(case: &GgufCase, tier: Tier, options: LoadOptions) -> Arc<dyn TextModel> {
    let source = ModelSource::from(case.path.as_path());
    CpuBackend::new().with_tier(tier).load_model(&source, &options.with_threads(2)).unwrap()
}

fn last_logits(model: &dyn TextModel, prompt: &[u32]) -> Vec<f32> {
    let scorer = model.as_scorer().unwrap();
    scorer.prompt_logits(Prompt::from(prompt.to_vec()), LogitRows::Last).unwrap().values
}

/// The largest difference of last logits over the prompts.
fn last_logits_diff(model: &dyn TextModel, case: &GgufCase) -> f32 {
    let mut largest = 0.0_f32;
    for prompt in &case.prompts {
        let found = last_logits(model, &prompt.ids);
        assert_eq!(found.len(), prompt.last_logits.len());
        for (a, b) in found.iter().zip(&prompt.last_logits) {
            largest = largest.max((a - b).abs());
        }
    }
    largest
}

fn check_exact(folder: &str, tier: Tier) {
    for case in cases(folder) {
        let model = load(&case, tier, LoadOptions::new().with_precision(Precision::Exact));
        let diff = last_logits_diff(&*model, &case);
        assert!(diff < TOLERANCE, "{}: last logits differ by {diff}", case.name);
        for prompt in &case.prompts {
            let options = GenerateOptions::new()
                .with_max_tokens(prompt.greedy.len())
                .with_temperature(0.0)
                .with_ignore_eos(true);
            let stream = model.generate(prompt.ids.clone().into(), options).unwrap();
            let found: Vec<u32> = stream.map(|token| token.unwrap().id).collect();
            assert_eq!(found, prompt.greedy, "{}", case.name);
        }
    }
}

#[test]
fn exact_precision_computes_the_reference() {
    for folder in FOLDERS {
        check_exact(folder, Tier::best());
    }
}

#[test]
fn exact_precision_on_every_tier() {
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        check_exact("qwen3", tier);
    }
}

/// What quantized activations deviate is rounding noise, whose largest value
/// over the logits of one file is a matter of chance.
const NOISE: f32 = 1.5;

/// In no file much further than llama.cpp, in their sum nearer.
#[test]
fn default_precision_is_as_near_as_llama_cpp() {
    let (mut worse, mut ours, mut theirs) = (Vec::new(), 0.0, 0.0);
    for case in FOLDERS.into_iter().flat_map(cases) {
        let model = load(&case, Tier::best(), LoadOptions::new());
        let diff = last_logits_diff(&*model, &case);
        eprintln!("{:28} {diff:9.4}, llama.cpp {:9.4}", case.name, case.llama_cpp_diff);
        (ours, theirs) = (ours + diff, theirs + case.llama_cpp_diff);
        if diff > NOISE * case.llama_cpp_diff {
            worse.push(case.name);
        }
    }
    assert!(ours <= theirs, "{ours} in all, llama.cpp {theirs}");
    assert_eq!(worse, Vec::<String>::new(), "differ more than llama.cpp");
}

#[test]
fn default_precision_is_the_same_bits_on_every_tier() {
    let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
    for case in cases("llama-h256") {
        let mut first: Option<Vec<u32>> = None;
        for tier in tiers.clone() {
            let model = load(&case, tier, LoadOptions::new());
            let found = last_logits(&*model, &case.prompts[0].ids);
            let found: Vec<u32> = found.into_iter().map(f32::to_bits).collect();
            assert_eq!(&found, first.get_or_insert_with(|| found.clone()), "{}", case.name);
        }
    }
}
