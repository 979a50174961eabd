//! Packed weights against a loop written from the definition of their bits,
//! bit for bit, on every instruction set.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use inference_candle::{Ops, Weight, WeightType};
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_gguf::BlockType;
use inference_gguf::blocks::Unpacked;
use proptest::prelude::*;

use random::Random;

/// Types of 32 values.
const SMALL: [BlockType; 7] = [
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::Iq4Nl,
    BlockType::Mxfp4,
];

/// Every available tier with one and with two threads.
fn all_ops() -> Vec<CpuOps> {
    let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
    let options = tiers.flat_map(|tier| {
        [1, 2].map(|threads| CpuOptions::new().with_tier(tier).with_threads(threads))
    });
    options.map(|options| CpuOps::new(&options).unwrap()).collect()
}

impl Random {
    /// From -1 to 1, some far larger or smaller.
    fn number(&mut self) -> f32 {
        let number = self.uniform();
        match self.next() % 97 {
            0 => number * 1e6,
            1 => number * 1e-6,
            2 => 0.0,
            _ => number,
        }
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// Blocks of random bytes whose scales are numbers: some zero, some
    /// subnormal, some among the largest.
    fn blocks(&mut self, kind: BlockType, values: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut unpacked = Unpacked::new();
        for _ in 0..values / kind.block_values() {
            loop {
                let block: Vec<u8> =
                    (0..kind.block_bytes()).map(|_| (self.next() >> 32) as u8).collect();
                kind.unpack(&block, kind.block_values(), &mut unpacked).unwrap();
                if unpacked.scale.iter().chain(&unpacked.offset).all(|x| x.is_finite()) {
                    bytes.extend(block);
                    break;
                }
            }
        }
        bytes
    }
}

fn weight(kind: BlockType, bytes: &[u8], n: usize, k: usize) -> Weight {
    // Blocks have no alignment.
    let shifted: Vec<u8> = [0xFF; 3].into_iter().chain(bytes.iter().copied()).collect();
    let range = 3..shifted.len();
    Weight::stored("w", vec![n, k], WeightType::Blocks(kind), Arc::new(shifted), range).unwrap()
}

fn tensor(data: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers by their bits; what is none is none.
fn bits(values: &[f32]) -> Vec<Option<u32>> {
    values.iter().map(|x| (!x.is_nan()).then(|| x.to_bits())).collect()
}

/// `max |x| / 127`, and the values in it, rounded to the nearest.
fn quantize(x: &[f32]) -> (f32, Vec<i32>) {
    if x.iter().any(|x| !x.is_finite()) {
        return (f32::NAN, vec![0; x.len()]);
    }
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if largest < 1e-36 {
        return (0.0, vec![0; x.len()]);
    }
    let scale = largest / 127.0;
    (scale, x.iter().map(|x| (x / scale).round_ties_even() as i32).collect())
}

/// The product of a row of blocks of 32 values, as it is defined.
fn naive32(kind: BlockType, row: &[u8], x: &[f32], bias: Option<f32>) -> f32 {
    let (mut sum, mut unpacked) = (0.0f32, Unpacked::new());
    for (block, x) in row.chunks(kind.block_bytes()).zip(x.chunks(32)) {
        kind.unpack(block, 32, &mut unpacked).unwrap();
        let (d_x, q) = quantize(x);
        let dot: i32 = unpacked.q.iter().zip(&q).map(|(w, x)| i32::from(*w) * x).sum();
        sum = (dot as f32).mul_add(unpacked.scale[0] * d_x, sum);
        if matches!(kind, BlockType::Q4_1 | BlockType::Q5_1) {
            let total: i32 = q.iter().sum();
            sum = unpacked.offset[0].mul_add(d_x * total as f32, sum);
        }
    }
    bias.map_or(sum, |bias| sum + bias)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn types_of_32_values(
        kind in prop::sample::select(SMALL.to_vec()),
        n in 1usize..50,
        blocks in 1usize..40,
        rows in prop_oneof![1usize..14, 30usize..40],
        with_bias: bool,
        seed in 1u64..,
    ) {
        let (k, mut random) = (32 * blocks, Random(seed));
        let bytes = random.blocks(kind, n * k);
        let values = random.numbers(n);
        let bias = with_bias.then(|| Weight::from_tensor("b", tensor(values.clone(), &[n])));
        let mut x = random.numbers(rows * k);
        if seed.is_multiple_of(5) {
            x[seed as usize % (rows * k)] = f32::INFINITY;
        }
        if seed.is_multiple_of(3) {
            x[..32].fill(1e-37);
        }
        let row = bytes.len() / n;
        let expected: Vec<f32> = x
            .chunks(k)
            .flat_map(|x| bytes.chunks(row).enumerate().map(move |(j, w)| (x, j, w)))
            .map(|(x, j, w)| naive32(kind, w, x, with_bias.then(|| values[j])))
            .collect();
        let weight = weight(kind, &bytes, n, k);
        let x = tensor(x, &[rows, k]);
        for ops in all_ops() {
            let linear = ops.linear(&weight, bias.as_ref()).unwrap();
            prop_assert!(format!("{linear:?}").contains("Packed"), "{:?}", linear);
            let found = floats(&linear.forward(&x).unwrap());
            prop_assert_eq!(bits(&found), bits(&expected), "{:?} {:?}", kind, linear);
            let last = floats(&linear.forward(&x.narrow(0, rows - 1, 1).unwrap()).unwrap());
            prop_assert_eq!(bits(&last), bits(&expected[(rows - 1) * n..]));
        }
    }
}

/// Codes and activations of the greatest magnitudes: sums of 16 bits must not
/// overflow.
#[test]
fn extremes_are_multiplied_exactly() {
    let (n, k, rows) = (17, 96, 9);
    for kind in SMALL {
        let mut unpacked = Unpacked::new();
        for fill in [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0, 0x88, 0x77] {
            let mut block = vec![fill; kind.block_bytes()];
            // A scale of 1, a minimum of 1; any exponent is a number.
            let halves = if matches!(kind, BlockType::Q4_1 | BlockType::Q5_1) { 2 } else { 1 };
            if kind != BlockType::Mxfp4 {
                block[..2 * halves].copy_from_slice(&[0x00, 0x3C, 0x00, 0x3C][..2 * halves]);
            } else {
                block[0] = 127;
            }
            kind.unpack(&block, 32, &mut unpacked).unwrap();
            let bytes = block.repeat(n * k / 32);
            for x in [127.0, -127.0, 1.0] {
                let x = vec![x; rows * k];
                let expected = naive32(kind, &bytes[..bytes.len() / n], &x[..k], None);
                let x = tensor(x, &[rows, k]);
                for ops in all_ops() {
                    let linear = ops.linear(&weight(kind, &bytes, n, k), None).unwrap();
                    let found = floats(&linear.forward(&x).unwrap());
                    assert_eq!(bits(&found), bits(&vec![expected; n * rows]), "{kind} {fill}");
                }
            }
        }
    }
}

/// Rows and k beyond what is computed together, neither of them a multiple of
/// it: every row is as it is alone.
#[test]
fn rows_of_long_prompts_are_what_they_are_alone() {
    let (n, k, rows) = (35, 1280, 523);
    let mut random = Random(11);
    let x = tensor(random.numbers(rows * k), &[rows, k]);
    for kind in [BlockType::Q4_0, BlockType::Q8_0, BlockType::Q4K, BlockType::Q6K] {
        let values = random.blocks(kind, n * k);
        let bias = Weight::from_tensor("b", tensor(random.numbers(n), &[n]));
        let weight = weight(kind, &values, n, k);
        for ops in all_ops() {
            let linear = ops.linear(&weight, Some(&bias)).unwrap();
            let all = bits(&floats(&linear.forward(&x).unwrap()));
            for row in [0, 127, 128, 255, 256, 511, 512, rows - 1] {
                let alone = floats(&linear.forward(&x.narrow(0, row, 1).unwrap()).unwrap());
                assert_eq!(bits(&alone), all[row * n..(row + 1) * n], "{kind} {row} {linear:?}");
            }
        }
    }
}
