//! Every block type against the values of the reference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use half::f16;
use inference_core::ErrorKind;
use inference_gguf::BlockType;
use inference_gguf::blocks::Unpacked;
use proptest::prelude::*;
use serde_json::Value;

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    hex.as_bytes().as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect()
}

#[test]
fn every_type_of_the_reference_decodes_to_its_bits() {
    let Some(path) = inference_fixtures::dir("gguf/quant_blocks.json") else { return };
    let Value::Object(types) = inference_fixtures::json(&path)["types"].take() else { panic!() };
    assert!(types.len() >= 24, "{}", types.len());
    for (name, case) in types {
        let id = u32::try_from(case["id"].as_u64().unwrap()).unwrap();
        let kind = BlockType::from_id(id).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(kind.as_str(), name);
        assert_eq!(kind.block_values() as u64, case["block_values"].as_u64().unwrap(), "{name}");
        assert_eq!(kind.block_bytes() as u64, case["block_bytes"].as_u64().unwrap(), "{name}");
        let bytes = bytes_of(case["bytes_hex"].as_str().unwrap());
        let expected = inference_fixtures::floats(&case["values"]);
        let mut values = vec![f32::NAN; expected.len()];
        kind.decode(&bytes, &mut values).unwrap();
        for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
            assert_eq!(value.to_bits(), expected.to_bits(), "{name}[{i}]: {value} {expected}");
        }
        // From the second block on, alone: no block depends on its place.
        let (block, step) = (kind.block_bytes(), kind.block_values());
        let mut alone = vec![0.0; step];
        for (n, bytes) in bytes.chunks(block).enumerate() {
            kind.decode(bytes, &mut alone).unwrap();
            assert_eq!(alone, &expected[n * step..(n + 1) * step], "{name}");
        }
    }
}

/// SplitMix64, as in `data/make_block_digests.py`.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Thousands of random blocks per type, so that every entry of a codebook is
/// met; `data/make_block_digests.py` says how the digests are made.
#[test]
fn random_blocks_decode_to_the_reference_s_digests() {
    let reference = serde_json::from_str(include_str!("data/block_digests.json"));
    let reference: Value = reference.unwrap();
    let blocks = usize::try_from(reference["blocks"].as_u64().unwrap()).unwrap();
    let digests = reference["digests"].as_object().unwrap();
    assert_eq!(digests.len(), 23);
    for (name, expected) in digests {
        let kind = BlockType::ALL.iter().find(|kind| kind.as_str() == name).unwrap();
        let len = blocks * kind.block_bytes();
        let words = 0..len.div_ceil(8) as u64;
        let mut bytes: Vec<u8> =
            words.flat_map(|i| split_mix(kind.id().into(), i).to_le_bytes()).collect();
        bytes.truncate(len);
        let mut values = vec![0.0_f32; blocks * kind.block_values()];
        kind.decode(&bytes, &mut values).unwrap();
        let digest = values.iter().fold(0xcbf2_9ce4_8422_2325_u64, |digest, value| {
            let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
            (digest ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(format!("{digest:016x}"), expected.as_str().unwrap(), "{name}");
    }
}

#[test]
fn every_known_type_is_decoded_or_refused_by_name() {
    for kind in BlockType::ALL {
        let mut values = vec![1.0; kind.block_values()];
        let result = kind.decode(&vec![0; kind.block_bytes()], &mut values);
        let integers = [BlockType::I8, BlockType::I16, BlockType::I32, BlockType::I64];
        if integers.contains(kind) || *kind == BlockType::F64 {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
            assert!(error.to_string().contains(kind.as_str()), "{error}");
        } else {
            result.unwrap();
            assert!(values.iter().all(|value| value.abs() < 1e-30), "{kind}");
        }
        assert_eq!(kind.quantization().is_none(), kind.is_dense(), "{kind}");
        if let Some(quantization) = kind.quantization() {
            let bits = kind.block_bytes() as f64 * 8.0 / kind.block_values() as f64;
            assert!(f64::from(quantization.bits) <= bits, "{kind}");
            assert!(bits < f64::from(quantization.bits) + 1.13, "{kind}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let mut out = Unpacked::new();
    for (bytes, values) in [(18, 31), (17, 32), (19, 32), (36, 32), (9 * 18, 9 * 32)] {
        let error = BlockType::Q4_0.unpack(&vec![0; bytes], values, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine);
        assert!(error.to_string().contains("Q4_0"), "{error}");
    }
    let error = BlockType::F16.unpack(&[0; 2], 1, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(BlockType::Q4K.decode(&[0; 143], &mut [0.0; 256]).is_err());
}

/// The formula of Q8_K; the reference package does not know the type.
#[test]
fn q8_k_is_scale_times_integer() {
    let mut block = 0.37_f32.to_le_bytes().to_vec();
    block.extend((0..256).map(|i| (i * 7 - 128) as u8));
    block.extend([9; 32]);
    let mut values = vec![0.0; 256];
    BlockType::Q8K.decode(&block, &mut values).unwrap();
    for (i, value) in values.iter().enumerate() {
        assert_eq!(*value, 0.37 * f32::from(block[4 + i] as i8));
    }
}

/// Q4_K and Q6_K once more, element by element, as their layouts are told.
fn q4_k(block: &[u8], i: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let (group, packed) = (i / 32, &block[4..16]);
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        let high = |byte: u8| (byte >> 6) << 4;
        (low & 15 | high(packed[group - 4]), low >> 4 | high(packed[group]))
    };
    let byte = block[16 + 32 * (i / 64) + i % 32];
    let q = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
    half(0) * f32::from(scale) * f32::from(q) - half(2) * f32::from(minimum)
}

fn q6_k(block: &[u8], i: usize) -> f32 {
    let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
    let (half, quarter, n) = (i / 128, i % 128 / 32, i % 32);
    let low = block[64 * half + 32 * (quarter % 2) + n];
    let low = if quarter < 2 { low & 15 } else { low >> 4 };
    let high = (block[128 + 32 * half + n] >> (2 * quarter)) & 3;
    let q = i32::from(low | high << 4) - 32;
    d * f32::from(block[192 + i / 16] as i8) * q as f32
}

proptest! {
    #[test]
    fn k_quants_are_their_formulas(bytes in prop::collection::vec(any::<u8>(), 210)) {
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let mut values = vec![0.0; 256];
        BlockType::Q6K.decode(&bytes, &mut values).unwrap();
        for (i, value) in values.iter().enumerate() {
            prop_assert!(same(*value, q6_k(&bytes, i)), "{i}: {value}");
        }
        BlockType::Q4K.decode(&bytes[..144], &mut values).unwrap();
        for (i, value) in values.iter().enumerate() {
            prop_assert!(same(*value, q4_k(&bytes, i)), "{i}: {value}");
        }
    }

    /// Any bytes are some values: nothing overflows or is out of range.
    #[test]
    fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 292)) {
        for kind in BlockType::ALL {
            let blocks = bytes.len() / kind.block_bytes();
            let mut values = vec![0.0; blocks * kind.block_values()];
            let _ = kind.decode(&bytes[..blocks * kind.block_bytes()], &mut values);
        }
    }
}
