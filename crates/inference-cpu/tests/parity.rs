//! Every reference checkpoint through the contract: logits, greedy
//! continuations, and the text of a real trained model.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use inference_core::{
    Backend, BatchItem, FinishReason, GenerateOptions, KvDtype, LoadOptions, LogitRows,
    ModelSource, Prompt, TextModel,
};
use inference_cpu::{CpuBackend, Tier};
use inference_fixtures::{floats, ids};

/// The tolerance on logits.
const TOLERANCE: f32 = 1e-3;

fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions::new().with_max_tokens(tokens).with_temperature(0.0).with_ignore_eos(true)
}

fn generate(model: &dyn TextModel, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let stream = model.generate(prompt.to_vec().into(), greedy(tokens)).unwrap();
    stream.map(|token| token.unwrap().id).collect()
}

fn logits(model: &dyn TextModel, prompt: &[u32], rows: LogitRows) -> Vec<f32> {
    let scorer = model.as_scorer().unwrap();
    scorer.prompt_logits(Prompt::from(prompt.to_vec()), rows).unwrap().values
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Compares one checkpoint; `tokens(i)` is how many tokens of the greedy
/// continuation of prompt `i` are comparable.
fn check_with(tier: Tier, case: &str, tokens: impl Fn(usize) -> usize) {
    let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let options = LoadOptions::new().with_threads(2);
    let backend = CpuBackend::new().with_tier(tier);
    let model = backend.load_model(&ModelSource::from(dir.as_path()), &options).unwrap();

    let prompts = expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 3, "{case}");
    for (index, prompt) in prompts.iter().enumerate() {
        let input = ids(&prompt["input_ids"]);
        let last = logits(&*model, &input, LogitRows::Last);
        let diff = max_diff(&last, &floats(&prompt["last_logits"]));
        assert!(diff < TOLERANCE, "{case}, prompt {index}: last logits differ by {diff}");
        let count = tokens(index);
        let reference = &ids(&prompt["greedy"])[..count];
        assert_eq!(generate(&*model, &input, count), reference, "{case}, prompt {index}");
    }
    let first = ids(&prompts[0]["input_ids"]);
    let all = logits(&*model, &first, LogitRows::All);
    let diff = max_diff(&all, &floats(&expected["short_all_logits"]));
    assert!(diff < TOLERANCE, "{case}: logits of all positions differ by {diff}");

    // The three prompts at once: the same tokens, in fewer passes than tokens.
    let passes = model.metrics().forward_count;
    let items = prompts.iter().enumerate().map(|(index, prompt)| {
        BatchItem::new(ids(&prompt["input_ids"])).with_options(greedy(tokens(index)))
    });
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    let mut generated = 0;
    for (index, output) in outputs.into_iter().enumerate() {
        let output = output.unwrap();
        let found: Vec<_> = output.tokens.iter().map(|token| token.id).collect();
        let reference = &ids(&prompts[index]["greedy"])[..tokens(index)];
        assert_eq!(found, reference, "{case}, prompt {index} of the batch");
        let metrics = output.completion.metrics;
        assert_eq!(output.completion.finish_reason, FinishReason::Length);
        assert_eq!(metrics.prompt_tokens, ids(&prompts[index]["input_ids"]).len());
        assert_eq!(metrics.generated_tokens, found.len());
        assert!(metrics.peak_bytes >= metrics.active_bytes.min(1) && metrics.peak_bytes > 0);
        assert!(metrics.ttft.is_some_and(|ttft| ttft <= metrics.total_time));
        generated += found.len() as u64;
    }
    let passes = model.metrics().forward_count - passes;
    assert!(passes > 0 && passes < generated, "{passes} passes for {generated} tokens");
}

fn check(case: &str, tokens: impl Fn(usize) -> usize) {
    check_with(Tier::best(), case, tokens);
}

macro_rules! parity {
    ($($name:ident: $case:literal,)*) => {
        $(#[test]
        fn $name() {
            check($case, |_| 24);
        })*
    };
}

parity! {
    gemma2: "gemma2",
    gemma3_text: "gemma3-text",
    granite: "granite",
    llama_h256: "llama-h256",
    llama_llama3rope: "llama-llama3rope",
    llama_llama3rope_v5config: "llama-llama3rope-v5config",
    llama_tied_bias: "llama-tied-bias",
    mistral_window8: "mistral-window8",
    mixtral: "mixtral",
    olmo2: "olmo2",
    qwen2: "qwen2",
    qwen3: "qwen3",
    qwen3moe: "qwen3moe",
    qwen3moe_v5config: "qwen3moe-v5config",
    smollm3: "smollm3",
}

/// The second prompt's continuation crosses the border at 32 tokens, where the
/// reference changes factors in the middle of a sequence.
#[test]
fn phi3_longrope() {
    check("phi3-longrope", |prompt| if prompt == 1 { 15 } else { 24 });
}

#[test]
fn every_tier_agrees_with_the_reference() {
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        check_with(tier, "gemma2", |_| 24);
    }
}

#[test]
fn every_case_is_tested() {
    let Some(dir) = inference_fixtures::dir("tiny") else { return };
    let source = include_str!("parity.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(source.contains(&format!("\"{name}\"")), "{name} is not tested");
        }
    }
}

#[test]
fn a_trained_model_tells_its_story() {
    let Some(dir) = inference_fixtures::dir("models/stories260k") else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let load = |options: &LoadOptions| -> Arc<dyn TextModel> {
        CpuBackend::new().load_model(&ModelSource::from(dir.as_path()), options).unwrap()
    };
    let model = load(&LoadOptions::new());
    let half = load(&LoadOptions::new().with_kv_dtype(KvDtype::F16));
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let prompt = ids(&case["prompt_ids"]);
        let reference = ids(&case["greedy_ids"]);
        assert_eq!(reference.len(), 128);
        assert_eq!(generate(&*model, &prompt, 128), reference, "{}", case["prompt"]);
        let text = case["greedy_text"].as_str().unwrap();
        assert_eq!(model.decode(&reference, true).unwrap().trim(), text.trim());
        // Coarser keys and values still begin the same story.
        assert_eq!(generate(&*half, &prompt, 8), reference[..8], "{}", case["prompt"]);
    }
}
