//! Dense models that are quantized while they load.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/gguf.rs"]
mod gguf;

use std::sync::{Arc, Mutex};

use inference_candle::{ReferenceOps, load_model};
use inference_core::{
    ErrorKind, GenerateOptions, LoadOptions, LogitRows, ModelSource, Precision, ProgressEvent,
    ProgressSink, Prompt, QuantizeType, Result, TextModel,
};
use inference_fixtures::{dir, floats, ids, json};

fn load(source: &ModelSource, options: &LoadOptions) -> Result<Arc<dyn TextModel>> {
    let precision = options.precision.unwrap_or(Precision::Fast);
    let ops = ReferenceOps::cpu().with_precision(precision);
    load_model("reference", source, options, Arc::new(ops))
}

fn events() -> (ProgressSink, Arc<Mutex<Vec<ProgressEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let events = Arc::clone(&events);
        ProgressSink::new(move |event| events.lock().unwrap().push(event.clone()))
    };
    (sink, events)
}

fn last_logits(model: &dyn TextModel, ids: &[u32]) -> Vec<f32> {
    let scorer = model.as_scorer().unwrap();
    let logits = scorer.prompt_logits(Prompt::from(ids.to_vec()), LogitRows::Last).unwrap();
    logits.rows().next().unwrap().to_vec()
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |max, (a, b)| max.max((a - b).abs()))
}

/// llama.cpp gave its files of these kinds the same types, so the reference's
/// answers over their dequantized weights are those of a load.
#[test]
fn weights_are_those_of_llama_cpp_s_files() {
    let Some(model) = dir("tiny/llama-h256") else { return };
    let cases = gguf::cases("llama-h256");
    for (kind, name, tolerance, dtype) in [
        (QuantizeType::Q8_0, "q8_0", 1e-3, "q8_0"),
        (QuantizeType::Q6K, "q6_k", 1e-3, "q6_k"),
        // A few values half-way between levels are rounded the other way.
        (QuantizeType::Q4_0, "q4_0", 0.1, "q4_0"),
    ] {
        let case = cases.iter().find(|case| case.name.contains(name)).unwrap();
        let (sink, events) = events();
        let options = LoadOptions::new()
            .with_quantize(kind)
            .with_threads(2)
            .with_precision(Precision::Exact)
            .with_progress(sink);
        let model = load(&ModelSource::from(model.clone()), &options).unwrap();
        assert_eq!(model.info().weight_dtype, dtype);
        assert!(model.info().quantization.is_some());
        for prompt in &case.prompts {
            let diff = max_diff(&last_logits(&*model, &prompt.ids), &prompt.last_logits);
            assert!(diff < tolerance, "{name}: last logits differ by {diff}");
        }
        let events = events.lock().unwrap();
        let done = |event: &&ProgressEvent| matches!(event, ProgressEvent::Finished { phase } if phase == "quantize weights");
        assert_eq!(events.iter().filter(done).count(), 1);
        assert!(!events.iter().any(|event| matches!(event, ProgressEvent::Note { .. })));
    }
}

/// The larger the blocks' error, the further from the dense model: but never
/// far, and the sources safetensors and GGUF make no difference.
#[test]
fn logits_stay_near_those_of_the_dense_model() {
    let Some(folder) = dir("tiny/llama-h256") else { return };
    let Some(file) = dir("gguf/llama-h256/llama-h256-f16.gguf") else { return };
    let expected = json(&folder.join("expected.json"));
    let prompt = &expected["prompts"][1];
    let (input, dense) = (ids(&prompt["input_ids"]), floats(&prompt["last_logits"]));
    for (kind, bound) in [
        (QuantizeType::Q8_0, 0.6),
        (QuantizeType::Q6K, 1.5),
        (QuantizeType::Q4K, 6.0),
        (QuantizeType::Q4_0, 8.0),
    ] {
        let options = LoadOptions::new().with_quantize(kind).with_precision(Precision::Exact);
        let model = load(&ModelSource::from(folder.clone()), &options).unwrap();
        let logits = last_logits(&*model, &input);
        let diff = max_diff(&logits, &dense);
        assert!(diff > 0.0 && diff < bound, "{kind}: {diff}");
        let model = load(&ModelSource::from(file.clone()), &options).unwrap();
        let diff = max_diff(&last_logits(&*model, &input), &logits);
        assert!(diff < 1e-3, "{kind}: from GGUF {diff}");
    }
}

