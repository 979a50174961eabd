//! Candle's operations against this crate's kernels.

#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec, Request,
};
use inference_core::{CancelToken, ErrorKind};

const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
];

fn candle() -> Device {
    Device::candle(candle_core::Device::Cpu)
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101) % 199) as f32 / 99.5 - 1.0).collect()
}

#[test]
fn both_compute_the_same() {
    for activation in ACTIVATIONS {
        let last = LayerSpec::new(6, 3, Activation::None).with_bias(false);
        let architecture = Architecture::new([LayerSpec::new(5, 6, activation), last]).unwrap();
        let groups = [Device::cpu(), candle()]
            .map(|device| BatchedInference::new(9, architecture.clone(), device).unwrap());
        for group in &groups {
            for index in (0..9).filter(|index| *index != 4) {
                let weights = [
                    ("layer_0", numbers(30, index)),
                    ("layer_0.bias", numbers(6, index + 1)),
                    ("layer_1", numbers(18, index + 2)),
                ];
                group.load_weights(index, weights).unwrap();
            }
        }
        let [ours, other] = &groups;
        assert_eq!(ours.weights(3).unwrap(), other.weights(3).unwrap());
        let (models, rows) = ([8, 2, 4, 2], [1, 3, 0, 2]);
        let inputs = numbers(6 * 5, 3);
        let request = Request::new(&inputs).with_models(&models).with_rows(&rows);
        let (found, expected) = (other.run(&request).unwrap(), ours.run(&request).unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{activation}: {found}, {expected}");
        }
        for group in &groups {
            let error = group.forward(&numbers(45, 0)).unwrap_err().to_string();
            assert!(error.contains("model 4"), "{error}");
        }
        let token = CancelToken::new();
        token.cancel();
        let error = other.run(&request.with_cancel(&token)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(other.unload(2).unwrap() && !other.is_loaded(2).unwrap());
    }
}

#[test]
fn options_of_the_kernels_are_refused() {
    let architecture = Architecture::mlp(&[1, 1], Activation::None, Activation::None).unwrap();
    let options = BatchedOptions::new().with_threads(2);
    let error = BatchedInference::with_options(1, architecture, candle(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
