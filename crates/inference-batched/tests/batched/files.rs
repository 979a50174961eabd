//! Weights as files, and groups that are filled from them.

use inference_batched::{
    Activation, Architecture, BatchedInference, BatchedOptions, BatchedWeights, Device, LayerSpec,
    WeightDtype, WeightLayout,
};
use inference_core::{Error, ErrorKind};
use safetensors::tensor::{Dtype, TensorView};

use crate::naive::{Random, group, named, random_model};

fn architecture() -> Architecture {
    let last = LayerSpec::new(5, 2, Activation::None).with_bias(false);
    let leaky = Activation::LeakyRelu { slope: 0.3 };
    Architecture::new([LayerSpec::new(3, 5, leaky), last]).unwrap()
}

#[test]
fn what_is_saved_is_loaded() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("all.safetensors");
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        for layout in [WeightLayout::PerModel, WeightLayout::Interleaved] {
            let options = BatchedOptions::new().with_dtype(dtype).with_layout(layout);
            let (group, _) = group(21, &architecture(), &options, 8);
            group.unload(4).unwrap();
            group.save(&path).unwrap();
            let weights = BatchedWeights::load(&path).unwrap();
            assert_eq!((weights.num_models(), weights.dtype()), (21, dtype));
            assert_eq!(*weights.architecture(), architecture());
            assert!(!weights.is_loaded(4).unwrap() && weights.is_loaded(5).unwrap());
            assert_eq!(weights.weights(20).unwrap(), group.weights(20).unwrap());

            let indices: Vec<usize> = (0..21).filter(|index| *index != 4).collect();
            let inputs = Random(1).numbers(20 * 3);
            let expected = group.forward_subset(&indices, &inputs).unwrap();
            let device = Device::cpu();
            let other = BatchedInference::from_weights(&weights, device, &options).unwrap();
            assert_eq!(other.forward_subset(&indices, &inputs).unwrap(), expected);
            assert!(!other.is_loaded(4).unwrap());
            // Into a group that has other weights.
            let (third, _) = self::group(21, &architecture(), &options, 9);
            third.load_safetensors(&path).unwrap();
            assert_eq!(third.forward_subset(&indices, &inputs).unwrap(), expected);
            assert!(!third.is_loaded(4).unwrap());
        }
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_layer_is_one_contiguous_tensor() {
    let architecture = architecture();
    let mut random = Random(3);
    let models: Vec<_> = (0..4).map(|_| random_model(&architecture, &mut random)).collect();
    let mut weights = BatchedWeights::new(4, &architecture).unwrap();
    for (index, model) in models.iter().enumerate() {
        weights.load_weights(index, named(model)).unwrap();
    }
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
    };
    let all: Vec<f32> = models.iter().flat_map(|model| model[0].0.clone()).collect();
    assert_eq!(floats(weights.weight_bytes(0).unwrap()), all);
    let all: Vec<f32> = models.iter().flat_map(|model| model[0].1.clone().unwrap()).collect();
    assert_eq!(floats(weights.bias_bytes(0).unwrap()), all);
    assert!(weights.bias_bytes(1).is_none() && weights.weight_bytes(2).is_none());
    let error = weights.load_weights(4, named(&models[0])).unwrap_err();
    assert!(error.to_string().contains("0 to 3"), "{error}");
}

/// A file of these tensors, all zeros.
fn file(tensors: &[(&str, Dtype, &[usize])], metadata: &[(&str, &str)]) -> tempfile::NamedTempFile {
    let zeros = vec![0u8; 4096];
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (*name, TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap())
        })
        .collect();
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = safetensors::serialize(views, Some(metadata.collect())).unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let good: [(&str, Dtype, &[usize]); 3] = [
        ("layer_0", Dtype::F32, &[2, 3, 5]),
        ("layer_0.bias", Dtype::F32, &[2, 5]),
        ("layer_1", Dtype::F32, &[2, 5, 2]),
    ];
    let load = |tensors: &[(&str, Dtype, &[usize])], metadata: &[(&str, &str)]| {
        let file = file(tensors, metadata);
        BatchedWeights::load_as(file.path(), &architecture())
    };
    assert_eq!(load(&good, &[]).unwrap().num_models(), 2);
    let refused = |result: Result<BatchedWeights, Error>, parts: &[&str]| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        let text = error.to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "`{text}` lacks `{part}`"));
    };
    let changed = |at: usize, tensor: (&'static str, Dtype, &'static [usize])| {
        let mut all = good;
        all[at] = tensor;
        load(&all, &[])
    };
    refused(load(&good[..2], &[]), &["`layer_1`", "none"]);
    refused(changed(2, ("layer_1", Dtype::F32, &[3, 5, 2])), &["`layer_1`", "[2, 5, 2]", "3"]);
    refused(changed(0, ("layer_0", Dtype::F32, &[2, 5, 3])), &["`layer_0`", "[models, 3, 5]"]);
    refused(changed(1, ("layer_0.bias", Dtype::F64, &[2, 5])), &["`layer_0.bias`", "F64"]);
    refused(changed(1, ("layer_0.bias", Dtype::F16, &[2, 5])), &["`layer_0.bias`", "f32", "f16"]);
    refused(changed(2, ("layer_7", Dtype::F32, &[2, 5, 2])), &["`layer_7`"]);
    refused(load(&good, &[("architecture", "{}")]), &["architecture"]);
    let other = r#"{"layers":[{"inputs":3,"outputs":5},{"inputs":5,"outputs":2}]}"#;
    refused(load(&good, &[("architecture", other)]), &["architecture", "leaky_relu"]);
    refused(load(&good, &[("models_without_weights", "[2]")]), &["models_without_weights", "2"]);
    refused(BatchedWeights::load(file(&good, &[]).path()), &["architecture", "none"]);
    let damaged = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(damaged.path(), b"not a file of tensors").unwrap();
    refused(BatchedWeights::load(damaged.path()), &["header"]);
    let missing = BatchedWeights::load("no/such/file").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}

#[test]
fn loading_all_is_all_or_nothing() {
    let options = BatchedOptions::new().with_dtype(WeightDtype::F16);
    let (group, _) = group(3, &architecture(), &options, 2);
    let inputs = [1.0; 9];
    let before = group.forward(&inputs).unwrap();
    let mut weights = BatchedWeights::new(3, &architecture()).unwrap();
    for index in 0..3 {
        let large = if index == 2 { 1e6 } else { 1.0 };
        let all = [("layer_0", vec![1.0; 15]), ("layer_0.bias", vec![large; 5])];
        let all = all.into_iter().chain([("layer_1", vec![1.0; 10])]);
        weights.load_weights(index, all).unwrap();
    }
    let error = group.load_all(&weights).unwrap_err().to_string();
    assert!(error.contains("model 2") && error.contains("1000000"), "{error}");
    let fewer = BatchedWeights::new(2, &architecture()).unwrap();
    assert!(group.load_all(&fewer).unwrap_err().to_string().contains("number of models"));
    let other = Architecture::mlp(&[3, 2], Activation::None, Activation::None).unwrap();
    let other = BatchedWeights::new(3, &other).unwrap();
    assert!(group.load_all(&other).unwrap_err().to_string().contains("architecture"));
    assert_eq!(group.forward(&inputs).unwrap(), before);
}