#[test]
fn a_trained_model_still_tells_its_story() {
    let Some(folder) = dir("models/stories260k") else { return };
    let expected = json(&folder.join("expected.json"));
    let (sink, events) = events();
    let options = LoadOptions::new().with_quantize(QuantizeType::Q6K).with_progress(sink);
    let model = load(&ModelSource::from(folder), &options).unwrap();
    for case in expected["cases"].as_array().unwrap() {
        let prompt = ids(&case["prompt_ids"]);
        let all = [&*prompt, &*ids(&case["greedy_ids"])].concat();
        let scorer = model.as_scorer().unwrap();
        let logits = scorer.prompt_logits(Prompt::from(all.clone()), LogitRows::All).unwrap();
        let losses = logits.rows().zip(all.iter().skip(1)).map(|(row, next)| {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = row.iter().map(|logit| (logit - max).exp()).sum();
            sum.ln() + max - row[*next as usize]
        });
        let mean = losses.sum::<f32>() / (all.len() - 1) as f32;
        let dense = case["prompt_mean_nll"].as_f64().unwrap() as f32;
        assert!((mean - dense).abs() < 0.02 * dense, "{mean}, dense {dense}");
        let options = GenerateOptions::new().with_max_tokens(10).with_ignore_eos(true);
        let stream = model.generate(Prompt::from(prompt), options).unwrap();
        let generated: Result<Vec<u32>> = stream.map(|token| token.map(|t| t.id)).collect();
        assert_eq!(generated.unwrap(), ids(&case["greedy_ids"])[..10]);
    }
    // Rows of 64 become Q8_0, rows of 172 fit no block; said once each.
    let events = events.lock().unwrap();
    let notes: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            ProgressEvent::Note { message } => Some(message.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("64 values") && note.contains("Q8_0")));
    assert!(notes.iter().any(|note| note.contains("172 values") && note.contains("stay")));
}

#[test]
fn every_layout_can_be_quantized() {
    for name in ["phi3-longrope", "qwen3moe", "mixtral", "gemma2", "olmo2", "smollm3", "granite"] {
        let Some(folder) = dir(&format!("tiny/{name}")) else { return };
        let expected = json(&folder.join("expected.json"));
        let (sink, events) = events();
        let options = LoadOptions::new()
            .with_quantize(QuantizeType::Q8_0)
            .with_precision(Precision::Exact)
            .with_progress(sink);
        let model = load(&ModelSource::from(folder), &options).unwrap();
        let prompt = &expected["prompts"][0];
        let logits = last_logits(&*model, &ids(&prompt["input_ids"]));
        let diff = max_diff(&logits, &floats(&prompt["last_logits"]));
        // Another expert may be chosen where two are nearly as likely.
        assert!(diff < 2.0, "{name}: {diff}");
        let events = events.lock().unwrap();
        let finished = events.iter().any(|event| {
            matches!(event, ProgressEvent::Finished { phase } if phase == "quantize weights")
        });
        assert!(finished, "{name}: fewer or more matrices than expected");
    }
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let Some(file) = dir("gguf/llama-h256/llama-h256-q8_0.gguf") else { return };
    let options = LoadOptions::new().with_quantize(QuantizeType::Q4K);
    let error = match load(&ModelSource::from(file), &options) {
        Ok(_) => unreachable!("the load should have been refused"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let text = error.to_string();
    assert!(text.contains("quantize") && text.contains("token_embd.weight"), "{text}");
}
