//! Damaged, misshapen and missing weights, and files that were tampered with.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_candle::{
    Decoder, DecoderConfig, ModelFiles, ReferenceOps, SafetensorsFiles, WeightSource,
};
use inference_core::{ErrorKind, ModelSource, Result};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The decoder of a folder.
fn open(dir: &Path) -> Result<Decoder> {
    let files = ModelFiles::new(&ModelSource::from(dir))?;
    let config = DecoderConfig::from_json("config.json", &files.read_required("config.json")?)?;
    let weights = SafetensorsFiles::open(&files)?;
    Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu()))
}

/// Header and data of a safetensors file.
fn read(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header, bytes[8 + length..].to_vec())
}

/// The bytes of a safetensors file; `pad` spaces move the data.
fn write(header: &Map<String, Value>, data: &[u8], pad: usize) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).unwrap();
    json.extend(std::iter::repeat_n(b' ', pad));
    let length = json.len() as u64;
    [&length.to_le_bytes()[..], &json, data].concat()
}

/// A copy of a model's config and weights.
fn copy(case: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = inference_fixtures::dir(case)?;
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", FILE] {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    let file = copy.path().join(FILE);
    Some((copy, file))
}

/// Loads the copy after its header was changed; the error it has to give.
fn refusal(change: impl Fn(&mut Map<String, Value>)) -> Option<String> {
    let (dir, file) = copy("tiny/qwen3")?;
    let (mut header, data) = read(&file);
    change(&mut header);
    std::fs::write(&file, write(&header, &data, 0)).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    Some(error.to_string())
}

const NAME: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn a_missing_tensor_is_named() {
    let Some(message) = refusal(|header| drop(header.shift_remove(NAME))) else { return };
    assert!(message.contains(NAME), "{message}");
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let Some(message) = refusal(|header| header[NAME]["shape"] = json!([64, 128])) else { return };
    assert!(message.contains(NAME), "{message}");
    assert!(message.contains("[128, 64]") && message.contains("[64, 128]"), "{message}");
}

#[test]
fn offsets_that_do_not_fit_are_refused() {
    for offsets in [
        json!([0, 1_u64 << 60]),
        json!([8, 4]),
        json!([0, 4]),
        json!([0]),
        json!([-4, 4]),
        json!("all"),
        json!([0, u64::MAX]),
    ] {
        let change = |header: &mut Map<String, Value>| {
            header[NAME]["data_offsets"] = offsets.clone();
        };
        let Some(message) = refusal(change) else { return };
        assert!(message.contains(NAME) && message.contains("data_offsets"), "{message}");
    }
}

#[test]
fn a_shape_beyond_all_memory_is_refused() {
    let huge = json!([1_u64 << 40, 1_u64 << 40]);
    let Some(message) = refusal(|header| header[NAME]["shape"] = huge.clone()) else { return };
    assert!(message.contains(NAME), "{message}");
}

#[test]
fn a_type_that_is_not_read_is_refused_where_it_is_used() {
    let Some((dir, file)) = copy("tiny/qwen3") else { return };
    let (mut header, data) = read(&file);
    header[NAME]["dtype"] = json!("F8_E5M2");
    std::fs::write(&file, write(&header, &data, 0)).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
    assert!(error.to_string().contains(NAME) && error.to_string().contains("F8_E5M2"), "{error}");
    // The same type in a tensor that the model does not need is no obstacle.
    header[NAME]["dtype"] = json!("F32");
    header.insert("other".into(), json!({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}));
    std::fs::write(&file, write(&header, &data, 0)).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn every_truncation_is_refused() {
    let Some((dir, file)) = copy("tiny/llama-tied-bias") else { return };
    let bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    for len in [0, 1, 7, 8, 9, header - 1, header, header + 1, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..len]).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{len} bytes: {error}");
        assert!(error.to_string().contains(FILE), "{len} bytes: {error}");
    }
}

#[test]
fn misaligned_data_is_read() {
    let Some((dir, file)) = copy("tiny/llama-tied-bias") else { return };
    let (header, data) = read(&file);
    let files = ModelFiles::new(&ModelSource::from(dir.path())).unwrap();
    let name = "model.norm.weight";
    let expected = SafetensorsFiles::open(&files).unwrap().get(name).unwrap();
    let expected = expected.bytes().unwrap().to_vec();
    for pad in 1..4 {
        std::fs::write(&file, write(&header, &data, pad)).unwrap();
        let weight = SafetensorsFiles::open(&files).unwrap().get(name).unwrap();
        assert_eq!(weight.bytes().unwrap(), expected);
        assert_eq!(weight.bytes().unwrap().as_ptr().align_offset(4), 0);
        open(dir.path()).unwrap();
    }
}

/// A change of an index's `weight_map`.
type IndexEdit = dyn Fn(&mut Map<String, Value>);

