//! Models loaded from disk and from memory, through the engine.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, Mutex};

use inference_candle::{ReferenceOps, load_model};
use inference_core::{
    EmbeddedFiles, ErrorKind, GenerateOptions, KvDtype, LoadOptions, ModelSource, ProgressEvent,
    ProgressSink, Prompt, Result, TextModel,
};
use inference_fixtures::ids;

fn load(source: &ModelSource, options: &LoadOptions) -> Result<Arc<dyn TextModel>> {
    load_model("reference", source, options, Arc::new(ReferenceOps::cpu()))
}

/// The error of a load that has to fail.
fn refusal(source: &ModelSource, options: &LoadOptions) -> inference_core::Error {
    match load(source, options) {
        Ok(_) => unreachable!("the load should have been refused"),
        Err(error) => error,
    }
}

#[test]
fn a_trained_model_tells_its_story() {
    let Some(dir) = inference_fixtures::dir("models/stories260k") else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let options = LoadOptions::new().with_parallel_slots(2).with_context_len(256);
    let model = load(&ModelSource::from(dir), &options).unwrap();
    for case in expected["cases"].as_array().unwrap() {
        let prompt = Prompt::from(case["prompt"].as_str().unwrap());
        let options = GenerateOptions::new().with_max_tokens(128).with_ignore_eos(true);
        let mut stream = model.generate(prompt, options).unwrap();
        let tokens = stream.by_ref().collect::<Result<Vec<_>>>().unwrap();
        let generated: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        assert_eq!(generated, ids(&case["greedy_ids"]));
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(text, case["greedy_text"].as_str().unwrap());
    }
    let info = model.info();
    assert_eq!((info.architecture.as_str(), info.backend.as_str()), ("llama", "reference"));
    assert_eq!((info.num_layers, info.context_len, info.vocab_size), (5, 256, 512));
    assert_eq!(info.weight_dtype, "f32");
    // 260 032 without the embedding's copy in the head.
    assert_eq!(info.parameters, 260_032);
    assert!(info.has_tokenizer);
}

/// Leaks the files of a folder, as a binary would embed them.
fn embed(dir: &std::path::Path) -> EmbeddedFiles {
    let mut files: Vec<(&'static str, &'static [u8])> = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.push((name.leak(), std::fs::read(&path).unwrap().leak()));
    }
    files.leak()
}

#[test]
fn embedded_files_are_a_model() {
    let Some(dir) = inference_fixtures::dir("tiny/qwen3") else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let source = ModelSource::from(embed(&dir));
    let model = load(&source, &LoadOptions::new()).unwrap();
    for prompt in expected["prompts"].as_array().unwrap() {
        let options = GenerateOptions::new().with_max_tokens(24).with_ignore_eos(true);
        let stream = model.generate(Prompt::from(ids(&prompt["input_ids"])), options).unwrap();
        let generated: Result<Vec<u32>> = stream.map(|token| token.map(|t| t.id)).collect();
        assert_eq!(generated.unwrap(), ids(&prompt["greedy"]));
    }
}

#[test]
fn options_that_cannot_be_honoured_are_refused_by_name() {
    let Some(dir) = inference_fixtures::dir("tiny/qwen3") else { return };
    let source = ModelSource::from(dir);
    let new = LoadOptions::new;
    for (options, kind, name) in [
        (new().with_adapter_path("no/such/adapter"), ErrorKind::Io, "no/such/adapter"),
        (new().with_adapter_scale(2.0), ErrorKind::InvalidOption, "adapter_scale"),
        (new().with_gpu_layers(3), ErrorKind::Unsupported, "gpu_layers"),
        (new().with_context_len(257), ErrorKind::InvalidOption, "context_len"),
        (new().with_parallel_slots(5000), ErrorKind::InvalidOption, "parallel_slots"),
        (new().with_kv_budget(100), ErrorKind::Exhausted, "kv_budget"),
        (new().with_context_len(256).with_kv_budget(100_000), ErrorKind::Exhausted, "kv_budget"),
    ] {
        let error = refusal(&source, &options);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_small_budget_reduces_the_context_and_says_so() {
    let Some(dir) = inference_fixtures::dir("tiny/qwen3") else { return };
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let notes = Arc::clone(&notes);
        ProgressSink::new(move |event: &ProgressEvent| {
            if let ProgressEvent::Note { message } = event {
                notes.lock().unwrap().push(message.clone());
            }
        })
    };
    // 3 layers x 2 heads x 32 x 16 tokens x 2 x 4 bytes = 24 576 bytes a block.
    let options = LoadOptions::new().with_kv_budget(100_000).with_progress(sink);
    let model = load(&ModelSource::from(dir), &options).unwrap();
    assert_eq!(model.info().context_len, 64);
    let notes = notes.lock().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("kv_budget"), "{notes:?}");
}

