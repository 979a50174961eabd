//! Every operation against the reference, and against itself: the same bits on
//! every instruction set, with any number of threads, alone and in company.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/stored.rs"]
mod stored;

use candle_core::{DType, Device, Tensor};
use inference_candle::{Activation, Ops, ReferenceOps, Weight};
use inference_cpu::{CpuOps, CpuOptions, Tier};
use proptest::prelude::*;

use stored::stored;

/// Every available tier with one and with two threads.
fn all_ops() -> Vec<CpuOps> {
    let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
    let options = tiers.flat_map(|tier| {
        [1, 2].map(|threads| CpuOptions::new().with_tier(tier).with_threads(threads))
    });
    options.map(|options| CpuOps::new(&options).unwrap()).collect()
}

/// Numbers of mixed size in a fixed order: some are subnormal, some large.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let number = |_| match next() {
        x if x > 0.49 => next() * 1e3,
        x if x < -0.49 => next() * 1e-40,
        _ => next() * 2.0,
    };
    (0..count).map(number).collect()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    floats(tensor).into_iter().map(f32::to_bits).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn tensor(data: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// `|found - expected|` within `tolerance` of the expected values' own size.
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (floats(found), floats(expected));
    let scale = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "element {i}: {a} vs {b}, scale {scale}");
    }
}

