//! Damaged models: each is refused with an error that names the file, and the
//! field or tensor in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use inference::prelude::*;
use tempfile::TempDir;

/// A copy of the real trained model, to be damaged.
fn copy() -> Option<TempDir> {
    let source = inference_fixtures::dir("models/stories260k")?;
    let dir = TempDir::new().unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let target = dir.path().join(path.file_name().unwrap());
        // Written anew: the originals may be read-only.
        fs::write(target, fs::read(path).unwrap()).unwrap();
    }
    Some(dir)
}

fn edit_json(file: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = inference_fixtures::json(file);
    edit(&mut value);
    fs::write(file, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// The whole message of the refusal, causes included.
#[track_caller]
fn refusal(dir: &Path) -> (ErrorKind, String) {
    let error = inference::load(dir, &LoadOptions::new().with_backend("cpu"))
        .map(|_| ())
        .expect_err("a damaged model was loaded");
    let mut message = error.to_string();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        message = format!("{message}: {next}");
        cause = next;
    }
    (error.kind(), message)
}

#[track_caller]
fn assert_names(dir: &Path, kind: ErrorKind, words: &[&str]) {
    let (found, message) = refusal(dir);
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    assert_eq!(found, kind, "{message}");
}

#[test]
fn missing_files() {
    let Some(dir) = copy() else { return };
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let (_, message) = refusal(dir.path());
    assert!(message.contains("model.safetensors"), "{message}");
    fs::remove_file(dir.path().join("config.json")).unwrap();
    let (_, message) = refusal(dir.path());
    assert!(message.contains("config.json"), "{message}");
    let (_, message) = refusal(&dir.path().join("nowhere"));
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn truncated_weights() {
    let Some(dir) = copy() else { return };
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for len in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..len]).unwrap();
        assert_names(dir.path(), ErrorKind::InvalidModel, &["model.safetensors"]);
    }
}

#[test]
fn a_header_that_lies_about_its_length() {
    let Some(dir) = copy() else { return };
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    for length in [u64::MAX, 1 << 40, 0] {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        assert_names(dir.path(), ErrorKind::InvalidModel, &["model.safetensors"]);
    }
}

#[test]
fn absurd_sizes_in_the_configuration() {
    for (field, value) in [
        ("hidden_size", 0_i64),
        ("hidden_size", 63),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 1 << 40),
        ("num_attention_heads", 0),
        ("num_attention_heads", 7),
        ("num_key_value_heads", 3),
        ("vocab_size", 0),
        ("vocab_size", i64::MAX),
        ("intermediate_size", -1),
        ("max_position_embeddings", 0),
    ] {
        let Some(dir) = copy() else { return };
        edit_json(&dir.path().join("config.json"), |config| config[field] = value.into());
        let (kind, message) = refusal(dir.path());
        assert_eq!(kind, ErrorKind::InvalidModel, "{field} = {value}: {message}");
    }
}

#[test]
fn unknown_architecture() {
    let Some(dir) = copy() else { return };
    edit_json(&dir.path().join("config.json"), |config| {
        config["model_type"] = "quantum".into();
        config["architectures"] = serde_json::json!(["QuantumForCausalLM"]);
    });
    assert_names(dir.path(), ErrorKind::UnsupportedModel, &["quantum", "llama", "qwen3"]);
}

#[test]
fn a_feature_that_is_not_implemented() {
    let Some(dir) = copy() else { return };
    edit_json(&dir.path().join("config.json"), |config| {
        config["rope_scaling"] = serde_json::json!({"rope_type": "spiral", "factor": 2.0});
    });
    assert_names(dir.path(), ErrorKind::UnsupportedModel, &["rope", "spiral"]);

    let Some(dir) = copy() else { return };
    edit_json(&dir.path().join("config.json"), |config| {
        config["quantization_config"] =
            serde_json::json!({"quant_method": "bitsandbytes", "bits": 4});
    });
    assert_names(dir.path(), ErrorKind::UnsupportedModel, &["bitsandbytes"]);
}

#[test]
fn a_tokenizer_larger_than_the_embedding() {
    let Some(dir) = copy() else { return };
    edit_json(&dir.path().join("tokenizer.json"), |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = 600.into();
        token["content"] = "<|beyond|>".into();
        added.push(token);
        tokenizer["model"]["vocab"]["<|beyond|>"] = 600.into();
    });
    let (kind, message) = refusal(dir.path());
    assert_eq!(kind, ErrorKind::InvalidModel, "{message}");
    assert!(message.contains("512"), "{message}");
}

#[test]
fn a_damaged_tokenizer() {
    let Some(dir) = copy() else { return };
    let file = dir.path().join("tokenizer.json");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert_names(dir.path(), ErrorKind::InvalidModel, &["tokenizer.json"]);
}

#[test]
fn options_that_cannot_be_honoured() {
    let Some(dir) = inference_fixtures::dir("models/stories260k") else { return };
    let refused = |options: LoadOptions| {
        let error = inference::load(dir.clone(), &options.with_backend("cpu"));
        error.map(|_| ()).unwrap_err().kind()
    };
    let options = LoadOptions::new;
    assert_eq!(refused(options().with_threads(0)), ErrorKind::InvalidOption);
    assert_eq!(refused(options().with_context_len(1 << 30)), ErrorKind::InvalidOption);
    assert_eq!(refused(options().with_adapter_path("adapter")), ErrorKind::Io);
    assert!(matches!(
        refused(options().with_gpu_layers(7)),
        ErrorKind::InvalidOption | ErrorKind::Unsupported
    ));
    let unknown = inference::load(dir.clone(), &options().with_backend("abacus"));
    assert_eq!(unknown.map(|_| ()).unwrap_err().kind(), ErrorKind::UnknownBackend);
}
