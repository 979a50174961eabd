//! GGUF models through the loader: text, facts, folders, and every refusal.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/gguf_model.rs"]
mod gguf_model;

use std::path::Path;
use std::sync::Arc;

use gguf_model::GgufModel;
use inference_candle::{ReferenceOps, load_model};
use inference_core::{
    Error, ErrorKind, GenerateOptions, LoadOptions, ModelSource, Precision, Prompt, Result,
    TextModel,
};
use inference_fixtures::ids;

fn load(source: &ModelSource) -> Result<Arc<dyn TextModel>> {
    let ops = Arc::new(ReferenceOps::cpu().with_precision(Precision::Exact));
    load_model("reference", source, &LoadOptions::new(), ops)
}

/// The error of a load that has to fail.
fn refusal(path: &Path) -> Error {
    match load(&ModelSource::from(path)) {
        Ok(_) => unreachable!("the load should have been refused"),
        Err(error) => error,
    }
}

fn fixture(name: &str) -> Option<std::path::PathBuf> {
    let (folder, _) = name.rsplit_once('-').unwrap();
    Some(inference_fixtures::dir(&format!("gguf/{folder}"))?.join(format!("{name}.gguf")))
}

#[test]
fn a_trained_model_tells_its_story() {
    let Some(path) = fixture("stories260k-f32") else { return };
    let Some(original) = inference_fixtures::dir("models/stories260k") else { return };
    let expected = inference_fixtures::json(&original.join("expected.json"));
    let model = load(&ModelSource::from(path)).unwrap();
    for case in expected["cases"].as_array().unwrap() {
        // As ids: the file's vocabulary has lost the scores that order merges.
        let prompt = Prompt::from(ids(&case["prompt_ids"]));
        let options = GenerateOptions::new().with_max_tokens(128).with_ignore_eos(true);
        let tokens: Vec<_> =
            model.generate(prompt, options).unwrap().collect::<Result<_>>().unwrap();
        let generated: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        assert_eq!(generated, ids(&case["greedy_ids"]));
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(text, case["greedy_text"].as_str().unwrap());
    }
    let info = model.info();
    assert_eq!((info.architecture.as_str(), info.context_len), ("llama", 512));
    assert_eq!((info.weight_dtype.as_str(), info.quantization), ("f32", None));
    assert_eq!(info.parameters, 260_032);
    assert!(info.has_tokenizer);
}

#[test]
fn facts_say_how_most_weights_are_stored() {
    for (name, dtype, bits) in
        [("llama-h256-q4_k_m", "q4_k", 4), ("llama-h256-iq4_xs", "iq4_xs", 4)]
    {
        let Some(path) = fixture(name) else { return };
        let model = load(&ModelSource::from(path)).unwrap();
        let info = model.info();
        assert_eq!(info.weight_dtype, dtype);
        assert_eq!(info.quantization.unwrap().bits, bits);
        assert!(info.has_chat_template && info.has_tokenizer);
    }
}

#[test]
fn a_folder_of_one_model_loads_and_of_several_names_them() {
    let Some(path) = fixture("qwen2-q8_0") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&path, folder.path().join("a.gguf")).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("mmproj-a.gguf"), "not a model").unwrap();
    assert_eq!(load(&ModelSource::from(folder.path())).unwrap().model_type(), "qwen2");

    std::fs::copy(&path, folder.path().join("b.gguf")).unwrap();
    let error = refusal(folder.path());
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert!(error.to_string().contains("a.gguf, b.gguf"), "{error}");
}

#[test]
fn a_file_is_known_by_its_content() {
    let Some(path) = fixture("qwen2-q8_0") else { return };
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("sha256-0123");
    std::fs::copy(&path, &blob).unwrap();
    assert_eq!(load(&ModelSource::from(blob)).unwrap().model_type(), "qwen2");
}

#[test]
fn embedded_bytes_are_a_model() {
    let Some(path) = fixture("qwen3-q8_0") else { return };
    let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
    let files: inference_core::EmbeddedFiles = vec![("model.gguf", bytes)].leak();
    assert_eq!(load(&ModelSource::from(files)).unwrap().model_type(), "qwen3");
}

/// Changes a file and returns why it does not load.
fn broken(name: &str, dropped: &str, change: impl Fn(&mut GgufModel)) -> Option<Error> {
    let mut model = GgufModel::copy(&fixture(name)?, |key| key == dropped);
    change(&mut model);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    model.write(&path);
    Some(refusal(&path))
}