/// The bits of an affine map by its definition: one chain over k for each
/// feature, then the bias. And a check of that: the same in f64 is within the
/// bound of k roundings.
fn chains(x: &Tensor, weight: &Weight, bias: Option<&Weight>) -> Vec<u32> {
    let (n, k) = (weight.rows(), weight.columns());
    let mut w = vec![0.0; n * k];
    weight.decode_rows(0, &mut w).unwrap();
    let bias = bias.map(|bias| {
        let mut values = vec![0.0; n];
        bias.decode_rows(0, &mut values).unwrap();
        values
    });
    let mut all = Vec::new();
    for x in floats(x).chunks_exact(k) {
        for (feature, w) in w.chunks_exact(k).enumerate() {
            let terms = || x.iter().zip(w);
            let chain = terms().fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum));
            let exact: f64 = terms().map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let size: f64 = terms().map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
            let bound = size * k as f64 * 2f64.powi(-24) + 1e-37;
            assert!((f64::from(chain) - exact).abs() <= bound, "{chain} for {exact}");
            all.push(bias.as_ref().map_or(chain, |bias| chain + bias[feature]).to_bits());
        }
    }
    all
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear(
        dtype in dtypes(),
        k in prop_oneof![1usize..100, 500usize..530, 1020usize..1060],
        n in 1usize..40,
        rows in prop_oneof![1usize..20, 90usize..104],
        skip in 0usize..4,
        with_bias: bool,
        seed: u64,
    ) {
        let weight = stored(&numbers(n * k, seed), &[n, k], dtype, skip);
        let bias = stored(&numbers(n, seed ^ 1), &[n], dtype, 0);
        let bias = with_bias.then_some(&bias);
        // A view that begins within a larger tensor.
        let x = tensor(numbers((rows + 1) * k, seed ^ 2), &[rows + 1, k]).narrow(0, 1, rows).unwrap();

        let mut first = None;
        for ops in all_ops() {
            let linear = ops.linear(&weight, bias).unwrap();
            let whole = bits(&linear.forward(&x).unwrap());
            let first = first.get_or_insert_with(|| whole.clone());
            prop_assert_eq!(&whole, first, "{:?}", ops);
            for (start, len) in [(rows - 1, 1), (0, rows.div_ceil(2)), (rows / 3, rows - rows / 3)] {
                let part = linear.forward(&x.narrow(0, start, len).unwrap()).unwrap();
                prop_assert_eq!(&bits(&part)[..], &whole[start * n..(start + len) * n]);
            }
        }
        let expected = chains(&x, &weight, bias);
        prop_assert_eq!(first.unwrap(), expected);
        let reference = ReferenceOps::cpu().linear(&weight, bias).unwrap().forward(&x).unwrap();
        let ours = all_ops()[0].linear(&weight, bias).unwrap().forward(&x).unwrap();
        assert_close(&ours, &reference, 1e-5);
    }

    #[test]
    fn linear_of_a_tensor(dtype in dtypes(), k in 1usize..40, n in 1usize..20, seed: u64) {
        let values = numbers(n * k, seed);
        let as_tensor = tensor(values.clone(), &[n, k]).to_dtype(dtype).unwrap();
        let weight = Weight::from_tensor("w", as_tensor);
        let x = tensor(numbers(3 * k, seed ^ 1), &[3, k]);
        let ops = &all_ops()[0];
        let found = ops.linear(&weight, None).unwrap().forward(&x).unwrap();
        let expected = ops.linear(&stored(&values, &[n, k], dtype, 0), None).unwrap();
        prop_assert_eq!(bits(&found), bits(&expected.forward(&x).unwrap()));
    }

    #[test]
    fn rms_norm(rows in 1usize..9, len in 1usize..300, seed: u64) {
        let x = tensor(numbers(rows * len, seed), &[rows, len]);
        let weight = tensor(numbers(len, seed ^ 1), &[len]);
        let mut first = None;
        for ops in all_ops() {
            let whole = bits(&ops.rms_norm(&x, &weight, 1e-6).unwrap());
            let first = first.get_or_insert_with(|| whole.clone());
            prop_assert_eq!(&whole, first);
            let last = ops.rms_norm(&x.narrow(0, rows - 1, 1).unwrap(), &weight, 1e-6).unwrap();
            prop_assert_eq!(&bits(&last)[..], &whole[(rows - 1) * len..]);
        }
        let found = all_ops()[0].rms_norm(&x, &weight, 1e-6).unwrap();
        assert_close(&found, &ReferenceOps::cpu().rms_norm(&x, &weight, 1e-6).unwrap(), 1e-5);
    }

    #[test]
    fn rope(tokens in 1usize..9, heads in 1usize..4, half in 1usize..20, rest in 0usize..5, seed: u64) {
        let head_dim = 2 * half + rest;
        let x = tensor(numbers(tokens * heads * head_dim, seed), &[tokens, heads, head_dim]);
        let angles = tensor(numbers(tokens * half, seed ^ 1), &[tokens, half]);
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        for ops in all_ops() {
            let found = ops.rope(&x, &cos, &sin).unwrap();
            assert_close(&found, &ReferenceOps::cpu().rope(&x, &cos, &sin).unwrap(), 1e-6);
        }
    }

    #[test]
    fn gated_activation(len in 1usize..100, seed: u64, kind in 0usize..4) {
        let kinds = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];
        let (gate, up) = (numbers(len, seed), numbers(len, seed ^ 1));
        let (gate, up) = (tensor(gate, &[1, len]), tensor(up, &[1, len]));
        let mut first = None;
        for ops in all_ops() {
            let whole = bits(&ops.gated_activation(&gate, &up, kinds[kind]).unwrap());
            let first = first.get_or_insert_with(|| whole.clone());
            prop_assert_eq!(&whole, first);
            let (gate, up) = (gate.narrow(1, len - 1, 1).unwrap(), up.narrow(1, len - 1, 1).unwrap());
            let last = ops.gated_activation(&gate, &up, kinds[kind]).unwrap();
            prop_assert_eq!(bits(&last)[0], whole[len - 1]);
        }
        let found = all_ops()[0].gated_activation(&gate, &up, kinds[kind]).unwrap();
        let expected = ReferenceOps::cpu().gated_activation(&gate, &up, kinds[kind]).unwrap();
        assert_close(&found, &expected, 1e-5);
    }

    #[test]
    fn embedding(dtype in dtypes(), hidden in 1usize..50, ids in prop::collection::vec(0u32..7, 1..9), seed: u64) {
        let values = numbers(7 * hidden, seed);
        for table in [
            stored(&values, &[7, hidden], dtype, 1),
            Weight::from_tensor("w", tensor(values.clone(), &[7, hidden]).to_dtype(dtype).unwrap()),
        ] {
            let expected = ReferenceOps::cpu().embedding(&table, &ids).unwrap();
            let ops = &all_ops()[0];
            prop_assert_eq!(bits(&ops.embedding(&table, &ids).unwrap()), bits(&expected));
            prop_assert!(ops.embedding(&table, &[7]).is_err());
        }
    }
}

