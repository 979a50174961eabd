//! The reference operations against loops, and their gradients against finite
//! differences.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use inference_candle::{
    Activation, AttentionSpec, BatchView, KvLayout, Ops, ReferenceOps, Weight, WeightType,
};
use inference_core::KvDtype;
use inference_engine::StepSequence;
use proptest::prelude::*;

/// Numbers that look random, in -1 to 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {index}: {a} instead of {b}");
    }
}

/// Attention of one sequence, as loops in double precision.
fn naive_attention(q: &[f32], k: &[f32], v: &[f32], len: usize, spec: &AttentionSpec) -> Vec<f32> {
    let (heads, kv_heads, dim) = (spec.num_heads, spec.num_kv_heads, spec.head_dim);
    let mut out = Vec::new();
    for i in 0..len {
        for h in 0..heads {
            let kv = h / (heads / kv_heads);
            let first = spec.window.map_or(0, |w| (i + 1).saturating_sub(w));
            let query = &q[(i * heads + h) * dim..][..dim];
            let score = |j: usize| {
                let key = &k[(j * kv_heads + kv) * dim..][..dim];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum();
                let score = dot * f64::from(spec.scale);
                spec.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let weights: Vec<f64> = (first..=i).map(|j| score(j).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let value = |j: usize| f64::from(v[(j * kv_heads + kv) * dim + d]);
                let sum: f64 = (first..=i).zip(&weights).map(|(j, w)| w * value(j)).sum();
                out.push((sum / total) as f32);
            }
        }
    }
    out
}

fn sequence(start: usize, len: usize, position: usize, block_table: Vec<u32>) -> StepSequence {
    StepSequence { start, len, position, prompt_len: position + len, adapter: None, block_table }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several sequences at once, without a cache and through block tables in
    /// chunks, equal the loops over each alone.
    #[test]
    fn attention_is_the_loops(
        lengths in prop::collection::vec(1_usize..12, 1..4),
        kv_heads in 1_usize..3,
        group in 1_usize..3,
        window in prop::option::of(1_usize..6),
        softcap in prop::option::of(Just(2.0_f32)),
        block_size in 1_usize..5,
        chunk in 1_usize..6,
        seed in 0_u64..1000,
    ) {
        let spec = AttentionSpec {
            num_heads: kv_heads * group,
            num_kv_heads: kv_heads,
            head_dim: 4,
            scale: 0.7,
            softcap,
            window,
        };
        let ops = ReferenceOps::cpu();
        let tokens: usize = lengths.iter().sum();
        let q = numbers(tokens * spec.num_heads * 4, seed);
        let k = numbers(tokens * kv_heads * 4, seed + 1);
        let v = numbers(tokens * kv_heads * 4, seed + 2);
        let (q_row, kv_row) = (spec.num_heads * 4, kv_heads * 4);
        let mut expected = Vec::new();
        let mut start = 0;
        for len in &lengths {
            let rows = |x: &[f32], row: usize| x[start * row..(start + len) * row].to_vec();
            expected.extend(naive_attention(
                &rows(&q, q_row), &rows(&k, kv_row), &rows(&v, kv_row), *len, &spec,
            ));
            start += len;
        }
        let tq = tensor(&q, &[tokens, spec.num_heads, 4]);
        let tk = tensor(&k, &[tokens, kv_heads, 4]);
        let tv = tensor(&v, &[tokens, kv_heads, 4]);

        let mut sequences = Vec::new();
        let mut start = 0;
        for len in &lengths {
            sequences.push(sequence(start, *len, 0, Vec::new()));
            start += len;
        }
        let positions: Vec<usize> = lengths.iter().flat_map(|len| 0..*len).collect();
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let whole = ops.attention(&tq, &tk, &tv, None, &batch, &spec).unwrap();
        assert_close(&flat(&whole), &expected, 2e-6);

        // Blocks of the sequences interleave, in reverse.
        let blocks = 12_usize.div_ceil(block_size);
        let layout = KvLayout {
            num_layers: 2,
            num_kv_heads: kv_heads,
            head_dim: 4,
            block_size,
            num_blocks: blocks * lengths.len(),
            dtype: KvDtype::F32,
        };
        let mut cache = ops.kv_cache(&layout).unwrap();
        let mut found = vec![Vec::new(); lengths.len()];
        for step in 0..12_usize.div_ceil(chunk) {
            let mut sequences = Vec::new();
            let mut rows = Vec::new();
            let mut positions = Vec::new();
            let mut first = 0;
            for (index, len) in lengths.iter().enumerate() {
                let from = (step * chunk).min(*len);
                let to = (from + chunk).min(*len);
                if from < to {
                    let table = (0..blocks)
                        .rev()
                        .map(|b| (b * lengths.len() + index) as u32)
                        .collect();
                    sequences.push((index, sequence(rows.len(), to - from, from, table)));
                    rows.extend((first + from..first + to).map(|row| row as u32));
                    positions.extend(from..to);
                }
                first += len;
            }
            if rows.is_empty() {
                break;
            }
            let rows = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap();
            let select = |x: &Tensor| x.index_select(&rows, 0).unwrap();
            let views: Vec<StepSequence> = sequences.iter().map(|(_, s)| s.clone()).collect();
            let batch = BatchView { sequences: &views, positions: &positions, adapters: &[] };
            let out = ops
                .attention(
                    &select(&tq), &select(&tk), &select(&tv), Some((&mut *cache, 1)), &batch, &spec,
                )
                .unwrap();
            let out = flat(&out);
            for (index, s) in &sequences {
                found[*index].extend_from_slice(&out[s.start * q_row..(s.start + s.len) * q_row]);
            }
        }
        assert_close(&found.concat(), &expected, 2e-6);
    }

    /// Stored weights of every type, in blocks, equal the loops.
    #[test]
    fn linear_is_the_loops(tokens in 1_usize..4, out in 1_usize..9, inner in 1_usize..9) {
        let x = numbers(tokens * inner, 1);
        let w = numbers(out * inner, 2);
        let b = numbers(out, 3);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (weight, stored) = stored(&w, &[out, inner], dtype);
            let (bias, stored_bias) = stored_1d(&b, dtype);
            let linear = ReferenceOps::cpu().linear(&weight, Some(&bias)).unwrap();
            prop_assert_eq!((linear.in_features(), linear.out_features()), (inner, out));
            let y = flat(&linear.forward(&tensor(&x, &[tokens, inner])).unwrap());
            let mut expected = Vec::new();
            for t in 0..tokens {
                for o in 0..out {
                    let dot: f32 = (0..inner).map(|i| x[t * inner + i] * stored[o * inner + i]).sum();
                    expected.push(dot + stored_bias[o]);
                }
            }
            assert_close(&y, &expected, 1e-5);
        }
    }
}