#[test]
fn half_precision_keys_and_values_work() {
    let Some(dir) = inference_fixtures::dir("tiny/llama-tied-bias") else { return };
    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let prompt = &expected["prompts"][0];
    for dtype in [KvDtype::F16, KvDtype::Bf16] {
        let options = LoadOptions::new().with_kv_dtype(dtype);
        let model = load(&ModelSource::from(dir.clone()), &options).unwrap();
        let ids_in = Prompt::from(ids(&prompt["input_ids"]));
        let options = GenerateOptions::new().with_max_tokens(1).with_ignore_eos(true);
        let tokens: Vec<_> = model.generate(ids_in, options).unwrap().collect();
        let first = tokens[0].as_ref().unwrap().id;
        assert_eq!(first, ids(&prompt["greedy"])[0]);
    }
}

#[test]
fn eight_bits_need_heads_of_whole_groups() {
    let Some(dir) = inference_fixtures::dir("tiny/llama-tied-bias") else { return };
    let options = LoadOptions::new().with_kv_dtype(KvDtype::Q8_0);
    let error = refusal(&ModelSource::from(dir), &options);
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let message = error.to_string();
    for part in ["kv_dtype", "q8_0", "heads of 8 elements", "groups of 32"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_not_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions::new();
    let empty = refusal(&ModelSource::from(folder.path()), &options);
    assert_eq!(empty.kind(), ErrorKind::InvalidModel);
    assert!(empty.to_string().contains("config.json"), "{empty}");

    let gguf = folder.path().join("model.gguf");
    std::fs::write(&gguf, b"GGUF").unwrap();
    let gguf = refusal(&ModelSource::from(gguf), &options);
    assert_eq!(gguf.kind(), ErrorKind::InvalidModel);
    assert!(gguf.to_string().contains("model.gguf"), "{gguf}");

    let other = folder.path().join("model.bin");
    std::fs::write(&other, b"other").unwrap();
    let other = refusal(&ModelSource::from(other), &options);
    assert_eq!(other.kind(), ErrorKind::UnsupportedModel);
    assert!(other.to_string().contains("GGUF file"), "{other}");

    let absent = refusal(&ModelSource::from(folder.path().join("absent")), &options);
    assert_eq!(absent.kind(), ErrorKind::Io);
}

/// Copies a model's folder, changes it, and returns why it does not load.
fn broken(case: &str, change: impl Fn(&std::path::Path)) -> Option<String> {
    let dir = inference_fixtures::dir(case)?;
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    change(copy.path());
    let error = refusal(&ModelSource::from(copy.path()), &LoadOptions::new());
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    Some(error.to_string())
}

/// Replaces text in a file.
fn edit(dir: &std::path::Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let Some(message) = broken("tiny/qwen3", |dir| {
        edit(dir, "config.json", "\"vocab_size\": 384", "\"vocab_size\": 383");
    }) else {
        return;
    };
    assert!(message.contains("tokenizer.json") && message.contains("383"), "{message}");
}

#[test]
fn an_end_of_sequence_outside_the_vocabulary_is_refused() {
    let Some(message) = broken("tiny/qwen3", |dir| {
        edit(dir, "config.json", "\"eos_token_id\": 2", "\"eos_token_id\": [2, 384]");
    }) else {
        return;
    };
    assert!(message.contains("eos_token_id") && message.contains("384"), "{message}");
}

#[test]
fn sampling_defaults_are_checked() {
    for (json, field) in [
        ("{\"do_sample\": true, \"temperature\": -1}", "temperature"),
        ("{\"do_sample\": true, \"top_p\": 0}", "top_p"),
        ("{\"repetition_penalty\": 0}", "repetition_penalty"),
        ("{\"max_new_tokens\": 0}", "max_new_tokens"),
        ("[]", "object"),
    ] {
        let Some(message) = broken("tiny/qwen3", |dir| {
            std::fs::write(dir.join("generation_config.json"), json).unwrap();
        }) else {
            return;
        };
        assert!(message.contains("generation_config.json"), "{message}");
        assert!(message.contains(field), "{message}");
    }
}
