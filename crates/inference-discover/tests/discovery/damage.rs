//! Files with damage: an error or a model, never a panic, never a wait.

use std::path::Path;
use std::time::{Duration, Instant};

use inference_core::KvDtype;
use inference_discover::{describe, inspect};

use crate::Place;
use crate::model_bytes::{Value, gguf, llama_metadata, safetensors};

/// Describes the model after every byte of the file was changed in several
/// ways, and after the file was cut at every length.
fn survive(place: &Place, file: &str, content: &[u8], model: &Path) {
    let look = |bytes: &[u8], what: String| {
        place.write(file, bytes);
        let start = Instant::now();
        let result = describe(model);
        let _ = inspect(&model.into()).map(|found| found.memory(u64::MAX, KvDtype::F32));
        assert!(start.elapsed() < Duration::from_secs(1), "{what}: {:?}", start.elapsed());
        result
    };
    look(content, "whole".to_owned()).unwrap();
    for index in 0..content.len() {
        let mut damaged = content.to_vec();
        for change in [0xff, 0x80, 0x01, 0x10] {
            damaged[index] = content[index] ^ change;
            let _ = look(&damaged, format!("{file}, byte {index} ^ {change:#x}"));
        }
    }
    for len in 0..content.len() {
        let cut = look(&content[..len], format!("{file}, cut at {len}"));
        assert!(cut.is_err(), "{file} cut at {len}");
    }
}

#[test]
fn damage_of_a_safetensors_model_is_survived() {
    let place = Place::new();
    place.folder_model("m");
    let model = place.path().join("m");
    let config = br#"{"model_type":"llama","num_hidden_layers":2,"hidden_size":8,
        "num_attention_heads":2,"head_dim":4,"vocab_size":9,"max_position_embeddings":64,
        "quantization":{"bits":4,"group_size":32}}"#;
    survive(&place, "m/config.json", config, &model);
    place.write("m/config.json", config);
    survive(&place, "m/model.safetensors", &safetensors(&[("w", &[2, 4]), ("v", &[3])]), &model);
}

#[test]
fn damage_of_a_gguf_model_is_survived() {
    let place = Place::new();
    let mut metadata = llama_metadata(15);
    metadata.push(("llama.block_count", Value::U32(2)));
    metadata.push(("llama.embedding_length", Value::U32(8)));
    metadata.push(("llama.attention.head_count", Value::U32(2)));
    metadata.push(("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(), "b".into()])));
    let content = gguf(&metadata, &[("token_embd.weight", &[8])]);
    survive(&place, "m.gguf", &content, &place.path().join("m.gguf"));
}