/// Splits a model into two shards; `change` edits the index.
fn shards(
    change: impl Fn(&mut Map<String, Value>),
) -> Option<(tempfile::TempDir, Result<Decoder>)> {
    let (dir, file) = copy("tiny/qwen3")?;
    let (header, data) = read(&file);
    std::fs::remove_file(&file).unwrap();
    let mut weight_map = Map::new();
    let mut parts = [(Map::new(), Vec::new()), (Map::new(), Vec::new())];
    for (count, (name, tensor)) in header.iter().filter(|(n, _)| *n != "__metadata__").enumerate() {
        let (map, bytes) = &mut parts[count % 2];
        let offset = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let slice = &data[offset(0)..offset(1)];
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = json!([bytes.len(), bytes.len() + slice.len()]);
        bytes.extend_from_slice(slice);
        map.insert(name.clone(), tensor);
        let shard = format!("model-0000{}-of-00002.safetensors", count % 2 + 1);
        weight_map.insert(name.clone(), json!(shard));
    }
    for (index, (map, bytes)) in parts.iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", index + 1);
        std::fs::write(dir.path().join(name), write(map, bytes, 0)).unwrap();
    }
    change(&mut weight_map);
    let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
    std::fs::write(dir.path().join(INDEX), index).unwrap();
    let result = open(dir.path());
    Some((dir, result))
}

#[test]
fn shards_are_one_model() {
    let Some((_dir, decoder)) = shards(|_| ()) else { return };
    let whole = open(&inference_fixtures::dir("tiny/qwen3").unwrap()).unwrap();
    let sharded = decoder.unwrap();
    assert_eq!(sharded.parameters(), whole.parameters());
    assert_eq!(sharded.embedding().bytes(), whole.embedding().bytes());
}

#[test]
fn an_inconsistent_index_is_refused() {
    let outside = |map: &mut Map<String, Value>| map[NAME] = json!("../model.safetensors");
    let wrong = |map: &mut Map<String, Value>| {
        let other = match map[NAME].as_str().unwrap().contains("-00001-") {
            true => "model-00002-of-00002.safetensors",
            false => "model-00001-of-00002.safetensors",
        };
        map[NAME] = json!(other);
    };
    let changes: [(&IndexEdit, &str); 5] = [
        (&outside, NAME),
        (&wrong, NAME),
        (&|map| map[NAME] = json!("model-00003-of-00002.safetensors"), "model-00003"),
        // Where a shard is missing, what asked for it is named.
        (&|map| map[NAME] = json!("m.safetensors"), "model.safetensors.index.json"),
        (&|map| map[NAME] = json!(3), NAME),
    ];
    for (change, named) in changes {
        let Some((_dir, result)) = shards(change) else { return };
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// Changes bytes of a text: each edit overwrites, deletes or doubles one.
fn mutate(bytes: &mut Vec<u8>, edits: &[(usize, u8, u8)]) {
    for (at, value, kind) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at % bytes.len();
        match kind % 4 {
            0 => bytes[at] = *value,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, bytes[at]),
            // A digit more or less is where sizes go wrong.
            _ => bytes[at] = b'0' + value % 10,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in the files: a model or a typed error, no panic.
    #[test]
    fn tampered_files_are_a_model_or_an_error(
        case in prop::sample::select(&["gemma3-text", "phi3-longrope", "qwen3moe-v5config"][..]),
        in_config in any::<bool>(),
        edits in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let Some((dir, file)) = copy(&format!("tiny/{case}")) else { return Ok(()) };
        if in_config {
            let path = dir.path().join("config.json");
            let mut bytes = std::fs::read(&path).unwrap();
            mutate(&mut bytes, &edits);
            std::fs::write(path, bytes).unwrap();
        } else {
            let bytes = std::fs::read(&file).unwrap();
            let length = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let mut head = bytes[..length].to_vec();
            mutate(&mut head, &edits);
            std::fs::write(&file, [&head, &bytes[length..]].concat()).unwrap();
        }
        match open(dir.path()) {
            Ok(decoder) => {
                // What was built is no larger than what the file holds.
                let size = std::fs::metadata(&file).unwrap().len();
                prop_assert!(decoder.weight_bytes() <= 2 * size);
            }
            Err(error) => {
                let kind = error.kind();
                let typed = [ErrorKind::InvalidModel, ErrorKind::UnsupportedModel];
                prop_assert!(typed.contains(&kind), "{kind:?}: {error}");
            }
        }
    }
}

/// A header that would take 16 times its size once parsed.
#[test]
fn a_header_of_countless_values_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let header = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{}0]}}}}", "0,".repeat(400_000));
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let files = ModelFiles::new(&ModelSource::from(dir.path())).unwrap();
    let error = SafetensorsFiles::open(&files).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    let message = error.to_string();
    for part in ["model.safetensors", "the header", "at most 300000 values", "up to 400007"] {
        assert!(message.contains(part), "{message}");
    }
}