#[test]
fn large_products_are_the_same_chains_by_whatever_tasks() {
    // More rows, features and k than one task, tile or part has, and odd tails.
    for (dtype, rows, k, n) in [
        (DType::F32, 401, 300, 45),
        (DType::F16, 197, 530, 71),
        (DType::BF16, 7, 257, 600),
        (DType::F16, 61, 259, 200),
        (DType::F16, 3, 65, 1500),
        (DType::F32, 1, 600, 700),
    ] {
        let weight = stored(&numbers(n * k, 5), &[n, k], dtype, 1);
        let bias = stored(&numbers(n, 6), &[n], dtype, 0);
        let x = tensor(numbers(rows * k, 7), &[rows, k]);
        let expected = chains(&x, &weight, Some(&bias));
        for ops in all_ops() {
            let found = ops.linear(&weight, Some(&bias)).unwrap().forward(&x).unwrap();
            assert!(bits(&found) == expected, "{dtype:?} [{rows}, {k}] x [{n}, {k}], {ops:?}");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_row_and_feature() {
    let (rows, k, n) = (9, 40, 33);
    let mut w = numbers(n * k, 1);
    w[3 * k + 7] = f32::INFINITY;
    let mut x = numbers(rows * k, 2);
    x[5 * k + 1] = f32::NAN;
    let (weight, x) = (stored(&w, &[n, k], DType::F32, 0), tensor(x, &[rows, k]));
    for ops in all_ops() {
        let found = floats(&ops.linear(&weight, None).unwrap().forward(&x).unwrap());
        for (row, found) in found.chunks_exact(n).enumerate() {
            for (feature, value) in found.iter().enumerate() {
                assert_eq!(value.is_finite(), row != 5 && feature != 3, "{row}, {feature}");
            }
        }
    }
}

#[test]
fn work_that_is_split_among_threads_gives_the_same_bits() {
    let (rows, k, n) = (137, 1000, 301);
    let x = tensor(numbers(rows * k, 1), &[rows, k]);
    let weight = stored(&numbers(n * k, 2), &[n, k], DType::BF16, 0);
    let norm = tensor(numbers(k, 3), &[k]);
    let results = |ops: &CpuOps| {
        let linear = ops.linear(&weight, None).unwrap();
        [
            bits(&linear.forward(&x).unwrap()),
            bits(&linear.forward(&x.narrow(0, 5, 37).unwrap()).unwrap()),
            bits(&linear.forward(&x.narrow(0, 5, 1).unwrap()).unwrap()),
            bits(&ops.rms_norm(&x, &norm, 1e-5).unwrap()),
            bits(&ops.gated_activation(&x, &x, Activation::Silu).unwrap()),
            bits(&ops.add_scaled(&x, &x, 0.3).unwrap()),
        ]
    };
    let ops = [1, 2, 3, 7].map(|n| CpuOps::new(&CpuOptions::new().with_threads(n)).unwrap());
    let expected = results(&ops[0]);
    for ops in &ops[1..] {
        assert_eq!(results(ops), expected, "{} threads", ops.threads());
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let ops = CpuOps::new(&CpuOptions::new().with_threads(1)).unwrap();
    let square = tensor(numbers(16, 1), &[4, 4]);
    let odd = tensor(numbers(12, 1), &[4, 3]);
    let weight = stored(&numbers(12, 1), &[4, 3], DType::F32, 0);
    assert!(ops.linear(&weight, Some(&weight)).is_err());
    assert!(ops.linear(&stored(&[1.0], &[1], DType::F32, 0), None).is_err());
    assert!(ops.linear(&weight, None).unwrap().forward(&square).is_err());
    assert!(ops.rms_norm(&odd, &tensor(vec![1.0; 4], &[4]), 1e-5).is_err());
    assert!(ops.rope(&square, &odd, &odd).is_err());
    assert!(ops.add_scaled(&square, &odd, 1.0).is_err());
    assert!(ops.gated_activation(&square, &odd, Activation::Silu).is_err());
    let doubles = square.to_dtype(DType::F64).unwrap();
    assert!(ops.add_scaled(&doubles, &doubles, 1.0).is_err());
}
