//! What is refused, and what the message names.

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, Device, LayerSpec, Request,
    WeightDtype, Workers,
};
use inference_core::{Error, ErrorKind};

fn architecture() -> Architecture {
    let last = LayerSpec::new(4, 2, Activation::None).with_bias(false);
    Architecture::new([LayerSpec::new(3, 4, Activation::Relu), last]).unwrap()
}

fn group() -> BatchedInference {
    BatchedInference::new(5, architecture(), Device::cpu()).unwrap()
}

fn good() -> Vec<(&'static str, Vec<f32>)> {
    vec![("layer_0", vec![1.0; 12]), ("layer_0.bias", vec![0.0; 4]), ("layer_1", vec![1.0; 8])]
}

/// The message of an error of this kind names all of `parts`.
fn assert_names<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
}

/// The arrays of a model by their keys.
type Weights = Vec<(&'static str, Vec<f32>)>;

#[test]
fn weights_that_do_not_fit_are_named_and_change_nothing() {
    let group = group();
    group.load_weights(2, good()).unwrap();
    let row = [1.0, 2.0, 3.0];
    let before = group.forward_subset(&[2], &row).unwrap();
    let refused = |change: &dyn Fn(&mut Weights), parts: &[&str]| {
        let mut weights = good();
        weights.iter_mut().for_each(|(_, values)| values.iter_mut().for_each(|v| *v = 9.0));
        change(&mut weights);
        assert_names(group.load_weights(2, weights), ErrorKind::InvalidInput, parts);
        assert_eq!(group.forward_subset(&[2], &row).unwrap(), before);
    };
    refused(&|w| w[0].1.truncate(11), &["model 2", "`layer_0`", "12 numbers, 3 x 4", "found 11"]);
    refused(&|w| w[1].1.push(0.0), &["model 2", "`layer_0.bias`", "4 numbers", "found 5"]);
    refused(&|w| drop(w.remove(2)), &["model 2", "`layer_1`", "8 numbers", "none"]);
    refused(&|w| drop(w.remove(1)), &["model 2", "`layer_0.bias`", "none"]);
    refused(&|w| w[2].0 = "layer_2", &["model 2", "`layer_2`", "N from 0 to 1"]);
    refused(&|w| w[2].0 = "layer_01", &["`layer_01`"]);
    refused(&|w| w[2].0 = "weight", &["`weight`"]);
    refused(&|w| w.push(("layer_1.bias", vec![0.0; 2])), &["`layer_1.bias`", "no bias"]);
    refused(&|w| w.push(("layer_0", vec![0.0; 12])), &["`layer_0`", "every name once"]);
}

#[test]
fn indices_out_of_range_are_named_with_the_range() {
    let group = group();
    let kind = ErrorKind::InvalidInput;
    assert_names(group.load_weights(5, good()), kind, &["model index", "0 to 4", "5"]);
    assert_names(group.unload(7), kind, &["0 to 4", "7"]);
    assert_names(group.weights(7), kind, &["0 to 4", "7"]);
    assert_names(group.is_loaded(5), kind, &["0 to 4", "5"]);
    assert_names(group.forward_subset(&[1, 9], &[0.0; 6]), kind, &["0 to 4", "9"]);
    let none = BatchedInference::new(0, architecture(), Device::cpu()).unwrap();
    assert_names(none.unload(0), kind, &["no models", "0"]);
}

#[test]
fn models_without_weights_are_named_the_least_first() {
    let group = group();
    let kind = ErrorKind::InvalidInput;
    for index in [0, 1, 3] {
        group.load_weights(index, good()).unwrap();
    }
    assert_names(group.forward(&[0.0; 15]), kind, &["model 2", "none loaded"]);
    assert_names(group.forward_subset(&[4, 0], &[0.0; 6]), kind, &["model 4"]);
    assert_names(group.weights(4), kind, &["model 4", "none loaded"]);
    group.forward_subset(&[3, 0, 1], &[0.0; 9]).unwrap();
    // Rows that are not there need no weights.
    group.forward_rows(&[1, 1, 0, 1, 0], &[0.0; 9]).unwrap();
    assert!(group.unload(1).unwrap() && !group.unload(1).unwrap());
    assert!(!group.is_loaded(1).unwrap() && group.is_loaded(0).unwrap());
    assert_names(group.forward_subset(&[3, 0, 1], &[0.0; 9]), kind, &["model 1"]);
}

#[test]
fn the_least_of_many_models_without_weights_is_named_by_any_number_of_threads() {
    let architecture = Architecture::mlp(&[32, 32], Activation::None, Activation::None).unwrap();
    let options = BatchedOptions::new().with_threads(4);
    let device = Device::cpu();
    let group = BatchedInference::with_options(300, architecture, device, &options).unwrap();
    for index in 0..300 {
        if ![120, 121, 200, 299].contains(&index) {
            let weights = [("layer_0", vec![0.0; 1024]), ("layer_0.bias", vec![0.0; 32])];
            group.load_weights(index, weights).unwrap();
        }
    }
    for _ in 0..20 {
        assert_names(group.forward(&[0.0; 9600]), ErrorKind::InvalidInput, &["model 120"]);
    }
}

#[test]
fn lengths_of_rows_and_buffers_are_checked() {
    let group = group();
    let kind = ErrorKind::InvalidInput;
    for index in 0..5 {
        group.load_weights(index, good()).unwrap();
    }
    assert_names(group.forward(&[0.0; 14]), kind, &["inputs", "5 rows of 3", "14"]);
    assert_names(group.forward_rows(&[1, 1], &[0.0; 6]), kind, &["row counts", "5", "2"]);
    let rows = [1, 0, 2, 0, 0];
    assert_names(group.forward_rows(&rows, &[0.0; 8]), kind, &["3 rows of 3", "8"]);
    let rows = [usize::MAX, 2, 0, 0, 0];
    assert_names(group.forward_rows(&rows, &[0.0; 9]), kind, &["too many rows"]);
    let mut short = [0.0; 9];
    let result = group.forward_into(&[0.0; 15], &mut short);
    assert_names(result, kind, &["buffer for outputs", "5 rows of 2", "9"]);
    let request = Request::new(&[0.0; 3]).with_models(&[1]).with_rows(&[1, 1]);
    assert_names(group.run(&request), kind, &["row counts", "1", "2"]);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let build = |options: &BatchedOptions| {
        BatchedInference::with_options(1, architecture(), Device::cpu(), options).map(drop)
    };
    let kind = ErrorKind::InvalidOption;
    assert_names(build(&BatchedOptions::new().with_threads(0)), kind, &["threads", "0"]);
    let both = BatchedOptions::new().with_threads(2).with_workers(Workers::new(Some(1)).unwrap());
    assert_names(build(&both), kind, &["threads", "workers"]);
    assert_names("f64".parse::<WeightDtype>(), kind, &["dtype", "f64", "bf16"]);
    let empty = Architecture { layers: vec![] };
    let empty = BatchedInference::new(1, empty, Device::cpu()).map(drop);
    assert_names(empty, ErrorKind::InvalidInput, &["at least one layer"]);
    let large = Architecture::mlp(&[1 << 19, 1 << 19], Activation::None, Activation::None);
    let large = BatchedInference::new(1 << 40, large.unwrap(), Device::cpu()).map(drop);
    assert_names(large, ErrorKind::Exhausted, &["memory for weights"]);
}

#[test]
fn numbers_that_do_not_fit_the_storage_type_are_refused() {
    let options = BatchedOptions::new().with_dtype(WeightDtype::F16);
    let device = Device::cpu();
    let group = BatchedInference::with_options(1, architecture(), device, &options).unwrap();
    let mut weights = good();
    weights[0].1[3] = 70_000.0;
    let result = group.load_weights(0, weights);
    assert_names(result, ErrorKind::InvalidInput, &["`layer_0`", "f16", "70000 at index 3"]);
    let mut weights = good();
    weights[0].1[3] = f32::INFINITY;
    group.load_weights(0, weights).unwrap();
}
