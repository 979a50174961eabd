//! What training asks of a map: its rows, exact products, and the way back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::sync::Arc;

use candle_core::DType;
use inference_candle::{Ops, Weight, WeightBytes, WeightType};
use inference_core::Precision;
use inference_cpu::{CpuOps, CpuOptions};
use inference_gguf::BlockType;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn stored(kind: WeightType, shape: [usize; 2], bytes: Vec<u8>) -> Weight {
    let len = bytes.len();
    let bytes: WeightBytes = Arc::new(bytes);
    Weight::stored("w", shape.to_vec(), kind, bytes, 0..len).unwrap()
}

/// `[n, k]` of a type, and what it stands for.
fn weight(kind: WeightType, n: usize, k: usize) -> (Weight, Vec<f32>) {
    let values = noise(n * k, 7);
    let bytes: Vec<u8> = match kind {
        WeightType::Dense(DType::F32) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        WeightType::Dense(_) => {
            values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
        }
        WeightType::Blocks(kind) => {
            let mut bytes = vec![0; n * kind.row_bytes(k).unwrap()];
            kind.encode("w", &values, None, &mut bytes).unwrap();
            bytes
        }
        _ => panic!("{kind}"),
    };
    let weight = stored(kind, [n, k], bytes);
    let mut rows = vec![0.0; n * k];
    weight.decode_rows(0, &mut rows).unwrap();
    (weight, rows)
}

fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (f, w) in found.iter().zip(wanted) {
        assert!((f - w).abs() <= 2e-5 * (1.0 + w.abs()), "{what}: {f}, not {w}");
    }
}

#[test]
fn maps_know_their_rows_and_the_way_back() {
    let kinds = [
        WeightType::Dense(DType::F32),
        WeightType::Dense(DType::F16),
        WeightType::Blocks(BlockType::Q4_0),
        WeightType::Blocks(BlockType::Q4_1),
        WeightType::Blocks(BlockType::Q5_0),
        WeightType::Blocks(BlockType::Q5_1),
        WeightType::Blocks(BlockType::Q8_0),
        WeightType::Blocks(BlockType::Iq4Nl),
        WeightType::Blocks(BlockType::Q2K),
        WeightType::Blocks(BlockType::Q3K),
        WeightType::Blocks(BlockType::Q4K),
        WeightType::Blocks(BlockType::Q5K),
        WeightType::Blocks(BlockType::Q6K),
        WeightType::Blocks(BlockType::Iq4Xs),
    ];
    for precision in [Precision::Fast, Precision::Exact] {
        let options = CpuOptions::new().with_precision(precision);
        let ops = CpuOps::new(&options).unwrap();
        for kind in kinds {
            let (n, k, rows) = (70, 512, 9);
            let what = format!("{kind}, {precision:?}");
            let (weight, values) = weight(kind, n, k);
            let bias: Vec<u8> = noise(n, 3).iter().flat_map(|v| v.to_le_bytes()).collect();
            let len = bias.len();
            let bytes: WeightBytes = Arc::new(bias);
            let dense = WeightType::Dense(DType::F32);
            let bias = Weight::stored("b", vec![n], dense, bytes, 0..len).unwrap();
            let map = ops.linear(&weight, Some(&bias)).unwrap();

            let mut found = vec![0.0; 37 * k];
            map.decode_rows(21, &mut found).unwrap();
            close(&found, &values[21 * k..58 * k], &what);
            assert!(map.decode_rows(60, &mut found).is_err(), "{what}");
            close(&map.bias().unwrap().to_vec1::<f32>().unwrap(), &noise(n, 3), &what);

            let x = noise(rows * k, 11);
            let g = noise(rows * n, 13);
            let (mut y, mut back) = (vec![0.0; rows * n], vec![0.0; rows * k]);
            for r in 0..rows {
                for o in 0..n {
                    let dot: f64 = (0..k)
                        .map(|i| f64::from(x[r * k + i]) * f64::from(values[o * k + i]))
                        .sum();
                    y[r * n + o] = (dot + f64::from(noise(n, 3)[o])) as f32;
                }
                for i in 0..k {
                    let dot: f64 = (0..n)
                        .map(|o| f64::from(g[r * n + o]) * f64::from(values[o * k + i]))
                        .sum();
                    back[r * k + i] = dot as f32;
                }
            }
            let (mut found, mut gradient) = (vec![7.0; y.len()], vec![7.0; back.len()]);
            map.forward_exact(&x, &mut found).unwrap();
            map.input_gradient(&g, &mut gradient).unwrap();
            close(&found, &y, &what);
            close(&gradient, &back, &what);
            assert!(map.forward_exact(&x[1..], &mut found).is_err(), "{what}");
            assert!(map.input_gradient(&g[1..], &mut gradient).is_err(), "{what}");
        }
    }
}
