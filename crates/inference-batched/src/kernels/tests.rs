//! Kernels of this CPU's instruction sets against the oracle.

use super::InstructionSet;
use crate::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec, WeightDtype,
    WeightLayout,
};

const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.2 },
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

/// Numbers between -1 and 1.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 2_654_435_761 + seed * 97) % 20_011) as f32 / 10_005.5 - 1.0).collect()
}

/// Outputs of a group of random models, three rows for each fourth of them.
fn outputs(
    set: InstructionSet,
    architecture: &Architecture,
    dtype: WeightDtype,
    layout: WeightLayout,
) -> Vec<f32> {
    const MODELS: usize = 37;
    let options = BatchedOptions::new().with_threads(2).with_dtype(dtype).with_layout(layout);
    let group = BatchedInference::build(MODELS, architecture.clone(), Device::cpu(), &options, set)
        .unwrap();
    for index in 0..MODELS {
        let mut weights = Vec::new();
        for (at, layer) in architecture.layers.iter().enumerate() {
            weights.push((format!("layer_{at}"), numbers(layer.weights(), index + at)));
            if layer.bias {
                weights.push((format!("layer_{at}.bias"), numbers(layer.outputs, index * 7)));
            }
        }
        group.load_weights(index, weights).unwrap();
    }
    let rows: Vec<usize> = (0..MODELS).map(|model| 1 + 2 * usize::from(model % 4 == 0)).collect();
    let inputs = numbers(rows.iter().sum::<usize>() * architecture.inputs(), 3);
    group.forward_rows(&rows, &inputs).unwrap()
}

fn architectures() -> Vec<Architecture> {
    let mut all: Vec<_> = ACTIVATIONS
        .into_iter()
        .map(|activation| {
            Architecture::mlp(&[5, 19, 70, 33, 3], activation, Activation::None).unwrap()
        })
        .collect();
    let bare = LayerSpec::new(7, 8, Activation::Relu).with_bias(false);
    all.push(Architecture::new([bare]).unwrap());
    all.push(Architecture::mlp(&[64, 128, 64], Activation::Relu, Activation::Tanh).unwrap());
    all.push(Architecture::mlp(&[1, 1], Activation::None, Activation::None).unwrap());
    all
}

#[test]
fn instruction_sets_give_the_bits_of_the_oracle() {
    for architecture in architectures() {
        for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            for layout in [WeightLayout::PerModel, WeightLayout::Interleaved] {
                let oracle = outputs(InstructionSet::Oracle, &architecture, dtype, layout);
                for set in InstructionSet::available() {
                    let found = outputs(set, &architecture, dtype, layout);
                    if set == InstructionSet::Portable {
                        // Rounds products.
                        for (found, oracle) in found.iter().zip(&oracle) {
                            let size = oracle.abs().max(1.0);
                            assert!((found - oracle).abs() <= 1e-4 * size, "{found} {oracle}");
                        }
                    } else {
                        let bits =
                            |all: &[f32]| all.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                        assert_eq!(
                            bits(&found),
                            bits(&oracle),
                            "{set:?} {dtype} {layout:?} {architecture:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn there_is_always_a_set_of_kernels() {
    let all: Vec<_> = InstructionSet::available().collect();
    assert_eq!(all.last(), Some(&InstructionSet::Portable));
    assert_eq!(all.first(), Some(&InstructionSet::best()));
}
