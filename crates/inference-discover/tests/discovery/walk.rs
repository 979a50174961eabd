//! The walk over folders.

use std::fs;
use std::time::Instant;

use inference_core::ErrorKind;
use inference_discover::{Discover, DiscoverOptions, describe, discover};
use serde_json::json;

use crate::Place;
use crate::model_bytes::{Value, gguf, llama_metadata, safetensors};

fn found(place: &Place) -> (Vec<String>, Vec<String>) {
    place.sorted_out(discover(place.path()))
}

#[test]
fn models_come_in_the_order_of_their_paths() {
    let place = Place::new();
    for path in ["b.gguf", "a/z.gguf", "a/b/x.gguf", "c.gguf"] {
        place.gguf_model(path);
    }
    place.folder_model("a");
    place.folder_model("b");
    place.write("a/notes.txt", "nothing");
    place.write("app/config.json", r#"{"theme": "dark"}"#);
    let (models, errors) = found(&place);
    assert_eq!(models, ["a", "a/b/x.gguf", "a/z.gguf", "b", "b.gguf", "c.gguf"]);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn what_follows_is_looked_at_when_it_is_asked_for() {
    let place = Place::new();
    place.gguf_model("a/x.gguf");
    place.gguf_model("b/x.gguf");
    let mut models = discover(place.path());
    assert!(models.next().unwrap().unwrap().path.ends_with("a/x.gguf"));
    place.gguf_model("b/later.gguf");
    assert!(models.next().unwrap().unwrap().path.ends_with("b/later.gguf"));
    assert!(models.next().unwrap().unwrap().path.ends_with("b/x.gguf"));
    assert!(models.next().is_none() && models.next().is_none());
}

#[test]
fn depth_and_hidden_folders_are_options() {
    let place = Place::new();
    for path in ["0.gguf", "1/1.gguf", "1/2/2.gguf", ".hidden/h.gguf"] {
        place.gguf_model(path);
    }
    let with = |options| place.sorted_out(Discover::new(place.path(), options)).0;
    assert_eq!(with(DiscoverOptions::new().with_max_depth(0)), ["0.gguf"]);
    assert_eq!(with(DiscoverOptions::new().with_max_depth(1)), ["0.gguf", "1/1.gguf"]);
    let all = with(DiscoverOptions::new().with_hidden(true));
    assert_eq!(all, [".hidden/h.gguf", "0.gguf", "1/1.gguf", "1/2/2.gguf"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_once() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    place.gguf_model("m/x.gguf");
    place.folder_model("m/folder");
    let at = |path: &str| place.path().join(path);
    symlink("..", at("m/up")).unwrap();
    symlink(place.path(), at("m/root")).unwrap();
    symlink("x.gguf", at("m/same.gguf")).unwrap();
    symlink("folder", at("m/again")).unwrap();
    symlink("self", at("m/self")).unwrap();
    symlink("nowhere", at("m/dangling.gguf")).unwrap();
    let (models, errors) = found(&place);
    // Under the name that comes first.
    assert_eq!(models, ["m/again", "m/same.gguf"]);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("dangling.gguf"), "{errors:?}");
    assert!(errors[1].contains("m/self"), "{errors:?}");
}

#[test]
fn a_bad_entry_is_an_error_that_names_it_and_the_walk_goes_on() {
    let place = Place::new();
    let weights = safetensors(&[("w", &[8, 8])]);
    let config = r#"{"model_type": "llama"}"#;
    let index = |shard: &str| json!({"weight_map": {"w": shard}}).to_string();
    place.write("a-config/config.json", "{");
    place.write("a-config/model.safetensors", &weights);
    place.write("b-cut/config.json", config);
    place.write("b-cut/model.safetensors", &weights[..weights.len() - 1]);
    place.write("c-shard/config.json", config);
    place.write("c-shard/model.safetensors.index.json", index("model-00001-of-00002.safetensors"));
    place.write("d-outside/config.json", config);
    place.write("d-outside/model.safetensors.index.json", index("../x.safetensors"));
    place.write("e-none/config.json", config);
    place.write("f-alone/model.safetensors", &weights);
    place.write("g-field/config.json", r#"{"max_position_embeddings": [1]}"#);
    place.write("g-field/model.safetensors", &weights);
    place.write("h-cut.gguf", &gguf(&llama_metadata(0), &[("w", &[8, 8])])[..100]);
    place.write("i-text.gguf", "no model at all");
    place.write("j-split-00002-of-00003.gguf", "");
    place.write("k-header/config.json", config);
    place.write("k-header/model.safetensors", [&[255; 8][..], b"{}"].concat());
    place.write("l-nameless.gguf", gguf(&[], &[("w", &[8, 8])]));
    place.write("m-adapter/adapter_config.json", "{}");
    place.gguf_model("z.gguf");
    let (models, errors) = found(&place);
    assert_eq!(models, ["z.gguf"]);
    let named = [
        ("a-config/config.json", "JSON"),
        ("b-cut/model.safetensors", "tensor `w`"),
        ("c-shard", "model-00001-of-00002.safetensors"),
        ("d-outside", "tensor `w`"),
        ("e-none", "model.safetensors"),
        ("f-alone", "config.json"),
        ("g-field/config.json", "max_position_embeddings"),
        ("h-cut.gguf", ""),
        ("i-text.gguf", ""),
        ("j-split-00001-of-00003.gguf", "00001-of-00003"),
        ("k-header/model.safetensors", "header"),
        ("l-nameless.gguf", "general.architecture"),
        ("m-adapter", "adapter_model.safetensors"),
    ];
    assert_eq!(errors.len(), named.len(), "{errors:#?}");
    for (error, (file, what)) in errors.iter().zip(named) {
        assert!(error.contains(file) && error.contains(what), "{file}, {what}: {error}");
    }
}

#[test]
fn a_root_that_is_no_folder_is_described_or_refused() {
    let place = Place::new();
    let model = place.gguf_model("m.gguf");
    assert_eq!(describe(&model).unwrap().dtype.as_deref(), Some("Q4_K_M"));
    assert_eq!(discover(&model).count(), 1);
    let blob = place.gguf_model("sha256-0123");
    assert_eq!(describe(&blob).unwrap().format, "gguf", "known by its first bytes");
    let text = place.write("m.bin", "text");
    assert_eq!(describe(&text).unwrap_err().kind(), ErrorKind::UnsupportedModel);
    let mut none = discover(place.path().join("none"));
    assert_eq!(none.next().unwrap().unwrap_err().kind(), ErrorKind::Io);
    assert!(none.next().is_none());
}

#[test]
fn quantizations_are_models_and_parts_are_not() {
    let place = Place::new();
    place.gguf_model("m.Q4_K_M.gguf");
    place.write("m.BF16.gguf", gguf(&llama_metadata(32), &[("w", &[8, 8])]));
    place.write("m.guess.gguf", gguf(&llama_metadata(1024), &[("w", &[8, 8])]));
    let models: Vec<_> = discover(place.path()).map(Result::unwrap).collect();
    let facts: Vec<_> =
        models.iter().map(|model| (&*model.name, model.dtype.as_deref().unwrap())).collect();
    // A number that is not known: the type of the tensors.
    assert_eq!(facts, [("m.BF16", "BF16"), ("m.Q4_K_M", "Q4_K_M"), ("m.guess", "F32")]);
    assert_eq!(models[0].parameters, Some(64));
    assert_eq!(models[0].bytes, 256);
    assert_eq!(models[0].context_len, Some(2048));
    assert!(!models[0].has_chat_template);
}

#[test]
fn what_the_files_say_is_told() {
    let place = Place::new();
    let config = json!({
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 131_072},
        "quantization": {"group_size": 64, "bits": 4},
    });
    place.write("m/config.json", config.to_string());
    let tensors: [(&str, &[u64]); 2] = [("l.scales", &[8, 2]), ("norm.weight", &[8])];
    place.write("m/model.safetensors", safetensors(&tensors));
    place.write("m/README.md", "---\nlicense: gemma\n---\n# Model");
    place.write("m/tokenizer_config.json", r#"{"chat_template": "{{ x }}", "a": [1]}"#);
    let model = describe(&place.path().join("m")).unwrap();
    assert_eq!(model.name, "m");
    assert_eq!(model.format, "safetensors");
    assert_eq!(model.architecture.as_deref(), Some("gemma3"));
    assert_eq!(model.context_len, Some(131_072));
    assert_eq!(model.dtype.as_deref(), Some("mlx-4bit"));
    assert_eq!(model.quant_method.as_deref(), Some("mlx"));
    assert_eq!(model.quantization.map(|q| (q.bits, q.group)), Some((4, 64)));
    assert_eq!(model.parameters, Some(8), "scales are no parameters");
    assert_eq!(model.license.as_deref(), Some("gemma"));
    assert!(model.has_chat_template && !model.is_adapter);
    place.write("m/tokenizer_config.json", r#"{"chat_template": null}"#);
    assert!(!describe(&place.path().join("m")).unwrap().has_chat_template);

    let mut metadata = llama_metadata(15);
    let tokens = ["a", "b"].map(str::to_owned).to_vec();
    metadata.push(("tokenizer.ggml.tokens", Value::Texts(tokens)));
    metadata.push(("general.license", Value::Text("mit".to_owned())));
    metadata.push(("tokenizer.chat_template", Value::Text("{{ x }}".to_owned())));
    let path = place.write("m.gguf", gguf(&metadata, &[("w", &[8, 8])]));
    let model = describe(&path).unwrap();
    assert_eq!(model.license.as_deref(), Some("mit"));
    assert!(model.has_chat_template);
}

#[test]
fn adapters_of_both_tools_are_told_apart() {
    let place = Place::new();
    let weights = safetensors(&[("layers.0.lora_a", &[4, 8])]);
    place.write("peft/adapter_model.safetensors", &weights);
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4}"#;
    place.write("peft/adapter_config.json", config);
    place.write("mlx/adapters.safetensors", &weights);
    place.write("mlx/0000100_adapters.safetensors", &weights);
    place.write("mlx/adapter_config.json", r#"{"fine_tune_type": "lora", "model": "org/base"}"#);
    let models: Vec<_> = discover(place.path()).map(Result::unwrap).collect();
    let formats: Vec<_> = models.iter().map(|model| &*model.format).collect();
    assert_eq!(formats, ["mlx-lm", "peft"]);
    for model in models {
        assert!(model.is_adapter);
        assert_eq!(model.base_model.as_deref(), Some("org/base"));
        assert_eq!(model.architecture.as_deref(), Some("lora"));
        assert_eq!(model.parameters, Some(32));
    }
}

#[test]
fn a_thousand_models_are_found_in_little_time() {
    let place = Place::new();
    for index in 0..500 {
        place.folder_model(&format!("folders/{index:03}"));
        place.gguf_model(&format!("files/{index:03}.gguf"));
    }
    let start = Instant::now();
    assert_eq!(discover(place.path()).filter(|model| model.is_ok()).count(), 1000);
    // Ten times what it takes a busy machine without optimisation.
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    fs::remove_dir_all(place.path().join("folders")).unwrap();
}
