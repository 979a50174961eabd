//! Blocks that are written here against those of ggml and of the `gguf` package.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use inference_core::ErrorKind;
use inference_fixtures::{dir, floats, json};
use inference_gguf::{BlockType, GgufFile, TensorType};
use proptest::prelude::*;

/// The types whose writing here is lossy.
fn encodable() -> impl Iterator<Item = BlockType> {
    BlockType::ALL.iter().copied().filter(|kind| kind.can_encode() && !kind.is_dense())
}

fn encode(kind: BlockType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xAA; kind.row_bytes(values.len()).unwrap()];
    kind.encode("x", values, importance, &mut out).unwrap();
    out
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// As in `data/make_encoded.py`.
fn noise(i: u64, seed: u64) -> f64 {
    ((i * 2_654_435_761 + seed * 40_503 + 12_345) % (1 << 32)) as f64 / 2_f64.powi(31) - 1.0
}

#[test]
fn small_blocks_are_those_of_the_gguf_package() {
    let Some(path) = dir("gguf/quant_blocks.json") else { return };
    let mut compared = 0;
    for (name, case) in json(&path)["types"].as_object().unwrap() {
        let Some(kind) = BlockType::ALL.iter().find(|kind| kind.as_str() == name) else { continue };
        if case["source_values"].is_null() || !kind.can_encode() {
            continue;
        }
        let bytes = from_hex(case["bytes_hex"].as_str().unwrap());
        assert_eq!(encode(*kind, &floats(&case["source_values"]), None), bytes, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 7);
}

#[test]
fn blocks_are_those_of_ggml() {
    let cases: serde_json::Value =
        serde_json::from_slice(include_bytes!("data/encoded.json")).unwrap();
    let values: Vec<f32> =
        (0..1024).map(|i| (noise(i, 0).powi(3) + 0.2 * noise(i, 1)) as f32).collect();
    let importance: Vec<f32> = (0..512).map(|i| (0.01 + noise(i, 2).powi(2)) as f32).collect();
    for kind in encodable() {
        for (key, weights) in [("plain", None), ("weighted", Some(&*importance))] {
            let theirs = from_hex(cases[kind.as_str()][key].as_str().unwrap());
            let ours = encode(kind, &values, weights);
            assert_eq!(ours, theirs, "{kind} {key}");
        }
    }
}

#[test]
fn tensors_are_those_of_llama_cpp() {
    let Some(path) = dir("gguf/llama-h256") else { return };
    let source = GgufFile::open(&path.join("llama-h256-f16.gguf")).unwrap();
    let values_of = |name: &str| {
        let tensor = source.tensor(name).unwrap();
        let (bytes, range) = source.data(tensor).unwrap();
        let mut values = vec![0.0; tensor.elem_count() as usize];
        BlockType::F16.decode(&(*bytes).as_ref()[range], &mut values).unwrap();
        values
    };
    let mut types = std::collections::BTreeSet::new();
    for name in [
        "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k",
        "iq4_nl", "iq4_xs",
    ] {
        let file = GgufFile::open(&path.join(format!("llama-h256-{name}.gguf"))).unwrap();
        for tensor in file.tensors() {
            let TensorType::Known(kind) = tensor.kind() else { panic!("{}", tensor.kind()) };
            if kind.is_dense() {
                continue;
            }
            let values = values_of(tensor.name());
            let (bytes, range) = file.data(tensor).unwrap();
            let theirs = &(*bytes).as_ref()[range];
            let ours = encode(kind, &values, None);
            let pairs = ours.chunks(kind.block_bytes()).zip(theirs.chunks(kind.block_bytes()));
            let total = pairs.clone().count();
            let different = pairs.filter(|(ours, theirs)| ours != theirs).count();
            // Where a value is half-way between two levels, llama.cpp and the
            // `gguf` package round these two types differently; see above.
            let ties = matches!(kind, BlockType::Q4_0 | BlockType::Q5_0);
            let allowed = if ties { total.div_ceil(100) } else { 0 };
            assert!(different <= allowed, "{name}: {different} of {total} in {}", tensor.name());
            types.insert(kind);
        }
    }
    assert_eq!(types.len(), 12);
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let mut out = vec![0; 34];
    for bad in [f32::NAN, f32::INFINITY, 1e6] {
        let mut values = [0.5; 32];
        values[7] = bad;
        let error = BlockType::Q8_0.encode("blk.0.x", &values, None, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert!(error.to_string().contains("blk.0.x"), "{error}");
    }
    let error = BlockType::Iq1S.encode("x", &[0.0; 256], None, &mut [0; 50]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // Rows that are not whole blocks, buffers of another length.
    assert!(BlockType::Q8_0.encode("x", &[0.0; 33], None, &mut [0; 34]).is_err());
    assert!(BlockType::Q8_0.encode("x", &[0.0; 32], None, &mut [0; 33]).is_err());
    assert!(BlockType::Q8_0.encode("x", &[0.0; 64], Some(&[1.0; 48]), &mut [0; 68]).is_err());
    assert!(BlockType::Q8_0.encode("x", &[0.0; 64], Some(&[]), &mut [0; 68]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the values, what is read back is near them. Half a step is
    /// rounding; scales in few bits and uneven tables cost the rest.
    #[test]
    fn values_come_back(
        values in prop::collection::vec(-1.0_f32..1.0, 256),
        exponent in -1_i32..4,
        zeros in 0_usize..256,
        weighted in any::<bool>(),
    ) {
        let factor = 10_f32.powi(exponent);
        let mut values: Vec<f32> = values.iter().map(|x| x * factor).collect();
        values[..zeros].fill(0.0);
        let largest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let importance = vec![1.0; 256];
        for kind in encodable() {
            let bytes = encode(kind, &values, weighted.then_some(&*importance));
            let mut decoded = vec![0.0; 256];
            kind.decode(&bytes, &mut decoded).unwrap();
            let bits = 8.0 * kind.block_bytes() as f32 / kind.block_values() as f32;
            // Two bits: four levels between the bounds.
            let step = 2.0 * largest / (2_f32.powf(bits.floor()) - 1.0);
            for (x, y) in values.iter().zip(&decoded) {
                prop_assert!((x - y).abs() <= 1.5 * step, "{kind}: {x} became {y}");
            }
        }
    }
}
