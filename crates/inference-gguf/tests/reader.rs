//! The reader: fixtures, and files that are wrong in one place each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "support/builder.rs"]
mod builder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::{Builder, array, text};
use inference_core::{Error, ErrorKind};
use inference_gguf::{BlockType, GgufFile, TensorType, Value, ValueType};
use serde_json::Value as Json;

fn gguf_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gguf_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            found.push(path);
        }
    }
}

#[test]
fn every_fixture_opens_with_the_types_that_it_should_have() {
    let Some(root) = inference_fixtures::dir("gguf") else { return };
    let mut files = Vec::new();
    gguf_files(&root, &mut files);
    assert!(files.len() > 10, "{}", files.len());
    for path in files {
        let file = GgufFile::open(&path).unwrap();
        assert!(file.metadata().text("general.architecture").unwrap().is_some());
        assert_eq!(file.parts().count(), 1);
        let expected = std::fs::read(path.with_file_name("expected.json")).unwrap();
        let expected: Json = serde_json::from_slice(&expected).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut counts = serde_json::Map::new();
        for tensor in file.tensors() {
            let count = counts.entry(tensor.kind().to_string()).or_insert(0.into());
            *count = (count.as_u64().unwrap() + 1).into();
            assert_eq!(file.bytes(tensor).unwrap().len() as u64, tensor.byte_len());
            assert!(tensor.byte_len() > 0);
            assert_eq!(file.tensor(tensor.name()).unwrap().shape(), tensor.shape());
        }
        let types = &expected["files"][name]["tensor_types"];
        assert_eq!(&Json::Object(counts), types, "{name}");
        file.release_pages();
        let TensorType::Known(_) = file.tensors()[0].kind() else { panic!("known") };
        assert!(!file.bytes(&file.tensors()[0]).unwrap().is_empty());
    }
}

#[test]
fn vocabularies_stay_in_the_file() {
    let Some(root) = inference_fixtures::dir("gguf-vocab") else { return };
    let path = root.join("ggml-vocab-llama-bpe.gguf");
    let file = GgufFile::open(&path).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.text("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    assert_eq!(metadata.array_len("tokenizer.ggml.tokens").unwrap(), Some(128_256));
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens[0], tokens[128_000]), (128_256, "!", "<|begin_of_text|>"));
    let kinds = metadata.numbers("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!((kinds.len(), kinds[0], kinds[128_000]), (128_256, 1.0, 3.0));
    assert_eq!(file.tensors().len(), 0);
    let bytes = metadata.array("tokenizer.ggml.tokens").unwrap().unwrap().text_bytes();
    assert!(bytes.zip(&tokens).all(|(bytes, token)| bytes == token.as_bytes()));
}

fn small() -> Builder {
    Builder::new()
        .key("general.architecture", 8, text("llama"))
        .u32("llama.block_count", 2)
        .key("pi", 6, 3.25_f32.to_le_bytes())
        .key("flag", 7, [1])
        .key("low", 5, (-3_i32).to_le_bytes())
        .key("words", 9, array(8, 2, &[text("a"), text("bc")].concat()))
        .key("numbers", 9, array(4, 2, &[1, 0, 0, 0, 2, 0, 0, 0]))
        .key("nested", 9, array(9, 2, &[array(0, 1, &[7]), array(8, 1, &text("x"))].concat()))
        .tensor("a", &[2, 3], 0, 0)
        .tensor("b", &[32], 2, 32)
        .data(&[0; 50])
}

