//! Checkpoints that other tools wrote.

use std::collections::BTreeMap;

use inference_discover::discover;

#[test]
fn every_checkpoint_of_transformers_is_described() {
    let Some(root) = inference_fixtures::dir("tiny") else { return };
    let mut found = BTreeMap::new();
    for model in discover(&root) {
        let model = model.unwrap();
        found.insert(model.name.clone(), model);
    }
    for (name, architecture, dtype) in [
        ("gemma3-text", "gemma3_text", "f32"),
        ("qwen3moe-v5config", "qwen3_moe", "f32"),
        ("mixtral", "mixtral", "f32"),
        ("llama-h256", "llama", "f16"),
    ] {
        let model = &found[name];
        assert_eq!(model.architecture.as_deref(), Some(architecture));
        assert_eq!(model.dtype.as_deref(), Some(dtype), "{name}");
        assert!(model.context_len.is_some(), "{name}");
        let width = if dtype == "f16" { 2 } else { 4 };
        assert_eq!(model.parameters.unwrap() * width, model.bytes, "{name}");
    }
}

#[test]
fn every_file_of_llama_cpp_is_a_model_by_its_quantization() {
    let Some(root) = inference_fixtures::dir("gguf/llama-h256") else { return };
    let models: Vec<_> = discover(&root).map(Result::unwrap).collect();
    let mut files: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".gguf"))
        .collect();
    files.sort();
    assert_eq!(models.len(), files.len());
    for (model, file) in models.iter().zip(files) {
        let dtype = model.dtype.as_deref().unwrap().to_ascii_lowercase();
        assert!(file.to_ascii_lowercase().contains(&dtype), "{file}: {dtype}");
        assert_eq!(model.parameters, models[0].parameters, "{file}");
        assert_eq!(model.architecture.as_deref(), Some("llama"));
    }
}

#[test]
fn adapters_of_peft_are_described() {
    let Some(root) = inference_fixtures::dir("lora") else { return };
    let models: Vec<_> = discover(&root).map(Result::unwrap).collect();
    assert!(models.len() >= 8, "{}", models.len());
    for model in models {
        assert_eq!(model.format, "peft", "{}", model.path.display());
        assert!(model.is_adapter && model.base_model.is_some(), "{}", model.path.display());
        assert_eq!(model.architecture.as_deref(), Some("lora"));
    }
}
