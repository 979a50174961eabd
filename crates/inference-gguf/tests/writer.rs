//! Files that are written here, read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;

use inference_core::ErrorKind;
use inference_fixtures::dir;
use inference_gguf::{BlockType, GgufFile, GgufWriter, TensorType, Value, ValueType};
use proptest::prelude::*;

#[test]
fn every_type_of_value_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("values.gguf");
    let mut writer = GgufWriter::new();
    writer.set("u8", u8::MAX);
    writer.set("i8", i8::MIN);
    writer.set("u16", u16::MAX);
    writer.set("i16", i16::MIN);
    writer.set("u32", u32::MAX);
    writer.set("i32", i32::MIN);
    writer.set("u64", u64::MAX);
    writer.set("i64", i64::MIN);
    writer.set("f32", 0.1_f32);
    writer.set("f64", 0.1_f64);
    writer.set("bool", true);
    writer.set("text", "replaced");
    writer.set_array("texts", ["", "é", "\u{0}x"]);
    writer.set_array("floats", [1.5_f32, -2.0]);
    writer.set_array("flags", [true, false]);
    writer.set_array("none", [0_i32; 0]);
    writer.set("text", "último");
    writer.create(&path).unwrap().finish().unwrap();

    let file = GgufFile::open(&path).unwrap();
    let metadata = file.metadata();
    let integer = |key| match metadata.get(key).unwrap().unwrap() {
        Value::Integer(value) => value,
        other => panic!("{other:?}"),
    };
    assert_eq!(integer("u8"), u8::MAX.into());
    assert_eq!(integer("i8"), i8::MIN.into());
    assert_eq!(integer("u16"), u16::MAX.into());
    assert_eq!(integer("i16"), i16::MIN.into());
    assert_eq!(integer("u32"), u32::MAX.into());
    assert_eq!(integer("i32"), i32::MIN.into());
    assert_eq!(integer("u64"), u64::MAX.into());
    assert_eq!(integer("i64"), i64::MIN.into());
    assert_eq!(metadata.number("f32").unwrap(), Some(f64::from(0.1_f32)));
    assert_eq!(metadata.number("f64").unwrap(), Some(0.1));
    assert_eq!(metadata.flag("bool").unwrap(), Some(true));
    assert_eq!(metadata.text("text").unwrap(), Some("último"));
    assert_eq!(metadata.texts("texts").unwrap().unwrap(), ["", "é", "\u{0}x"]);
    assert_eq!(metadata.numbers("floats").unwrap().unwrap(), [1.5, -2.0]);
    assert_eq!(metadata.numbers("flags").unwrap().unwrap(), [1.0, 0.0]);
    assert_eq!(metadata.array_len("none").unwrap(), Some(0));
    assert_eq!(metadata.stored("i16").unwrap().0, ValueType::I16);
    assert_eq!(metadata.keys().count(), 16);
}

/// Another program's file, copied key by key and tensor by tensor.
#[test]
fn a_copy_says_the_same() {
    let Some(path) = dir("gguf/gemma3/gemma3-q8_0.gguf") else { return };
    let source = GgufFile::open(&path).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy(source.metadata(), |_| true);
    for tensor in source.tensors() {
        let TensorType::Known(kind) = tensor.kind() else { panic!("{}", tensor.kind()) };
        writer.tensor(tensor.name(), tensor.shape(), kind).unwrap();
    }
    let bytes = writer.file_bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let mut file = writer.create(&path).unwrap();
    for tensor in source.tensors() {
        let (bytes, range) = source.data(tensor).unwrap();
        for piece in (*bytes).as_ref()[range].chunks(1000) {
            file.write(piece).unwrap();
        }
    }
    file.finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes);

    let copy = GgufFile::open(&path).unwrap();
    let metadata = source.metadata();
    assert!(metadata.keys().eq(copy.metadata().keys()));
    for key in metadata.keys() {
        assert_eq!(metadata.stored(key), copy.metadata().stored(key), "{key}");
    }
    assert_eq!(source.tensors().len(), copy.tensors().len());
    for (a, b) in source.tensors().iter().zip(copy.tensors()) {
        assert_eq!((a.name(), a.shape(), a.kind()), (b.name(), b.shape(), b.kind()));
        let ((a, at), (b, bt)) = (source.data(a).unwrap(), copy.data(b).unwrap());
        assert_eq!((*a).as_ref()[at], (*b).as_ref()[bt]);
    }
}

#[test]
fn nothing_appears_before_the_file_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.gguf");
    fs::write(&path, "old").unwrap();
    let begin = || {
        let mut writer = GgufWriter::new();
        writer.tensor("x", &[4], BlockType::F32).unwrap();
        writer.create(&path).unwrap()
    };
    let mut file = begin();
    file.write(&[0; 12]).unwrap();
    assert_eq!(file.finish().unwrap_err().kind(), ErrorKind::Engine);
    let mut file = begin();
    assert!(file.write(&[0; 17]).unwrap_err().to_string().contains("`x`"));
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files stay behind");
    let mut file = begin();
    file.write(&[0; 16]).unwrap();
    assert!(file.write(&[0]).is_err());
    file.finish().unwrap();
    assert_eq!(GgufFile::open(&path).unwrap().tensors().len(), 1);
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let mut writer = GgufWriter::new();
    writer.tensor("x", &[2, 64], BlockType::Q8_0).unwrap();
    for (name, shape) in [
        ("x", &[32][..]),
        ("a", &[]),
        ("b", &[1, 1, 1, 1, 32]),
        ("c", &[33]),
        ("d", &[1 << 62, 32]),
    ] {
        let error = writer.tensor(name, shape, BlockType::Q8_0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn data_of_any_sizes_comes_back(
        sizes in prop::collection::vec((0_usize..40, 1_usize..4), 0..8),
        piece in 1_usize..50,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sizes.gguf");
        let mut writer = GgufWriter::new();
        let mut data = Vec::new();
        for (index, (columns, rows)) in sizes.iter().enumerate() {
            let name = format!("t{index}");
            writer.tensor(&name, &[*rows, *columns], BlockType::I8).unwrap();
            data.push((name, vec![index as u8 + 1; columns * rows]));
        }
        let all: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let mut file = writer.create(&path).unwrap();
        // A piece may not reach over two tensors.
        for (_, bytes) in &data {
            for piece in bytes.chunks(piece) {
                file.write(piece).unwrap();
            }
        }
        file.finish().unwrap();
        let file = GgufFile::open(&path).unwrap();
        let mut read = Vec::new();
        for (name, _) in &data {
            let (bytes, range) = file.data(file.tensor(name).unwrap()).unwrap();
            read.extend_from_slice(&(*bytes).as_ref()[range]);
        }
        prop_assert_eq!(all, read);
    }
}