#[test]
fn values_are_what_was_written() {
    let file = small().open().unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.keys().count(), 8);
    assert_eq!(metadata.size("llama.block_count").unwrap(), Some(2));
    assert_eq!(metadata.number("pi").unwrap(), Some(3.25));
    assert_eq!(metadata.number("low").unwrap(), Some(-3.0));
    assert_eq!(metadata.flag("flag").unwrap(), Some(true));
    assert_eq!(metadata.texts("words").unwrap().unwrap(), ["a", "bc"]);
    assert_eq!(metadata.numbers("numbers").unwrap().unwrap(), [1.0, 2.0]);
    assert_eq!(metadata.text("absent").unwrap(), None);
    assert_eq!(metadata.stored("low"), Some((ValueType::I32, &[253, 255, 255, 255][..])));
    let nested = metadata.array("nested").unwrap().unwrap();
    let lengths: Vec<_> = nested
        .values("nested")
        .map(|value| match value.unwrap() {
            Value::Array(array) => (array.element_type(), array.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [(ValueType::U8, 1), (ValueType::Text, 1)]);
    // Reversed, as `[out, in]`.
    assert_eq!(file.tensor("a").unwrap().shape(), [3, 2]);
    let b = file.tensor("b").unwrap();
    assert_eq!((b.kind(), b.byte_len()), (TensorType::Known(BlockType::Q4_0), 18));
    assert!(file.tensor("c").is_none());
}

#[test]
fn values_of_another_type_are_named() {
    let file = small().key("text", 8, text([255])).key("maybe", 7, [2]).open().unwrap();
    let metadata = file.metadata();
    let fails = |error: Error, parts: &[&str]| {
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    fails(metadata.text("pi").unwrap_err(), &["made.gguf", "`pi`", "a text", "3.25"]);
    fails(metadata.size("low").unwrap_err(), &["`low`", "non-negative", "-3"]);
    fails(metadata.texts("numbers").unwrap_err(), &["`numbers`", "texts"]);
    fails(metadata.numbers("words").unwrap_err(), &["`words`", "numbers", "`a`"]);
    fails(metadata.array_len("pi").unwrap_err(), &["`pi`", "an array", "a float"]);
    fails(metadata.text("text").unwrap_err(), &["`text`", "UTF-8"]);
    fails(metadata.flag("maybe").unwrap_err(), &["`maybe`", "0 or 1", "2"]);
}

#[test]
fn an_unknown_type_spoils_only_itself() {
    let file = small().tensor("odd", &[5, 5], 77, 64).open().unwrap();
    let odd = file.tensor("odd").unwrap();
    assert_eq!((odd.kind(), odd.byte_len()), (TensorType::Unknown(77), 0));
    let error = file.data(odd).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.to_string().contains("`odd`") && error.to_string().contains("77"), "{error}");
    assert_eq!(file.bytes(file.tensor("a").unwrap()).unwrap().len(), 24);
}

#[test]
fn alignment_is_respected() {
    let mut builder = small().u32("general.alignment", 64);
    builder.alignment = 64;
    let error = builder.open().unwrap_err().to_string();
    assert!(error.contains("`b`") && error.contains("multiple of 64"), "{error}");
    let mut builder = Builder::new().u32("general.alignment", 64).tensor("t", &[2], 0, 64);
    (builder.alignment, builder.data) = (64, [vec![0; 64], vec![1; 8]].concat());
    let file = builder.open().unwrap();
    assert_eq!(file.bytes(&file.tensors()[0]).unwrap(), [1; 8]);
    for bad in [0, 3, 24] {
        let error = Builder::new().u32("general.alignment", bad).open().unwrap_err().to_string();
        assert!(error.contains("general.alignment") && error.contains("power of two"), "{error}");
    }
}

/// A file that is wrong in one place, and what the message has to name.
fn wrong() -> Vec<(Builder, &'static [&'static str])> {
    let with = |change: &dyn Fn(&mut Builder)| {
        let mut builder = small();
        change(&mut builder);
        builder
    };
    let huge = u64::MAX.to_le_bytes();
    let deep = (0..9).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    vec![
        (with(&|b| b.magic = *b"GGML"), &["magic", "GGUF", "GGML"]),
        (with(&|b| b.tensor_count = Some(u64::MAX)), &["number of tensors", "at most"]),
        (with(&|b| b.tensor_count = Some(1 << 40)), &["number of tensors", "at most"]),
        (with(&|b| b.tensor_count = Some(3)), &["tensor"]),
        (with(&|b| b.key_count = Some(u64::MAX)), &["number of keys"]),
        (with(&|b| b.keys.push(huge.to_vec())), &["key 9 of 9", "before the end"]),
        (small().key([0xff], 4, [0; 4]), &["key 9 of 9", "UTF-8"]),
        (small().key("k", 13, []), &["type of `k`", "13"]),
        (small().key("k", 8, huge), &["`k`", "before the end"]),
        (small().key("k", 9, array(13, 1, &[])), &["elements of `k`", "13"]),
        (small().key("k", 9, array(8, u64::MAX, &[])), &["length of `k`"]),
        (small().key("k", 9, array(12, 1 << 61, &[])), &["length of `k`"]),
        (small().key("k", 9, array(8, 1, &huge)), &["`k`", "before the end"]),
        (small().key("k", 9, &deep), &["`k`", "nested"]),
        (small().u32("pi", 3), &["`pi`", "once", "twice"]),
        (small().tensor("a", &[0], 0, 64), &["tensor `a`", "twice"]),
        (small().tensor("t", &[1; 5], 0, 64), &["dimensions of tensor `t`", "at most 4", "5"]),
        (small().tensor("t", &[u64::MAX, 2], 0, 64), &["shape of tensor `t`"]),
        (small().tensor("t", &[1 << 40, 0, 1 << 40], 0, 64), &["shape of tensor `t`"]),
        (small().tensor("t", &[1 << 62], 0, 64), &["tensor `t`"]),
        (small().tensor("t", &[33], 2, 64), &["shape of tensor `t`", "Q4_0", "33"]),
        (small().tensor("t", &[16, 2], 2, 64), &["shape of tensor `t`", "Q4_0", "[2, 16]"]),
        (small().tensor("t", &[2], 0, 64), &["data of tensor `t`", "8 bytes", "file of"]),
        (small().tensor("t", &[2], 0, u64::MAX), &["tensor `t`"]),
        (small().tensor("t", &[2], 0, u64::MAX - 31), &["tensor `t`"]),
        (small().tensor("t", &[2], 0, 4), &["data of tensor `t`", "multiple of 32"]),
        (small().tensor("t", &[1], 0, 32), &["overlapping"]),
        (small().u16("split.count", 2).u16("split.no", 0), &["split.count", "in memory"]),
    ]
}