/// A stored weight of this type, and the values that it holds.
fn stored(values: &[f32], shape: &[usize], dtype: DType) -> (Weight, Vec<f32>) {
    let (bytes, held): (Vec<u8>, Vec<f32>) = match dtype {
        DType::F16 => (
            values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            values.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
        ),
        DType::BF16 => (
            values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
        ),
        _ => (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.to_vec()),
    };
    let range = 0..bytes.len();
    let weight = Weight::stored(
        "w",
        shape.to_vec(),
        WeightType::Dense(dtype),
        std::sync::Arc::new(bytes),
        range,
    );
    (weight.unwrap(), held)
}

fn stored_1d(values: &[f32], dtype: DType) -> (Weight, Vec<f32>) {
    stored(values, &[values.len()], dtype)
}

/// A weight of several blocks equals the same weight in f32.
#[test]
fn a_large_narrow_weight_is_widened_in_blocks() {
    let (out, inner) = (5000, 512);
    let w = numbers(out * inner, 4);
    let (narrow, held) = stored(&w, &[out, inner], DType::BF16);
    let (wide, _) = stored(&held, &[out, inner], DType::F32);
    let ops = ReferenceOps::cpu();
    let x = tensor(&numbers(3 * inner, 5), &[3, inner]);
    let narrow = ops.linear(&narrow, None).unwrap().forward(&x).unwrap();
    let wide = ops.linear(&wide, None).unwrap().forward(&x).unwrap();
    assert_close(&flat(&narrow), &flat(&wide), 1e-4);
}

#[test]
fn embedding_reads_rows_of_every_type() {
    let values = numbers(5 * 3, 6);
    let ids = [4, 0, 4];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (table, held) = stored(&values, &[5, 3], dtype);
        let rows = flat(&ReferenceOps::cpu().embedding(&table, &ids).unwrap());
        let expected: Vec<f32> =
            ids.iter().flat_map(|id| held[*id as usize * 3..][..3].to_vec()).collect();
        assert_eq!(rows, expected);
    }
    let (table, _) = stored(&values, &[5, 3], DType::F32);
    assert!(ReferenceOps::cpu().embedding(&table, &[5]).is_err());
}

