//! Every reference checkpoint: logits, greedy continuation, chunked prefill.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use common::{decoder, forward, greedy, max_diff, sequence};
use inference_fixtures::{floats, ids};

/// The tolerance on logits.
const TOLERANCE: f32 = 1e-3;

/// Compares one checkpoint; `greedy_tokens(i)` is how many tokens of the
/// greedy continuation of prompt `i` are comparable.
fn check(case: &str, greedy_tokens: impl Fn(usize) -> usize) {
    let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let decoder = decoder(&dir);
    let prompts = expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 3, "{case}");
    for (index, prompt) in prompts.iter().enumerate() {
        let ids_in = ids(&prompt["input_ids"]);
        let whole = sequence(0, ids_in.len(), ids_in.len());
        let rows: Vec<usize> = (0..ids_in.len()).collect();
        let logits = forward(&decoder, &ids_in, whole, None, &rows);
        let last = max_diff(&logits[ids_in.len() - 1], &floats(&prompt["last_logits"]));
        assert!(last < TOLERANCE, "{case}, prompt {index}: last logits differ by {last}");
        if index == 0 {
            let all = max_diff(&logits.concat(), &floats(&expected["short_all_logits"]));
            assert!(all < TOLERANCE, "{case}: logits of all positions differ by {all}");
        }
        let count = greedy_tokens(index);
        let reference = &ids(&prompt["greedy"])[..count];
        for chunk in [64, 3] {
            let generated = greedy(&decoder, &ids_in, count, chunk);
            assert_eq!(generated, reference, "{case}, prompt {index}, chunks of {chunk}");
        }
    }
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

/// No checkpoint of the reference data is left out.
#[test]
fn every_case_is_tested() {
    let Some(dir) = inference_fixtures::dir("tiny") else { return };
    let source = include_str!("parity.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let case = entry.unwrap().file_name().into_string().unwrap();
        assert!(source.contains(&format!("\"{case}\"")), "{case} is not tested");
    }
}

/// A real trained model: text ids and top-5 log-probabilities.
#[test]
fn stories260k() {
    let Some(dir) = inference_fixtures::dir("models/stories260k") else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let decoder = decoder(&dir);
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let prompt = ids(&case["prompt_ids"]);
        let reference = ids(&case["greedy_ids"]);
        assert_eq!(greedy(&decoder, &prompt, reference.len(), 64), reference);

        let text: Vec<u32> = prompt.iter().chain(&reference[..10]).copied().collect();
        let rows: Vec<usize> = (prompt.len() - 1..prompt.len() + 9).collect();
        let whole = sequence(0, text.len(), text.len());
        let logits = forward(&decoder, &text, whole, None, &rows);
        let top = case["first_10_steps_top5_logprobs"].as_array().unwrap();
        for (row, step) in logits.iter().zip(top) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|x| (x - max).exp()).sum();
            for pair in step.as_array().unwrap() {
                let id = usize::try_from(pair[0].as_u64().unwrap()).unwrap();
                let logprob = row[id] - max - sum.ln();
                let reference = pair[1].as_f64().unwrap() as f32;
                assert!((logprob - reference).abs() < TOLERANCE, "{logprob} {reference}");
            }
        }
    }
}