/// That an error is of a kind and says these things.
fn assert_says(error: Option<Error>, kind: ErrorKind, parts: &[&str]) {
    let Some(error) = error else { return };
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn architectures_that_are_not_implemented_are_refused_by_name() {
    let error = broken("llama-f32", "", |model| model.writer.set("general.architecture", "rwkv7"));
    let kind = ErrorKind::UnsupportedModel;
    assert_says(error, kind, &["general.architecture", "rwkv7", "qwen3moe"]);
    let error = broken("llama-f32", "general.architecture", |_| ());
    assert_says(error, ErrorKind::InvalidModel, &["general.architecture", "nothing"]);
}

#[test]
fn keys_are_named() {
    let kind = ErrorKind::InvalidModel;
    for key in [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        assert_says(broken("llama-f32", key, |_| ()), kind, &[key, "broken.gguf"]);
        let text = broken("llama-f32", "", |model| model.writer.set(key, "many"));
        assert_says(text, kind, &[key, "many"]);
    }
    let zero = |key: &str| broken("llama-f32", "", |model| model.writer.set(key, 0_u32));
    for key in ["llama.block_count", "llama.attention.head_count", "llama.attention.key_length"] {
        assert_says(zero(key), kind, &[key]);
    }
    let error = broken("llama-f32", "", |model| {
        model.writer.set("llama.attention.head_count_kv", 3_u32);
    });
    assert_says(error, kind, &["llama.attention.head_count_kv", "3"]);
    let error = broken("llama-f32", "", |model| model.writer.set("llama.rope.freq_base", -1.0_f32));
    assert_says(error, kind, &["llama.rope.freq_base", "-1"]);
    let error = broken("llama-f32", "", |model| {
        model.writer.set("llama.rope.dimension_count", 64_u32);
    });
    assert_says(error, kind, &["llama.rope.dimension_count", "64"]);
    let error = broken("llama-f32", "", |model| {
        model.writer.set("llama.block_count", u64::MAX);
    });
    assert_says(error, kind, &["llama.block_count"]);
}

#[test]
fn features_that_are_not_implemented_are_refused_by_key() {
    let kind = ErrorKind::UnsupportedModel;
    let error = broken("llama-f32", "", |model| {
        model.writer.set_array("llama.attention.head_count", [4_u32, 2]);
    });
    assert_says(error, kind, &["llama.attention.head_count", "one value"]);
    let error = broken("llama-f32", "", |model| {
        model.writer.set("llama.attention.value_length", 8_u32);
    });
    assert_says(error, kind, &["llama.attention.value_length", "8"]);
    let error = broken("llama-f32", "", |model| {
        model.writer.set("llama.rope.scaling.type", "spiral");
    });
    assert_says(error, kind, &["llama.rope.scaling.type", "spiral"]);
    let error = broken("qwen2-f32", "", |model| {
        model.writer.set("qwen2.attention.sliding_window", 8_u32);
    });
    assert_says(error, kind, &["qwen2.attention.sliding_window", "8"]);
    let error = broken("qwen2-f32", "", |model| {
        model.push("rope_freqs.weight", vec![8], &[1.0; 8]);
    });
    assert_says(error, kind, &["rope_freqs.weight", "qwen2"]);
}

#[test]
fn equal_values_for_all_layers_are_one_value() {
    let Some(path) = fixture("llama-f32") else { return };
    let mut model = GgufModel::copy(&path, |_| false);
    model.writer.set_array("llama.attention.head_count", [4_u32, 4]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.write(&path);
    assert_eq!(load(&ModelSource::from(path)).unwrap().info().num_heads, 4);
}

#[test]
fn tensors_are_named() {
    let kind = ErrorKind::InvalidModel;
    for name in ["token_embd.weight", "blk.1.attn_k.weight", "output_norm.weight"] {
        let error = broken("llama-f32", "", |model| {
            model.tensors.retain(|tensor| tensor.name != name);
        });
        assert_says(error, kind, &[name, "broken.gguf"]);
    }
    let error = broken("llama-f32", "", |model| {
        let tensor = model.tensor("blk.0.ffn_up.weight");
        tensor.shape.reverse();
    });
    assert_says(error, kind, &["blk.0.ffn_up.weight", "[128, 64]", "[64, 128]"]);
    // Rows of queries that are no heads.
    let error = broken("llama-f32", "", |model| {
        let tensor = model.tensor("blk.0.attn_q.weight");
        tensor.shape = vec![1, tensor.shape.iter().product()];
    });
    assert_says(error, kind, &["blk.0.attn_q.weight"]);
    let error = broken("llama-f32", "", |model| {
        let tensor = model.tensor("rope_freqs.weight");
        tensor.bytes[..4].copy_from_slice(&0_f32.to_le_bytes());
    });
    assert_says(error, kind, &["rope_freqs.weight", "above 0"]);
    let error = broken("llama-f32", "", |model| {
        let tensor = model.tensor("blk.0.attn_v.weight");
        tensor.kind = inference_gguf::BlockType::I32;
    });
    assert_says(error, ErrorKind::UnsupportedModel, &["blk.0.attn_v.weight", "I32"]);
}

#[test]
fn sampling_keys_are_defaults_and_are_checked() {
    let Some(path) = fixture("llama-f32") else { return };
    let mut model = GgufModel::copy(&path, |_| false);
    model.writer.set("general.sampling.temp", 0.7_f32);
    model.writer.set("general.sampling.top_k", 20_i32);
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("model.gguf");
    model.write(&written);
    load(&ModelSource::from(written)).unwrap();
    for (key, value) in [("temp", -1.0_f32), ("top_p", 2.0), ("penalty_repeat", 0.0)] {
        let key = format!("general.sampling.{key}");
        let error = broken("llama-f32", "", |model| model.writer.set(&key, value));
        assert_says(error, ErrorKind::InvalidModel, &[&key]);
    }
}