#[test]
fn norm_rope_and_gates_are_the_formulas() {
    let ops = ReferenceOps::cpu();
    let x = numbers(2 * 3 * 6, 7);
    let weight = numbers(6, 8);
    let normed = ops.rms_norm(&tensor(&x, &[2, 3, 6]), &tensor(&weight, &[6]), 1e-3).unwrap();
    let expected: Vec<f32> = x
        .chunks(6)
        .flat_map(|row| {
            let mean: f32 = row.iter().map(|v| v * v).sum::<f32>() / 6.0;
            let scale = 1.0 / (mean + 1e-3).sqrt();
            row.iter().zip(&weight).map(move |(v, w)| v * scale * w).collect::<Vec<_>>()
        })
        .collect();
    assert_close(&flat(&normed), &expected, 1e-6);

    // Two of three pairs rotate: elements (0, 2) and (1, 3) of six.
    let angles = numbers(2 * 2, 9);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let (cos_t, sin_t) = (tensor(&cos, &[2, 2]), tensor(&sin, &[2, 2]));
    let rotated = ops.rope(&tensor(&x, &[2, 3, 6]), &cos_t, &sin_t).unwrap();
    let mut expected = x.clone();
    for token in 0..2 {
        for head in 0..3 {
            for pair in 0..2 {
                let at = (token * 3 + head) * 6 + pair;
                let (c, s) = (cos[token * 2 + pair], sin[token * 2 + pair]);
                expected[at] = x[at] * c - x[at + 2] * s;
                expected[at + 2] = x[at + 2] * c + x[at] * s;
            }
        }
    }
    assert_close(&flat(&rotated), &expected, 1e-6);

    let up = numbers(36, 10);
    for (activation, formula) in [
        (Activation::Silu, (|v: f32| v / (1.0 + (-v).exp())) as fn(f32) -> f32),
        (Activation::Relu, |v| v.max(0.0)),
        (Activation::GeluTanh, |v| {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (v + 0.044_715 * v * v * v);
            0.5 * v * (1.0 + inner.tanh())
        }),
        (Activation::Gelu, |v| {
            // The integral of the normal density, by Simpson's rule.
            let density = |t: f32| (-t * t / 2.0).exp() / (2.0 * std::f32::consts::PI).sqrt();
            let h = v / 100.0;
            let area: f32 = (0..100)
                .map(|i| {
                    let a = i as f32 * h;
                    h / 6.0 * (density(a) + 4.0 * density(a + h / 2.0) + density(a + h))
                })
                .sum();
            v * (0.5 + area)
        }),
    ] {
        let gated =
            ops.gated_activation(&tensor(&x, &[36]), &tensor(&up, &[36]), activation).unwrap();
        let expected: Vec<f32> = x.iter().zip(&up).map(|(g, u)| formula(*g) * u).collect();
        assert_close(&flat(&gated), &expected, 1e-5);
    }
}

/// Every operation on the training path has a gradient, the right one.
#[test]
fn gradients_are_finite_differences() {
    let ops = ReferenceOps::cpu();
    let values = numbers(6 * 8, 11);
    let sequences = [sequence(0, 3, 0, Vec::new()), sequence(3, 3, 0, Vec::new())];
    let spec = AttentionSpec {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        scale: 0.5,
        softcap: Some(3.0),
        window: Some(2),
    };
    let angles = tensor(&numbers(6 * 2, 12), &[6, 2]);
    let mix = tensor(&numbers(6 * 8, 13), &[6, 8]);
    let norm = tensor(&numbers(8, 14), &[8]);
    let loss = |x: &Tensor| -> Tensor {
        let positions = [0, 1, 2, 0, 1, 2];
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let weight = Weight::from_tensor("x", x.clone());
        let rows = ops.embedding(&weight, &[0, 1, 2, 3, 4, 5]).unwrap();
        let rows = ops.rms_norm(&rows, &norm, 1e-5).unwrap();
        let q = rows.reshape((6, 2, 4)).unwrap();
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let q = ops.rope(&q, &cos, &sin).unwrap();
        let k = q.narrow(1, 1, 1).unwrap();
        let out = ops.attention(&q, &k, &k, None, &batch, &spec).unwrap();
        // The weight, 6 rows of 8, also maps 8 to 6.
        let mapped = ops.linear(&weight, None).unwrap().forward(&out).unwrap();
        let out = ops.add_scaled(&out, &mapped.matmul(x).unwrap(), 0.3).unwrap();
        let out = ops.gated_activation(&out, &mix, Activation::Silu).unwrap();
        out.sum_all().unwrap()
    };
    let variable = Var::from_tensor(&tensor(&values, &[6, 8])).unwrap();
    let gradients = loss(variable.as_tensor()).backward().unwrap();
    let gradient = flat(gradients.get(variable.as_tensor()).unwrap());
    for index in 0..values.len() {
        let at = |delta: f32| {
            let mut moved = values.clone();
            moved[index] += delta;
            loss(&tensor(&moved, &[6, 8])).to_scalar::<f32>().unwrap()
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        let tolerance = 2e-3 + 1e-2 * difference.abs();
        assert!(
            (gradient[index] - difference).abs() < tolerance,
            "element {index}: {} instead of {difference}",
            gradient[index]
        );
    }
}
