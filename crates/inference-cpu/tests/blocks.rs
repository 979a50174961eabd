//! Affine maps over quantized weights of every type: against naive loops over
//! the same numbers, and against themselves: the same bits on every
//! instruction set, with any number of threads, alone and in company.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_candle::{Linear, Ops, RowCodec, Weight, WeightType};
use inference_core::{ErrorKind, Precision, Quantization};
use inference_cpu::{CpuOps, CpuOptions, Tier};
use inference_gguf::BlockType;
use inference_gguf::blocks::Unpacked;
use proptest::prelude::*;

use random::Random;

/// Every available tier with one and with two threads.
fn all_ops(precision: Precision) -> Vec<CpuOps> {
    let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
    let options = tiers.flat_map(|tier| {
        [1, 2].map(|threads| CpuOptions::new().with_tier(tier).with_threads(threads))
    });
    options.map(|o| CpuOps::new(&o.with_precision(precision)).unwrap()).collect()
}

/// The types whose values are not stored one by one.
fn quantized_types() -> Vec<BlockType> {
    BlockType::ALL.iter().copied().filter(|kind| !kind.is_dense()).collect()
}

impl Random {
    /// From -1 to 1, some a hundred times as large.
    fn number(&mut self) -> f32 {
        let number = self.uniform();
        if self.next().is_multiple_of(50) { number * 100.0 } else { number }
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// Blocks of random bytes whose values are of a usual size.
    fn blocks(&mut self, kind: BlockType, values: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut decoded = vec![0.0; kind.block_values()];
        for _ in 0..values / kind.block_values() {
            loop {
                let block: Vec<u8> =
                    (0..kind.block_bytes()).map(|_| (self.next() >> 32) as u8).collect();
                kind.decode(&block, &mut decoded).unwrap();
                let largest = decoded.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                if decoded.iter().all(|x| x.is_finite()) && (1e-4..1e3).contains(&largest) {
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
    let kind = WeightType::Blocks(kind);
    Weight::stored("w", vec![n, k], kind, Arc::new(shifted), range).unwrap()
}

fn dense(values: &[f32], shape: &[usize]) -> Weight {
    Weight::from_tensor("w", tensor(values.to_vec(), shape))
}

fn tensor(data: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

/// Checks that parts of the rows give the same bits as all of them.
fn assert_company_is_irrelevant(linear: &dyn Linear, x: &Tensor, whole: &[u32]) {
    let (rows, n) = (x.dims()[0], linear.out_features());
    for (start, len) in [(rows - 1, 1), (0, rows.div_ceil(2)), (rows / 3, rows - rows / 3)] {
        let part = linear.forward(&x.narrow(0, start, len).unwrap()).unwrap();
        assert_eq!(bits(&part), whole[start * n..(start + len) * n], "rows {start} + {len}");
    }
}

/// How many activations have a scale in common.
fn activation_group(kind: BlockType) -> usize {
    match kind {
        BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 => 32,
        BlockType::Q8_0 | BlockType::Iq4Nl | BlockType::Mxfp4 => 32,
        BlockType::Q2K | BlockType::Q3K | BlockType::Q4K | BlockType::Q5K => 256,
        BlockType::Q6K | BlockType::Iq4Xs => 256,
        _ => 16,
    }
}

/// Quantized activations as documented: the scale is `max |x| / 127`, values are
/// divided by it where they are packed with (a common scale of 32 or 256) and
/// multiplied by `127 / max |x|` elsewhere, which can round a tie differently.
/// In groups of 16, of which `size` values have a scale in common.
fn quantize(x: &[f32], size: usize) -> Vec<(f32, Vec<i64>)> {
    let group = |group: &[f32]| {
        let largest = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let steps = |x: &f32| match size {
            _ if largest == 0.0 => 0.0,
            16 => x * (127.0 / largest),
            _ => x / (largest / 127.0),
        };
        let q = group.iter().map(|x| steps(x).round_ties_even() as i64);
        let q: Vec<i64> = q.collect();
        q.chunks(16).map(|q| (largest / 127.0, q.to_vec())).collect::<Vec<_>>()
    };
    x.chunks(size).flat_map(group).collect()
}

/// The product of one row of blocks with quantized activations in f64, and the
/// sum of its terms' magnitudes.
fn naive(kind: BlockType, row: &[u8], x: &[f32]) -> (f64, f64) {
    let step = 256 / kind.block_values() * kind.block_bytes();
    let (mut sum, mut size) = (0.0, 0.0);
    let mut unpacked = Unpacked::new();
    for (bytes, x) in row.chunks(step).zip(x.chunks(256)) {
        kind.unpack(bytes, x.len(), &mut unpacked).unwrap();
        for (group, (x_scale, x_q)) in quantize(x, activation_group(kind)).into_iter().enumerate() {
            let w_q = &unpacked.q[16 * group..16 * (group + 1)];
            let dot: i64 = w_q.iter().zip(&x_q).map(|(w, x)| i64::from(*w) * x).sum();
            let total: i64 = x_q.iter().sum();
            let scaled = f64::from(unpacked.scale[group]) * dot as f64;
            let offset = f64::from(unpacked.offset[group]) * total as f64;
            sum += f64::from(x_scale) * (scaled + offset);
            size += f64::from(x_scale) * (scaled.abs() + offset.abs());
        }
    }
    (sum, size)
}

/// Rows of one to three blocks of 256 values, or of fewer of the smaller ones.
fn columns(kind: BlockType, seed: u64) -> usize {
    let most = if kind.block_values() == 256 { 3 } else { 20 };
    kind.block_values() * (1 + seed as usize % most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn fast(
        kind in prop::sample::select(quantized_types()),
        n in 1usize..20,
        rows in prop_oneof![1usize..6, 30usize..40],
        with_bias: bool,
        seed in 1u64..,
    ) {
        let (k, mut random) = (columns(kind, seed), Random(seed));
        let bytes = random.blocks(kind, n * k);
        let weight = weight(kind, &bytes, n, k);
        let values = random.numbers(n);
        let bias = with_bias.then(|| dense(&values, &[n]));
        let x = tensor(random.numbers((rows + 1) * k), &[rows + 1, k]).narrow(0, 1, rows).unwrap();

        let mut first = None;
        for ops in all_ops(Precision::Fast) {
            let linear = ops.linear(&weight, bias.as_ref()).unwrap();
            prop_assert!(format!("{linear:?}").contains("fast"), "{:?}", linear);
            let whole = bits(&linear.forward(&x).unwrap());
            let first = first.get_or_insert_with(|| whole.clone());
            prop_assert_eq!(&whole, first, "{:?}", linear);
            assert_company_is_irrelevant(&*linear, &x, &whole);
        }
        let (found, x) = (first.unwrap(), floats(&x));
        let row = bytes.len() / n;
        for (r, x) in x.chunks_exact(k).enumerate() {
            for j in 0..n {
                let (mut expected, size) = naive(kind, &bytes[j * row..(j + 1) * row], x);
                if with_bias {
                    expected += f64::from(values[j]);
                }
                let found = f64::from(f32::from_bits(found[r * n + j]));
                let error = (found - expected).abs();
                prop_assert!(error <= 1e-5 * (size + 1.0), "{}: {} vs {}", kind, found, expected);
            }
        }
    }

    /// The same bits as a dense weight of the decoded values.
    #[test]
    fn exact(
        kind in prop::sample::select(quantized_types()),
        n in 1usize..40,
        rows in prop_oneof![1usize..10, 60usize..70],
        seed in 1u64..,
    ) {
        let (k, mut random) = (columns(kind, seed), Random(seed));
        let bytes = random.blocks(kind, n * k);
        let mut decoded = vec![0.0; n * k];
        kind.decode(&bytes, &mut decoded).unwrap();
        let x = tensor(random.numbers(rows * k), &[rows, k]);
        for ops in all_ops(Precision::Exact) {
            let linear = ops.linear(&weight(kind, &bytes, n, k), None).unwrap();
            prop_assert!(format!("{linear:?}").contains("exact"), "{:?}", linear);
            let found = bits(&linear.forward(&x).unwrap());
            let dense = ops.linear(&dense(&decoded, &[n, k]), None).unwrap();
            prop_assert_eq!(&found, &bits(&dense.forward(&x).unwrap()));
            assert_company_is_irrelevant(&*linear, &x, &found);
        }
    }

    /// A codec's rows are decoded, whatever the precision.
    #[test]
    fn codec(n in 1usize..40, k in 1usize..70, rows in 1usize..12, seed in 1u64..) {
        let mut random = Random(seed);
        let values = random.numbers((n + 2) * k);
        let x = tensor(random.numbers(rows * k), &[rows, k]);
        let narrow = 1 + n;
        let codec = Arc::new(Halves { values: values.clone(), columns: k });
        let coded = Weight::coded("w", codec).narrow_rows(1..narrow).unwrap();
        let expected: Vec<f32> = values[k..narrow * k].iter().map(|x| x / 2.0).collect();
        for ops in all_ops(Precision::Fast) {
            let found = ops.linear(&coded, None).unwrap().forward(&x).unwrap();
            let dense = ops.linear(&dense(&expected, &[n, k]), None).unwrap();
            prop_assert_eq!(bits(&found), bits(&dense.forward(&x).unwrap()));
        }
        let ids = [n as u32 - 1, 0];
        let rows = all_ops(Precision::Fast)[0].embedding(&coded, &ids).unwrap();
        let expected = [&expected[(n - 1) * k..], &expected[..k]].concat();
        prop_assert_eq!(floats(&rows), expected);
    }

    /// Blocks of any bytes, whose scales may be no numbers: no panic, and
    /// numbers in the same places with the same bits.
    #[test]
    fn any_bytes(
        kind in prop::sample::select(quantized_types()),
        rows in prop_oneof![Just(1usize), Just(5usize)],
        seed in 1u64..,
    ) {
        let (k, n, mut random) = (columns(kind, seed), 5, Random(seed));
        let len = kind.row_bytes(k).unwrap() * n;
        let bytes: Vec<u8> = (0..len).map(|_| (random.next() >> 32) as u8).collect();
        let x = tensor(random.numbers(rows * k), &[rows, k]);
        let mut first = None;
        for ops in all_ops(Precision::Fast) {
            let linear = ops.linear(&weight(kind, &bytes, n, k), None).unwrap();
            let found = floats(&linear.forward(&x).unwrap());
            let found = found.into_iter().map(|x| (!x.is_nan()).then(|| x.to_bits()));
            let found: Vec<_> = found.collect();
            prop_assert_eq!(&found, first.get_or_insert_with(|| found.clone()));
        }
    }
}

/// Values that are stored doubled.
#[derive(Debug)]
struct Halves {
    values: Vec<f32>,
    columns: usize,
}

impl RowCodec for Halves {
    fn name(&self) -> &'static str {
        "halves"
    }

    fn shape(&self) -> [usize; 2] {
        [self.values.len() / self.columns, self.columns]
    }

    fn stored_bytes(&self) -> u64 {
        self.values.len() as u64 * 4
    }

    fn quantization(&self) -> Quantization {
        Quantization::new(32, 1)
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(&self.values[first * self.columns..]) {
            *out = value / 2.0;
        }
    }
}

/// With scales of 1 everything is an integer, and nothing may be lost, at the
/// extremes least of all.
#[test]
fn integers_are_multiplied_exactly() {
    let (n, k) = (33, 32 * 21);
    let mut random = Random(7);
    for extreme in [false, true] {
        let mut integers = |least: i64| -> Vec<i64> {
            let mut all = |_| match extreme {
                true => [least, 127][random.next() as usize % 2],
                false => (random.next() % 255) as i64 - 127,
            };
            (0..n * k).map(&mut all).collect()
        };
        let (w, mut x) = (integers(-128), integers(-127));
        // Each group has a 127, so its scale is 1.
        x.iter_mut().step_by(16).for_each(|x| *x = 127);
        let one = [0x00, 0x3C];
        let block = |block: &[i64]| -> Vec<u8> {
            one.into_iter().chain(block.iter().map(|q| *q as i8 as u8)).collect()
        };
        let bytes: Vec<u8> = w.chunks(32).flat_map(block).collect();
        let weight = weight(BlockType::Q8_0, &bytes, n, k);
        let input = tensor(x.iter().map(|x| *x as f32).collect(), &[n, k]);
        for ops in all_ops(Precision::Fast) {
            let found = ops.linear(&weight, None).unwrap().forward(&input).unwrap();
            for (i, found) in floats(&found).into_iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                let expected: i64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                assert_eq!(found as i64, expected, "{:?}, element {i}", ops.tier());
            }
        }
    }
}

#[test]
fn activations_that_are_no_numbers_spoil_their_own_row_only() {
    let (n, k, mut random) = (7, 288, Random(3));
    let bytes = random.blocks(BlockType::Q4_0, n * k);
    let weight = weight(BlockType::Q4_0, &bytes, n, k);
    let good = random.numbers(3 * k);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = good.clone();
        values[k + 5] = bad;
        for precision in [Precision::Fast, Precision::Exact] {
            for ops in all_ops(precision) {
                let linear = ops.linear(&weight, None).unwrap();
                let expected = linear.forward(&tensor(good.clone(), &[3, k])).unwrap();
                let found = linear.forward(&tensor(values.clone(), &[3, k])).unwrap();
                let (expected, found) = (floats(&expected), floats(&found));
                assert_eq!((&found[..n], &found[2 * n..]), (&expected[..n], &expected[2 * n..]));
                if precision == Precision::Fast {
                    assert!(found[n..2 * n].iter().all(|x| x.is_nan()));
                }
            }
        }
    }
}

#[test]
fn activations_of_any_size_are_quantized() {
    let (n, k) = (3, 64);
    let mut random = Random(5);
    let bytes = random.blocks(BlockType::Q8_0, n * k);
    let weight = weight(BlockType::Q8_0, &bytes, n, k);
    for size in [0.0, f32::from_bits(1), 1e-37, 1e-30, 1.0, 1e30, 1e33] {
        let x = tensor(vec![size; k], &[1, k]);
        let mut first = None;
        for ops in all_ops(Precision::Fast) {
            let found = ops.linear(&weight, None).unwrap().forward(&x).unwrap();
            let values = floats(&found);
            assert!(values.iter().all(|x| x.is_finite()), "{size}: {values:?}");
            assert_eq!(bits(&found), *first.get_or_insert_with(|| bits(&found)));
            for (j, value) in values.into_iter().enumerate() {
                let row = &bytes[j * bytes.len() / n..(j + 1) * bytes.len() / n];
                let (expected, terms) = match size < 1e-36 {
                    true => (0.0, 0.0),
                    false => naive(BlockType::Q8_0, row, &vec![size; k]),
                };
                let error = (f64::from(value) - expected).abs();
                assert!(error <= 1e-5 * terms, "{size}: {value} vs {expected}");
            }
        }
    }
}

#[test]
fn embedding_rows_are_decoded() {
    let mut random = Random(11);
    for kind in quantized_types() {
        let (n, k) = (4, kind.block_values() * 2);
        let bytes = random.blocks(kind, n * k);
        let mut decoded = vec![0.0; n * k];
        kind.decode(&bytes, &mut decoded).unwrap();
        let table = weight(kind, &bytes, n, k);
        let ops = &all_ops(Precision::Fast)[0];
        let found = ops.embedding(&table, &[3, 1]).unwrap();
        let expected = [&decoded[3 * k..], &decoded[k..2 * k]].concat();
        assert_eq!(floats(&found), expected, "{kind}");
        assert!(ops.embedding(&table, &[4]).is_err());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let ops = &all_ops(Precision::Fast)[0];
    let integers = weight(BlockType::I8, &[0; 64], 2, 32);
    let error = ops.linear(&integers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
    assert!(error.to_string().contains("I8"), "{error}");

    let good = weight(BlockType::Q8_0, &[0; 68], 2, 32);
    assert!(ops.linear(&good, Some(&dense(&[1.0; 3], &[3]))).is_err());
    let linear = ops.linear(&good, None).unwrap();
    assert!(linear.forward(&tensor(vec![0.0; 64], &[1, 64])).is_err());
    let doubles = tensor(vec![0.0; 32], &[1, 32]).to_dtype(DType::F64).unwrap();
    assert!(linear.forward(&doubles).is_err());
    let none = linear.forward(&tensor(Vec::new(), &[0, 32])).unwrap();
    assert_eq!(none.dims(), [0, 2]);
}
