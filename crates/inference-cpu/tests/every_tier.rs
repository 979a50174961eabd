//! The kernels of every instruction set against the portable ones, bit for bit,
//! at sizes that an interpreter or an emulator of another machine gets through.
//! What the portable ones compute, the other tests compare with references.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/stored.rs"]
mod stored;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_candle::{
    Activation, AttentionSpec, BatchView, KvCache, KvLayout, Ops, Weight, WeightType,
};
use inference_core::KvDtype;
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_engine::StepSequence;
use inference_gguf::BlockType;

use random::Random;
use stored::stored;

fn ops(tier: Tier) -> CpuOps {
    CpuOps::new(&CpuOptions::new().with_tier(tier).with_threads(1)).unwrap()
}

/// Compares what every tier of this CPU makes of something with what portable
/// code does.
fn compare(what: &str, compute: impl Fn(&CpuOps) -> Tensor) {
    let bits = |tier: Tier| -> Vec<u32> {
        let values: Vec<f32> = compute(&ops(tier)).flatten_all().unwrap().to_vec1().unwrap();
        // The sign of NaN is not ours to choose.
        values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
    };
    let expected = bits(Tier::Scalar);
    assert!(expected.iter().any(|x| *x != expected[0]), "{what}: all of them are equal");
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        assert!(bits(tier) == expected, "{what} on {tier}");
    }
}

impl Random {
    /// From -1 to 1, some larger, subnormal or zero.
    fn number(&mut self) -> f32 {
        let number = self.uniform();
        match self.next() % 23 {
            0 => number * 1e3,
            1 => number * 1e-40,
            2 => 0.0,
            _ => number,
        }
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.number()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

#[test]
fn dense_weights() {
    let random = &mut Random(3);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        // More than a panel and a tile's rows, with tails; and few rows.
        for (rows, k, n) in [(1, 37, 35), (3, 20, 16), (7, 33, 50), (13, 18, 33)] {
            let values: Vec<f32> = (0..n * k).map(|_| random.number()).collect();
            let packed = stored(&values, &[n, k], dtype, 0);
            let tensor = Tensor::from_vec(values, (n, k), &Device::Cpu).unwrap();
            let changing = Weight::from_tensor("w", tensor.to_dtype(dtype).unwrap());
            let x = random.tensor(&[rows, k]);
            let bias = Weight::from_tensor("b", random.tensor(&[n]));
            // One that is packed, and one that may change.
            for weight in [packed, changing] {
                compare(&format!("{weight:?}, {rows} rows"), |ops| {
                    ops.linear(&weight, Some(&bias)).unwrap().forward(&x).unwrap()
                });
            }
        }
    }
}

#[test]
fn blocks_of_every_type() {
    let random = &mut Random(5);
    for kind in BlockType::ALL.iter().copied().filter(|kind| !kind.is_dense()) {
        let (rows, k, n) = (5, 256, 17);
        let mut bytes = Vec::new();
        let mut decoded = vec![0.0; kind.block_values()];
        while bytes.len() < n * k / kind.block_values() * kind.block_bytes() {
            let block: Vec<u8> =
                (0..kind.block_bytes()).map(|_| (random.next() >> 32) as u8).collect();
            kind.decode(&block, &mut decoded).unwrap();
            if decoded.iter().all(|x| x.abs() < 1e6) {
                bytes.extend(block);
            }
        }
        let range = 0..bytes.len();
        let stored = WeightType::Blocks(kind);
        let weight = Weight::stored("w", vec![n, k], stored, Arc::new(bytes), range).unwrap();
        let x = random.tensor(&[rows, k]);
        for rows in [1, rows] {
            let x = x.narrow(0, 0, rows).unwrap();
            compare(&format!("{kind}, {rows} rows"), |ops| {
                ops.linear(&weight, None).unwrap().forward(&x).unwrap()
            });
        }
    }
}

#[test]
fn elementwise() {
    let random = &mut Random(7);
    let (x, y) = (random.tensor(&[2, 37]), random.tensor(&[2, 37]));
    let weight = random.tensor(&[37]);
    compare("rms_norm", |ops| ops.rms_norm(&x, &weight, 1e-6).unwrap());
    compare("add_scaled", |ops| ops.add_scaled(&x, &y, 0.3).unwrap());
    for kind in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu] {
        compare(&format!("{kind:?}"), |ops| ops.gated_activation(&x, &y, kind).unwrap());
    }
}

#[test]
fn attention() {
    let random = &mut Random(9);
    // The last is longer than the chunks that results are joined of.
    for (len, heads, kv_heads, head_dim, window, softcap) in [
        (9, 4, 2, 24, None, None),
        (9, 3, 1, 32, Some(4), Some(10.0)),
        (6, 2, 2, 64, None, None),
        (130, 1, 1, 16, None, None),
    ] {
        let scale = (head_dim as f32).sqrt().recip();
        let spec = AttentionSpec {
            num_heads: heads,
            num_kv_heads: kv_heads,
            head_dim,
            scale,
            softcap,
            window,
        };
        let q = random.tensor(&[len, heads, head_dim]);
        let k = random.tensor(&[len, kv_heads, head_dim]);
        let v = random.tensor(&[len, kv_heads, head_dim]);
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Q8_0] {
            let unfit = dtype == KvDtype::Q8_0 && !head_dim.is_multiple_of(32);
            // Results of chunks are joined alike, whatever is stored.
            if unfit || len > 100 && dtype != KvDtype::F32 {
                continue;
            }
            let layout = KvLayout {
                num_layers: 1,
                num_kv_heads: kv_heads,
                head_dim,
                block_size: 16,
                num_blocks: len.div_ceil(16),
                dtype,
            };
            let block_table: Vec<u32> = (0..layout.num_blocks as u32).rev().collect();
            // Most of it at once, where that is short, then the last alone.
            let first = if len > 100 { len - 1 } else { len - 2 };
            compare(&format!("attention over {len} in {dtype}"), |ops| {
                let mut cache = ops.kv_cache(&layout).unwrap();
                let mut all = Vec::new();
                for (from, to) in [(0, first), (first, len)] {
                    let sequence = StepSequence {
                        start: 0,
                        len: to - from,
                        position: from,
                        prompt_len: len,
                        adapter: None,
                        block_table: block_table.clone(),
                    };
                    let positions: Vec<usize> = (from..to).collect();
                    let batch =
                        BatchView { sequences: &[sequence], positions: &positions, adapters: &[] };
                    let part = |x: &Tensor| x.narrow(0, from, to - from).unwrap();
                    let cache: &mut dyn KvCache = &mut *cache;
                    let out = ops.attention(
                        &part(&q),
                        &part(&k),
                        &part(&v),
                        Some((cache, 0)),
                        &batch,
                        &spec,
                    );
                    all.push(out.unwrap());
                }
                Tensor::cat(&all, 0).unwrap()
            });
        }
    }
}
