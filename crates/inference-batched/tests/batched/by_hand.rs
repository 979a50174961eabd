//! Cases that were computed by hand.

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec, WeightDtype,
    WeightLayout,
};

use crate::naive::activate;

const LAYOUTS: [WeightLayout; 2] = [WeightLayout::PerModel, WeightLayout::Interleaved];

fn build(models: usize, architecture: &Architecture, layout: WeightLayout) -> BatchedInference {
    let options = BatchedOptions::new().with_layout(layout).with_threads(2);
    BatchedInference::with_options(models, architecture.clone(), Device::cpu(), &options).unwrap()
}

#[test]
fn a_weight_is_row_major_inputs_by_outputs() {
    let architecture = Architecture::mlp(&[2, 3, 1], Activation::Relu, Activation::None).unwrap();
    for layout in LAYOUTS {
        let group = build(2, &architecture, layout);
        let first = [
            ("layer_0", vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("layer_0.bias", vec![0.0, -10.0, 1.0]),
            ("layer_1", vec![1.0, 1.0, 2.0]),
            ("layer_1.bias", vec![100.0]),
        ];
        group.load_weights(0, first).unwrap();
        let second = [
            ("layer_0", vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
            ("layer_0.bias", vec![0.0, 0.0, 0.0]),
            ("layer_1", vec![7.0, 7.0, 7.0]),
            ("layer_1.bias", vec![0.0]),
        ];
        group.load_weights(1, second).unwrap();
        // (1, 1): (5, 7 - 10, 9 + 1) -> relu (5, 0, 10) -> 5 + 20 + 100.
        // (0, 3): (0, 0, 3) -> 21.
        assert_eq!(group.forward(&[1.0, 1.0, 0.0, 3.0]).unwrap(), [125.0, 21.0]);
        assert_eq!(group.forward_subset(&[1, 0], &[0.0, 3.0, 1.0, 1.0]).unwrap(), [21.0, 125.0]);
        assert_eq!(group.forward_subset(&[0, 0], &[1.0, 1.0, 0.0, 0.0]).unwrap(), [125.0, 102.0]);
        let rows = [0.0, 3.0, 0.0, 4.0, 0.0, -1.0];
        assert_eq!(group.forward_rows(&[0, 3], &rows).unwrap(), [21.0, 28.0, 0.0]);
    }
}

#[test]
fn activations_are_the_formulas() {
    let all = [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
    ];
    let mut xs: Vec<f32> = (-2000..=2000).map(|i| i as f32 * 0.01).collect();
    xs.extend([1e-8, -1e-8, 1e-20, 0.0, 50.0, -50.0, 80.0, 100.0, 300.0, 1e30]);
    for activation in all {
        for layout in LAYOUTS {
            let layer = LayerSpec::new(1, 1, activation).with_bias(false);
            let group = build(1, &Architecture::new([layer]).unwrap(), layout);
            group.load_weights(0, [("layer_0", [1.0])]).unwrap();
            let found = group.forward_rows(&[xs.len()], &xs).unwrap();
            for (x, found) in xs.iter().zip(found) {
                let expected = activate(activation, f64::from(*x));
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= 1e-5 * expected.abs() + 1e-37,
                    "{activation} of {x}: {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    let all = [Activation::None, Activation::Relu, Activation::Tanh, Activation::Sigmoid];
    let more = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];
    let leaky = [Activation::LeakyRelu { slope: 0.5 }];
    for activation in all.into_iter().chain(more).chain(leaky) {
        for layout in LAYOUTS {
            let layer = LayerSpec::new(1, 1, activation);
            let group = build(3, &Architecture::new([layer]).unwrap(), layout);
            for index in 0..3 {
                group.load_weights(index, [("layer_0", [1.0]), ("layer_0.bias", [0.0])]).unwrap();
            }
            let found = group.forward(&[f32::NAN, f32::INFINITY, 0.5]).unwrap();
            let high = activate(activation, f64::INFINITY) as f32;
            assert!(found[0].is_nan(), "{activation}: {found:?}");
            assert_eq!(found[1], high, "{activation}");
            // Neighbours are not touched.
            let expected = activate(activation, 0.5) as f32;
            assert!((found[2] - expected).abs() <= 1e-5, "{activation}: {found:?}");
        }
    }
}

#[test]
fn nan_in_a_weight_concerns_its_model_alone() {
    let architecture = Architecture::mlp(&[3, 9, 2], Activation::Relu, Activation::None).unwrap();
    for layout in LAYOUTS {
        let group = build(20, &architecture, layout);
        for index in 0..20 {
            let weight = if index == 7 { f32::NAN } else { 1.0 };
            let weights = [
                ("layer_0", vec![weight; 27]),
                ("layer_0.bias", vec![0.0; 9]),
                ("layer_1", vec![1.0; 18]),
                ("layer_1.bias", vec![0.0; 2]),
            ];
            group.load_weights(index, weights).unwrap();
        }
        let outputs = group.forward(&[1.0; 60]).unwrap();
        for (index, output) in outputs.chunks(2).enumerate() {
            if index == 7 {
                assert!(output.iter().all(|y| y.is_nan()));
            } else {
                assert_eq!(output, [27.0, 27.0], "model {index}");
            }
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    let architecture = Architecture::mlp(&[3, 2], Activation::None, Activation::None).unwrap();
    for layout in LAYOUTS {
        let none = build(0, &architecture, layout);
        assert!(none.forward(&[]).unwrap().is_empty());
        assert!(none.forward_subset(&[], &[]).unwrap().is_empty());
        let group = build(2, &architecture, layout);
        assert!(group.forward_subset(&[], &[]).unwrap().is_empty());
        // Rows that are not there need no weights.
        assert!(group.forward_rows(&[0, 0], &[]).unwrap().is_empty());
    }
}

#[test]
fn storage_types_round_weights_to_what_they_hold() {
    let architecture = Architecture::mlp(&[1, 2], Activation::None, Activation::None).unwrap();
    for (dtype, expected) in [
        (WeightDtype::F32, [1.001_f32, 0.3]),
        (
            WeightDtype::F16,
            [half::f16::from_f32(1.001).to_f32(), half::f16::from_f32(0.3).to_f32()],
        ),
        (
            WeightDtype::Bf16,
            [half::bf16::from_f32(1.001).to_f32(), half::bf16::from_f32(0.3).to_f32()],
        ),
    ] {
        for layout in LAYOUTS {
            let options =
                BatchedOptions::new().with_layout(layout).with_dtype(dtype).with_threads(1);
            let device = Device::cpu();
            let group =
                BatchedInference::with_options(1, architecture.clone(), device, &options).unwrap();
            let weights = [("layer_0", vec![1.001, 0.3]), ("layer_0.bias", vec![0.0, 0.0])];
            group.load_weights(0, weights).unwrap();
            assert_eq!(group.forward(&[1.0]).unwrap(), expected);
            let back = group.weights(0).unwrap();
            assert_eq!(back[0], ("layer_0".to_owned(), expected.to_vec()));
            assert_eq!(back[1], ("layer_0.bias".to_owned(), vec![0.0, 0.0]));
        }
    }
}
