//! Folders of files that PyTorch and the `onnx` package wrote.

use std::path::{Path, PathBuf};

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec, from_folder,
};
use inference_core::ErrorKind;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder with copies of files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        std::fs::copy(data(from), folder.path().join(to)).unwrap();
    }
    folder
}

/// Of the network that PyTorch exported.
fn torch_architecture() -> Architecture {
    Architecture::new([
        LayerSpec::new(3, 5, Activation::Relu),
        LayerSpec::new(5, 4, Activation::Tanh).with_bias(false),
        LayerSpec::new(4, 2, Activation::None),
    ])
    .unwrap()
}

const INPUT: [f32; 3] = [0.5, -1.0, 2.0];
/// What PyTorch computes of it.
const TORCH: [f32; 2] = [-0.188_465_33, -0.122_647_55];

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
}

#[test]
fn exported_networks_compute_what_they_did() {
    let files = [
        ("torch-gemm.onnx", "m-10.onnx"),
        ("torch-linear.safetensors", "m-9.safetensors"),
        ("torch-gemm.onnx", "m-2.ONNX"),
    ];
    let folder = folder(&files);
    std::fs::write(folder.path().join("notes.txt"), "not a model").unwrap();
    let import = from_folder(folder.path(), Some(&torch_architecture())).unwrap();
    assert_eq!(import.names, ["m-2", "m-9", "m-10"]);
    let options = BatchedOptions::new();
    let group = BatchedInference::from_weights(&import.weights, Device::cpu(), &options).unwrap();
    for row in group.forward(&[INPUT, INPUT, INPUT].concat()).unwrap().chunks(2) {
        assert_near(row, &TORCH);
    }
}

#[test]
fn an_onnx_file_says_what_its_layers_are() {
    let gemm = folder(&[("torch-gemm.onnx", "a.onnx")]);
    let import = from_folder(gemm.path(), None).unwrap();
    assert_eq!(*import.weights.architecture(), torch_architecture());

    let matmul = folder(&[("matmul.onnx", "a.onnx")]);
    let import = from_folder(matmul.path(), None).unwrap();
    let leaky = Activation::LeakyRelu { slope: 0.25 };
    let last = LayerSpec::new(4, 2, Activation::GeluTanh).with_bias(false);
    let expected = Architecture::new([LayerSpec::new(3, 4, leaky), last]).unwrap();
    assert_eq!(*import.weights.architecture(), expected);
    let options = BatchedOptions::new();
    let group = BatchedInference::from_weights(&import.weights, Device::cpu(), &options).unwrap();
    // As numpy and PyTorch compute it.
    assert_near(&group.forward(&INPUT).unwrap(), &[0.174_365_22, 0.215_458_87]);
}

#[test]
fn what_is_no_chain_of_layers_is_named() {
    let refused = |files: &[(&str, &str)], kind: ErrorKind, parts: &[&str]| {
        let error = from_folder(folder(files).path(), None).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "`{text}` lacks `{part}`"));
    };
    let softmax = [("softmax.onnx", "a.onnx")];
    refused(&softmax, ErrorKind::UnsupportedModel, &["a.onnx", "`soft`", "Softmax", "Gemm"]);
    let linear = [("torch-linear.safetensors", "a.safetensors")];
    refused(&linear, ErrorKind::InvalidModel, &["a.safetensors", "activations"]);
    let two = [("torch-gemm.onnx", "a.onnx"), ("matmul.onnx", "b.onnx")];
    refused(&two, ErrorKind::InvalidModel, &["b.onnx", "number of layers"]);
    refused(&[], ErrorKind::ModelNotFound, &["safetensors", "onnx"]);

    let other = Architecture::mlp(&[3, 5, 4, 2], Activation::Relu, Activation::None).unwrap();
    let gemm = folder(&[("torch-gemm.onnx", "a.onnx")]);
    let error = from_folder(gemm.path(), Some(&other)).unwrap_err().to_string();
    assert!(error.contains("layer 1") && error.contains("no bias, tanh"), "{error}");
    let error = from_folder("no/such/folder", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    for name in ["torch-gemm.onnx", "matmul.onnx", "torch-linear.safetensors"] {
        let bytes = std::fs::read(data(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let (mut refused, mut short) = (0, 0);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let try_with = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                usize::from(from_folder(folder.path(), Some(&torch_architecture())).is_err())
            };
            refused += try_with(&damaged);
            short += try_with(&bytes[..at]);
        }
        // What is cut off behind the graph is not missed.
        assert!(short >= bytes.len() - 1, "{name}: {short} of {}", bytes.len());
        assert!(refused > 100, "{name}: {refused}");
    }
}