#[test]
fn what_is_wrong_is_named() {
    for (builder, parts) in wrong() {
        let error = builder.open().unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{message}");
        assert!(message.contains("made.gguf"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message} lacks {parts:?}");
    }
}

#[test]
fn other_versions_and_byte_orders_are_refused_by_name() {
    for (version, found) in [(1, "`1`"), (4, "`4`"), (0, "`0`"), (3_u32.swap_bytes(), "big-endian")]
    {
        let mut builder = small();
        builder.version = version;
        let error = builder.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
        assert!(error.to_string().contains(found), "{error}");
    }
    let mut builder = small();
    builder.version = 2;
    assert_eq!(builder.open().unwrap().tensors().len(), 2);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = small().build();
    for len in 0..whole.len() {
        let error = GgufFile::from_bytes("cut.gguf", Arc::new(whole[..len].to_vec())).unwrap_err();
        assert!(error.to_string().contains("cut.gguf"), "{len}: {error}");
    }
}

/// Two parts in a folder, changed by the caller.
fn split(change: impl Fn(usize, Builder) -> Builder) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..2 {
        let name = format!("m-{:05}-of-00002.gguf", index + 1);
        let builder = Builder::new()
            .u16("split.no", index as u16)
            .u16("split.count", 2)
            .key("split.tensors.count", 5, 2_i32.to_le_bytes())
            .tensor(&format!("t{index}"), &[2], 0, 0)
            .data(&[index as u8; 8]);
        std::fs::write(folder.path().join(name), change(index, builder).build()).unwrap();
    }
    let first = folder.path().join("m-00001-of-00002.gguf");
    (folder, first)
}

#[test]
fn parts_are_one_model() {
    let (folder, first) = split(|index, builder| {
        if index == 0 { builder.key("general.architecture", 8, text("llama")) } else { builder }
    });
    for path in [first.clone(), folder.path().join("m-00002-of-00002.gguf")] {
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.metadata().text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.parts().count(), 2);
        let bytes: Vec<_> = file.tensors().iter().map(|t| file.bytes(t).unwrap()).collect();
        assert_eq!(bytes, [[0; 8], [1; 8]]);
    }
    assert_eq!(GgufFile::open_part(&first).unwrap().tensors().len(), 1);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let fails = |path: &Path, parts: &[&str]| {
        let error = GgufFile::open(path).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks {parts:?}");
    };
    let (folder, first) = split(|_, builder| builder);
    std::fs::remove_file(folder.path().join("m-00002-of-00002.gguf")).unwrap();
    fails(&first, &["part 2 of 2", "m-00002-of-00002.gguf beside it"]);
    let renamed = folder.path().join("other.gguf");
    std::fs::rename(&first, &renamed).unwrap();
    fails(&renamed, &["file name", "-00001-of-00002.gguf", "other.gguf"]);
    let (_folder, first) = split(|_, mut builder| {
        builder.keys[0] = text("x").into_iter().chain(4_u32.to_le_bytes()).chain([0; 4]).collect();
        builder.u16("split.no", 0)
    });
    fails(&first, &["00002-of", "split.no", "expected 1", "found 0"]);
    let (_folder, first) =
        split(
            |index, builder| {
                if index == 1 { builder.tensor("t0", &[0], 0, 32) } else { builder }
            },
        );
    fails(&first, &["split.tensors.count", "expected 3", "found 2"]);
    let (_folder, first) = split(|index, mut builder| {
        if index == 1 {
            builder.tensors.clear();
            builder = builder.tensor("t0", &[2], 0, 0);
        }
        builder
    });
    fails(&first, &["00002-of", "tensor `t0`", "twice"]);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = GgufFile::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("a folder"), "{error}");
    let error = GgufFile::open(&folder.path().join("absent.gguf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, []).unwrap();
    let error = GgufFile::open(&empty).unwrap_err();
    assert!(error.to_string().contains("magic"), "{error}");
}

#[test]
fn opening_is_cheap() {
    let Some(root) = inference_fixtures::dir("gguf-vocab") else { return };
    let path = root.join("ggml-vocab-llama-bpe.gguf");
    // Seven megabytes of vocabulary, 400,000 texts; faults and walk only.
    let start = std::time::Instant::now();
    for _ in 0..20 {
        GgufFile::open(&path).unwrap();
    }
    let each = start.elapsed() / 20;
    assert!(each.as_millis() < 100, "{each:?}");
}
