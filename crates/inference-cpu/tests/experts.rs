//! Mixtures of experts whose products are computed together, against the
//! reference's order of operations: one expert after the other.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use inference_candle::{
    Activation, BatchView, GatedMlp, Linear, Mlp, MlpBlock, Moe, Ops, ReferenceOps, StepContext,
    Weight, WeightType, reference,
};
use inference_core::Precision;
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_gguf::BlockType;

/// A step whose context experts do not look at.
const NO_STEP: StepContext<'static> =
    StepContext { batch: &BatchView { sequences: &[], positions: &[], adapters: &[] }, ropes: &[] };

const HIDDEN: usize = 96;
const INTERMEDIATE: usize = 160;
const EXPERTS: usize = 5;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn values(rows: usize, columns: usize, seed: u64) -> Tensor {
    Tensor::from_vec(numbers(rows * columns, seed), (rows, columns), &Device::Cpu).unwrap()
}

/// Weights as they are stored: f16, Q8_0, or a live tensor.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Half,
    Blocks,
    Live,
}

fn weight(kind: Kind, rows: usize, columns: usize, seed: u64) -> Weight {
    let tensor = values(rows, columns, seed);
    let shape = vec![rows, columns];
    match kind {
        Kind::Live => Weight::from_tensor("w", tensor),
        Kind::Half => {
            let halves: Vec<half::f16> =
                tensor.to_dtype(DType::F16).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let bytes: Vec<u8> = bytemuck::cast_slice(&halves).to_vec();
            let range = 0..bytes.len();
            Weight::stored("w", shape, WeightType::Dense(DType::F16), Arc::new(bytes), range)
                .unwrap()
        }
        Kind::Blocks => {
            let blocks = QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap();
            let bytes = blocks.data().unwrap().into_owned();
            let range = 0..bytes.len();
            let kind = WeightType::Blocks(BlockType::Q8_0);
            Weight::stored("w", shape, kind, Arc::new(bytes), range).unwrap()
        }
    }
}

fn block(ops: &dyn Ops, kind: Kind) -> MlpBlock {
    let linear = |rows, columns, seed| -> Arc<dyn Linear> {
        ops.linear(&weight(kind, rows, columns, seed), None).unwrap()
    };
    let expert = |index: usize| GatedMlp {
        gate: linear(INTERMEDIATE, HIDDEN, 10 + index as u64),
        up: linear(INTERMEDIATE, HIDDEN, 20 + index as u64),
        down: linear(HIDDEN, INTERMEDIATE, 30 + index as u64),
        activation: Activation::Silu,
    };
    let moe = Moe {
        router: linear(EXPERTS, HIDDEN, 1),
        experts: (0..EXPERTS).map(expert).collect(),
        experts_per_token: 2,
        normalize: true,
    };
    MlpBlock {
        layer: 0,
        input_norm: None,
        output_norm: None,
        mlp: Mlp::Moe(moe),
        residual_scale: 1.0,
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn together_give_the_bits_of_one_after_the_other() {
    for kind in [Kind::Half, Kind::Blocks, Kind::Live] {
        for precision in [Precision::Fast, Precision::Exact] {
            let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
            for (tier, threads) in tiers.flat_map(|tier| [(tier, 1), (tier, 2)]) {
                let options = CpuOptions::new().with_tier(tier).with_threads(threads);
                let ops = CpuOps::new(&options.with_precision(precision)).unwrap();
                let block = block(&ops, kind);
                // One token, fewer and more than a tile has rows.
                for tokens in [1, 3, 40] {
                    let x = values(tokens, HIDDEN, 7 + tokens as u64);
                    let found = floats(&ops.mlp_block(&block, &x, &NO_STEP).unwrap());
                    let expected =
                        floats(&reference::mlp_block(&ops, &block, &x, &NO_STEP).unwrap());
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert!(
                        bits(&found) == bits(&expected),
                        "{kind:?}, {precision:?}, {tier}, {threads} threads, {tokens} tokens"
                    );
                }
            }
        }
    }
}

#[test]
fn a_mixture_is_what_the_reference_says() {
    let ops = CpuOps::new(&CpuOptions::new().with_threads(2)).unwrap();
    let reference = ReferenceOps::cpu();
    let x = values(9, HIDDEN, 3);
    let found = floats(&ops.mlp_block(&block(&ops, Kind::Half), &x, &NO_STEP).unwrap());
    let expected =
        floats(&reference.mlp_block(&block(&reference, Kind::Half), &x, &NO_STEP).unwrap());
    let scale = expected.iter().fold(1.0f32, |scale, x| scale.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-5 * scale, "{found} for {expected}");
    }
}

#[test]
fn input_of_another_width_is_refused() {
    let ops = CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap();
    let block = block(&ops, Kind::Half);
    assert!(ops.mlp_block(&block, &values(2, HIDDEN + 1, 1), &NO_STEP).is_err());
}
