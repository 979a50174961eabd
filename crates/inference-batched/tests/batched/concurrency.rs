//! Threads that evaluate while others load.

use std::sync::atomic::{AtomicBool, Ordering};

use inference_batched::{Activation, Architecture, BatchedInference, BatchedOptions, Device};
use inference_core::ErrorKind;

use crate::naive::group;

#[test]
fn callers_at_once_get_what_they_get_alone() {
    for widths in [&[5, 9, 3][..], &[40, 70, 33]] {
        let architecture = Architecture::mlp(widths, Activation::Silu, Activation::None).unwrap();
        let (group, _) = group(90, &architecture, &BatchedOptions::new().with_threads(3), 1);
        let inputs: Vec<f32> = (0..90 * widths[0]).map(|i| (i as f32).sin()).collect();
        let expected = group.forward(&inputs).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut outputs = vec![0.0; expected.len()];
                    for _ in 0..100 {
                        group.forward_into(&inputs, &mut outputs).unwrap();
                        assert_eq!(outputs, expected);
                    }
                });
            }
        });
    }
}

#[test]
fn a_call_sees_old_weights_or_new_ones_never_both() {
    // All weights of a model are one number, so every output tells which.
    for (inputs, outputs) in [(3, 2), (96, 80)] {
        let architecture =
            Architecture::mlp(&[inputs, outputs, outputs], Activation::None, Activation::None)
                .unwrap();
        let options = BatchedOptions::new().with_threads(2);
        let group =
            BatchedInference::with_options(40, architecture, Device::cpu(), &options).unwrap();
        let load = |index: usize, value: f32| {
            let weights = [
                ("layer_0", vec![value; inputs * outputs]),
                ("layer_0.bias", vec![0.0; outputs]),
                ("layer_1", vec![value; outputs * outputs]),
                ("layer_1.bias", vec![0.0; outputs]),
            ];
            group.load_weights(index, weights).unwrap();
        };
        (0..40).for_each(|index| load(index, 1.0));
        let size = (inputs * outputs) as f32;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..60 {
                    (0..40).for_each(|index| load(index, [2.0, 1.0][round % 2]));
                }
                done.store(true, Ordering::Relaxed);
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let inputs = vec![1.0; 40 * inputs];
                    while !done.load(Ordering::Relaxed) {
                        for row in group.forward(&inputs).unwrap().chunks(outputs) {
                            assert!(row.iter().all(|y| *y == row[0]), "{row:?}");
                            // 1 * 1 or 2 * 2, never 1 * 2.
                            assert!(row[0] == size || row[0] == 4.0 * size, "{row:?}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn unloading_while_others_compute_gives_an_answer_or_the_model() {
    let architecture = Architecture::mlp(&[8, 8], Activation::None, Activation::None).unwrap();
    let (group, _) = group(64, &architecture, &BatchedOptions::new().with_threads(2), 3);
    let weights = group.weights(17).unwrap();
    let inputs = vec![1.0; 64 * 8];
    let expected = group.forward(&inputs).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                group.unload(17).unwrap();
                group.load_weights(17, weights.iter().map(|(name, w)| (name, w))).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match group.forward(&inputs) {
                    Ok(outputs) => assert_eq!(outputs, expected),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::InvalidInput);
                        assert!(error.to_string().contains("model 17"), "{error}");
                    }
                }
            }
        });
    });
}
