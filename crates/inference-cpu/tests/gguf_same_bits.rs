//! Quantized weights through the contract: logits are the same bits alone or
//! batched, with any number of threads, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../inference-candle/tests/support/gguf.rs"]
mod gguf;

use std::path::Path;
use std::sync::Arc;

use gguf::cases;
use inference_core::{
    Backend, BatchItem, GenerateOptions, LoadOptions, ModelSource, Precision, Prompt, TextModel,
};
use inference_cpu::{CpuBackend, Tier};

fn load(path: &Path, tier: Tier, precision: Precision, threads: usize) -> Arc<dyn TextModel> {
    let options = LoadOptions::new().with_precision(precision).with_threads(threads);
    CpuBackend::new().with_tier(tier).load_model(&ModelSource::from(path), &options).unwrap()
}

fn options(tokens: usize) -> GenerateOptions {
    GenerateOptions::new()
        .with_max_tokens(tokens)
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_logits(true)
}

/// Ids, and the bits of the logits that each was chosen from.
type Continuation = Vec<(u32, Vec<u32>)>;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

fn alone(model: &dyn TextModel, prompt: &[u32], tokens: usize) -> Continuation {
    let stream = model.generate(Prompt::from(prompt.to_vec()), options(tokens)).unwrap();
    let token = stream.map(|token| token.unwrap());
    token.map(|token| (token.id, bits(token.logits.as_deref().unwrap()))).collect()
}

#[test]
fn company_threads_and_instructions_do_not_change_a_bit() {
    const TOKENS: usize = 6;
    for case in ["llama-h256", "stories260k", "gemma3"].into_iter().flat_map(cases) {
        for precision in [Precision::Fast, Precision::Exact] {
            let model = load(&case.path, Tier::best(), precision, 2);
            let reference: Vec<Continuation> =
                case.prompts.iter().map(|prompt| alone(&*model, &prompt.ids, TOKENS)).collect();

            let items = case
                .prompts
                .iter()
                .map(|prompt| BatchItem::new(prompt.ids.clone()).with_options(options(TOKENS)));
            let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
            for (output, reference) in outputs.into_iter().zip(&reference) {
                let tokens = output.unwrap().tokens;
                let found: Continuation = tokens
                    .into_iter()
                    .map(|token| (token.id, bits(token.logits.as_deref().unwrap())))
                    .collect();
                assert!(found == *reference, "{}: {precision}, batched", case.name);
            }
            for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
                let model = load(&case.path, tier, precision, 1);
                let found = alone(&*model, &case.prompts[1].ids, TOKENS);
                assert!(found == reference[1], "{}: {precision}, {tier}", case.name);
            }
        }
    }
}
