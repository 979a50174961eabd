//! Every GGUF file of the reference data, as near to the reference as
//! llama.cpp's own bindings were, with the reference's tokens.

#![cfg(feature = "llama-cpp")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../inference-candle/tests/support/gguf.rs"]
mod gguf;

use std::sync::Arc;

use gguf::{FOLDERS, GgufCase, cases};
use inference_core::{
    Backend, ClassifyOptions, GenerateOptions, KvDtype, LoadOptions, LogitRows, ModelSource,
    Prompt, TextModel,
};
use inference_llamacpp::{Devices, LlamaCppBackend};

fn load(case: &GgufCase, options: &LoadOptions) -> Arc<dyn TextModel> {
    let source = ModelSource::from(case.path.as_path());
    LlamaCppBackend::new(Devices::Default).load_model(&source, options).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions::new().with_threads(1)
}

/// The largest difference of last logits over the prompts, and how many of the
/// greedy tokens agree until the first that does not.
fn compare(case: &GgufCase, model: &dyn TextModel) -> (f32, Vec<usize>) {
    let mut largest = 0.0_f32;
    let mut agreeing = Vec::new();
    for prompt in &case.prompts {
        let ids = Prompt::from(prompt.ids.clone());
        let found = model.as_scorer().unwrap().prompt_logits(ids, LogitRows::Last).unwrap().values;
        assert_eq!(found.len(), prompt.last_logits.len(), "{}", case.name);
        for (a, b) in found.iter().zip(&prompt.last_logits) {
            largest = largest.max((a - b).abs());
        }
        let greedy = GenerateOptions::new()
            .with_max_tokens(prompt.greedy.len())
            .with_temperature(0.0)
            .with_ignore_eos(true);
        let stream = model.generate(prompt.ids.clone().into(), greedy).unwrap();
        let found: Vec<u32> = stream.map(|token| token.unwrap().id).collect();
        assert_eq!(found.len(), prompt.greedy.len(), "{}", case.name);
        agreeing.push(found.iter().zip(&prompt.greedy).take_while(|(a, b)| a == b).count());
    }
    (largest, agreeing)
}

#[test]
fn logits_are_as_near_as_llama_cpp_measured() {
    for case in FOLDERS.iter().flat_map(|folder| cases(folder)) {
        let (diff, _) = compare(&case, &*load(&case, &options()));
        // Measured without attention in tiles, whose sums are f16.
        let bound = 1.5 * case.llama_cpp_diff + 0.05;
        assert!(diff <= bound, "{}: {diff}, expected at most {bound}", case.name);
    }
}

#[test]
fn unquantized_weights_give_the_reference() {
    for case in FOLDERS.iter().flat_map(|folder| cases(folder)) {
        if !case.name.contains("f32") {
            continue;
        }
        let model = load(&case, &options().with_kv_dtype(KvDtype::F32));
        let (diff, agreeing) = compare(&case, &*model);
        // llama.cpp has GELU in a table of f16.
        let bound = if case.name.contains("gemma") { 0.025 } else { 1e-3 };
        assert!(diff < bound, "{}: last logits differ by {diff}", case.name);
        let all: Vec<_> = case.prompts.iter().map(|prompt| prompt.greedy.len()).collect();
        assert_eq!(agreeing, all, "{}: greedy tokens", case.name);
    }
}

/// How far the logits of each prompt, computed with those of all others, are
/// from those alone.
fn company(case: &GgufCase, options: &LoadOptions) -> Vec<f32> {
    let with_logits = ClassifyOptions::new().with_logits(true);
    let prompts = || {
        let starts =
            [(7_u32, 5_u32), (11, 17), (3, 40), (5, 1), (9, 6), (21, 12), (30, 3), (50, 2)];
        starts.map(|(start, len)| (0..len).map(|i| (start + 29 * i) % 300).collect::<Vec<u32>>())
    };
    let logits = |model: &dyn TextModel, prompts: Vec<Prompt>| -> Vec<Vec<f32>> {
        let found = model.classify(prompts, &with_logits).unwrap();
        found.into_iter().map(|found| found.unwrap().token.logits.unwrap().to_vec()).collect()
    };
    let alone =
        prompts().map(|prompt| logits(&*load(case, options), vec![prompt.into()]).remove(0));
    let together = logits(&*load(case, options), prompts().map(Prompt::from).to_vec());
    let difference = |a: &Vec<f32>, b: &Vec<f32>| {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    alone.iter().zip(&together).map(|(a, b)| difference(a, b)).collect()
}

#[test]
fn a_sequence_looks_at_no_other() {
    for case in FOLDERS.iter().flat_map(|folder| cases(folder)) {
        if !case.name.contains("f32") {
            continue;
        }
        let shared = options().with_kv_dtype(KvDtype::F32).with_context_len(128);
        for options in [shared.clone(), shared.with_prefix_cache(false)] {
            let found = company(&case, &options);
            let bound = if case.name.contains("gemma") { 0.025 } else { 1e-3 };
            let near = found.iter().all(|difference| *difference < bound);
            assert!(near, "{}, prefix cache {:?}: {found:?}", case.name, options.prefix_cache);
        }
    }
}
