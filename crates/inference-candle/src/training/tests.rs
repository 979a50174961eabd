//! Each operation of training against the reference's, and its gradients
//! against those of Candle and against differences.

use candle_core::{Device, Tensor, Var};
use inference_engine::StepSequence;
use inference_lora::Draws;

use super::attention::{Operands, attention, attention_backward};
use super::cross_entropy::{LogitSpec, cross_entropy};
use super::elementwise::{Angles, NormWeight, gated, gated_backward};
use crate::{
    Activation, AttentionSpec, BatchView, Norm, ReferenceOps, RopeAngles, Weight, reference,
};

fn draw(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| Draws::new(seed).normal(i)).collect()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let size = wanted.iter().fold(1e-3_f32, |all, value| all.max(value.abs()));
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= 2e-5 * size, "{what}, {index}: {found}, not {wanted}");
    }
}

/// Inputs with their shapes.
type Inputs = [(Vec<f32>, Vec<usize>)];

/// Gradients of inputs, from the inputs and the result's gradient.
type GradientsOf<'a> = &'a dyn Fn(&[Vec<f32>], &[f32]) -> Vec<Vec<f32>>;

/// `result` is the reference's; `gradients`, from a gradient of the result, are
/// those of Candle and, along a direction, of differences.
fn check(
    what: &str,
    inputs: &Inputs,
    result: &dyn Fn(&[Vec<f32>]) -> Vec<f32>,
    gradients: GradientsOf<'_>,
    reference: &dyn Fn(&[Tensor]) -> Tensor,
) {
    let leaves: Vec<Var> = inputs
        .iter()
        .map(|(values, shape)| Var::from_tensor(&tensor(values, shape)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = leaves.iter().map(|leaf| leaf.as_tensor().clone()).collect();
    let wanted = reference(&tensors);
    let values: Vec<Vec<f32>> = inputs.iter().map(|(values, _)| values.clone()).collect();
    close(what, &result(&values), &flat(&wanted));

    let gradient = draw(91, wanted.elem_count());
    let found = gradients(&values, &gradient);
    let weights = tensor(&gradient, wanted.dims());
    let store = wanted.mul(&weights).unwrap().sum_all().unwrap().backward().unwrap();
    for (index, (found, leaf)) in found.iter().zip(&leaves).enumerate() {
        let wanted = flat(store.get(leaf.as_tensor()).unwrap());
        close(&format!("{what}, gradient {index}"), found, &wanted);
    }

    let directions: Vec<Vec<f32>> =
        values.iter().enumerate().map(|(i, x)| draw(70 + i as u64, x.len())).collect();
    let at = |step: f32| {
        let moved: Vec<Vec<f32>> = values
            .iter()
            .zip(&directions)
            .map(|(x, d)| x.iter().zip(d).map(|(x, d)| x + step * d).collect())
            .collect();
        let results = result(&moved);
        results.iter().zip(&gradient).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum::<f64>()
    };
    let step = 2e-3;
    let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
    let along: f64 = found
        .iter()
        .zip(&directions)
        .flat_map(|(g, d)| g.iter().zip(d))
        .map(|(g, d)| f64::from(*g) * f64::from(*d))
        .sum();
    let tolerance = 0.01 * (slope.abs() + values.iter().map(Vec::len).sum::<usize>() as f64 / 10.0);
    assert!((slope - along).abs() <= tolerance, "{what}: {along}, by differences {slope}");
}

fn ops() -> ReferenceOps {
    ReferenceOps::cpu()
}

#[test]
fn norms_go_back() {
    for (rows, width) in [(1, 1), (5, 7), (37, 64), (3, 129)] {
        let weight = draw(1, width);
        let stored = Weight::from_tensor("norm", tensor(&weight, &[width]));
        let norm = NormWeight::of(&Norm::new(&ops(), &stored, 1e-5, false).unwrap()).unwrap();
        check(
            &format!("norm {rows} x {width}"),
            &[(draw(2, rows * width), vec![rows, width])],
            &|x| norm.forward(&ops(), &x[0]).unwrap(),
            &|x, g| vec![norm.backward(&ops(), &x[0], g).unwrap()],
            &|x| reference::rms_norm(&x[0], &tensor(&weight, &[width]), 1e-5).unwrap(),
        );
    }
}

#[test]
fn rotations_go_back() {
    for (tokens, heads, head_dim, half) in [(1, 1, 2, 1), (5, 3, 8, 3), (19, 2, 10, 5)] {
        let shape = vec![tokens, half];
        let (cos, sin) = (draw(3, tokens * half), draw(4, tokens * half));
        let (cos, sin) = (tensor(&cos, &shape), tensor(&sin, &shape));
        let angles = Angles::of(&RopeAngles { cos: cos.clone(), sin: sin.clone() }).unwrap();
        let turned = |x: &[f32], back: bool| {
            let mut x = x.to_vec();
            angles.rotate(&ops(), &mut x, head_dim, back).unwrap();
            x
        };
        check(
            &format!("rope {tokens} x {heads} x {head_dim}"),
            &[(draw(2, tokens * heads * head_dim), vec![tokens, heads, head_dim])],
            &|x| turned(&x[0], false),
            &|_, g| vec![turned(g, true)],
            &|x| reference::rope(&x[0], &cos, &sin).unwrap(),
        );
    }
}

#[test]
fn gates_go_back() {
    let kinds = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];
    for activation in kinds {
        for (rows, width) in [(1, 1), (7, 33)] {
            let count = rows * width;
            check(
                &format!("{activation:?}"),
                &[(draw(2, count), vec![rows, width]), (draw(3, count), vec![rows, width])],
                &|x| gated(&ops(), &x[0], &x[1], activation).unwrap(),
                &|x, g| {
                    let mut of_up = g.to_vec();
                    let of_gate =
                        gated_backward(&ops(), &x[0], &x[1], &mut of_up, activation).unwrap();
                    vec![of_gate, of_up]
                },
                &|x| reference::gated_activation(&x[0], &x[1], activation).unwrap(),
            );
        }
    }
}

#[test]
fn attention_goes_back() {
    let lens: [&[usize]; 4] = [&[1], &[5, 3, 5], &[70, 1, 131], &[64, 64]];
    for lens in lens {
        let mut sequences = Vec::new();
        let mut positions = Vec::new();
        for len in lens {
            let (start, len, block_table) = (positions.len(), *len, Vec::new());
            let prompt_len = len;
            sequences.push(StepSequence {
                start,
                len,
                position: 0,
                prompt_len,
                block_table,
                adapter: None,
            });
            positions.extend(0..len);
        }
        let tokens = positions.len();
        for (window, softcap) in [(None, None), (Some(3), None), (Some(67), Some(1.5))] {
            let (num_heads, num_kv_heads, head_dim) = (6, 2, 5);
            let spec =
                AttentionSpec { num_heads, num_kv_heads, head_dim, scale: 0.4, softcap, window };
            let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
            let operand = |seed, heads: usize| {
                (draw(seed, tokens * heads * head_dim), vec![tokens, heads, head_dim])
            };
            let of = |x: &[Vec<f32>], then: &mut dyn FnMut(Operands<'_>)| {
                then(Operands { q: &x[0], k: &x[1], v: &x[2] });
            };
            check(
                &format!("attention {lens:?}, {window:?}, {softcap:?}"),
                &[operand(5, num_heads), operand(6, num_kv_heads), operand(7, num_kv_heads)],
                &|x| {
                    let mut out = Vec::new();
                    of(x, &mut |x| out = attention(&ops(), x, &sequences, &spec).unwrap());
                    out
                },
                &|x, g| {
                    let mut out = Vec::new();
                    of(x, &mut |x| {
                        let of = attention_backward(&ops(), x, &sequences, &spec, g).unwrap();
                        out = vec![of.q, of.k, of.v];
                    });
                    out
                },
                &|x| reference::attention(&x[0], &x[1], &x[2], None, &batch, &spec).unwrap(),
            );
        }
    }
}

#[test]
fn losses_go_back() {
    let specs = [(1.0, None), (0.3, None), (1.0, Some(2.0)), (1.7, Some(1.5))];
    for (rows, vocab) in [(1, 3), (7, 300)] {
        for (scale, softcap) in specs {
            let spec = LogitSpec { scale, softcap };
            let targets: Vec<u32> = (0..rows).map(|row| (row * 37 % vocab) as u32).collect();
            let sum = |x: &[Vec<f32>]| {
                let mut logits = x[0].clone();
                let losses = cross_entropy(&ops(), &mut logits, &targets, spec, None).unwrap();
                vec![losses.iter().sum::<f64>() as f32]
            };
            check(
                &format!("loss of {rows} x {vocab}, {spec:?}"),
                &[(draw(8, rows * vocab), vec![rows, vocab])],
                &sum,
                &|x, g| {
                    let mut logits = x[0].clone();
                    cross_entropy(&ops(), &mut logits, &targets, spec, Some(g[0])).unwrap();
                    vec![logits]
                },
                &|x| {
                    let mut logits = x[0].affine(f64::from(scale), 0.0).unwrap();
                    if let Some(cap) = softcap.map(f64::from) {
                        let tanh = logits.affine(1.0 / cap, 0.0).unwrap().tanh().unwrap();
                        logits = tanh.affine(cap, 0.0).unwrap();
                    }
                    let exp = logits.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
                    let targets = Tensor::new(targets.as_slice(), &Device::Cpu).unwrap();
                    let chosen = logits.gather(&targets.unsqueeze(1).unwrap(), 1).unwrap();
                    (exp - chosen).unwrap().sum_all().unwrap().reshape(1).unwrap()
                },
            );
        }
    }
}
