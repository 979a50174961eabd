//! Files with the weights of all models.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use inference_core::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::model_weights::{bias_name, weight_name};
use crate::weights::BatchedWeights;
use crate::{Architecture, WeightDtype};

/// Metadata: the architecture, as JSON.
pub(crate) const ARCHITECTURE: &str = "architecture";
/// Metadata: the models without weights, as a JSON list of indices.
const WITHOUT: &str = "models_without_weights";

fn dtype_of(dtype: WeightDtype) -> Dtype {
    match dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::F16 => Dtype::F16,
        WeightDtype::Bf16 => Dtype::BF16,
    }
}

/// The storage type of a tensor.
pub(crate) fn stored(dtype: Dtype) -> Option<WeightDtype> {
    [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16]
        .into_iter()
        .find(|stored| dtype_of(*stored) == dtype)
}

/// Files are in little-endian order, and read as they are.
fn check_byte_order() -> Result<()> {
    if cfg!(target_endian = "big") {
        return Err(Error::unsupported("a big-endian machine", "files of weights"));
    }
    Ok(())
}

pub(crate) fn save(weights: &BatchedWeights, path: &Path) -> Result<()> {
    check_byte_order()?;
    let architecture = weights.architecture();
    let models = weights.num_models();
    let failed = |error: safetensors::SafeTensorError| match error {
        safetensors::SafeTensorError::IoError(error) => Error::io(path, "write", error),
        other => Error::engine(format!("{}: writing weights", path.display()), other),
    };
    let mut tensors = Vec::new();
    for (at, (layer, spec)) in weights.layers.iter().zip(&architecture.layers).enumerate() {
        let dtype = dtype_of(weights.dtype());
        let shape = vec![models, spec.inputs, spec.outputs];
        tensors
            .push((weight_name(at), TensorView::new(dtype, shape, &layer.weight).map_err(failed)?));
        if spec.bias {
            let shape = vec![models, spec.outputs];
            tensors
                .push((bias_name(at), TensorView::new(dtype, shape, &layer.bias).map_err(failed)?));
        }
    }
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| Error::engine("describing the architecture", error))
    };
    let mut metadata = HashMap::new();
    metadata.insert(ARCHITECTURE.to_owned(), json(serde_json::to_string(architecture))?);
    let mut without = Vec::new();
    for index in 0..models {
        if !weights.is_loaded(index)? {
            without.push(index);
        }
    }
    if !without.is_empty() {
        metadata.insert(WITHOUT.to_owned(), json(serde_json::to_string(&without))?);
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = Path::new(&unfinished);
    safetensors::serialize_to_file(tensors, Some(metadata), unfinished).map_err(failed)?;
    fs::rename(unfinished, path).map_err(|error| Error::io(path, "rename", error))
}

/// A safetensors file in memory.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    check_byte_order()?;
    fs::read(path).map_err(|error| Error::io(path, "read", error))
}

/// Tensors and metadata of a safetensors file.
pub(crate) fn parse<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<(SafeTensors<'a>, HashMap<String, String>)> {
    let invalid = |error: safetensors::SafeTensorError| {
        let file = path.display().to_string();
        Error::invalid_model(file, "header", "a safetensors file", error.to_string())
    };
    let tensors = SafeTensors::deserialize(bytes).map_err(invalid)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

/// The architecture in a file's metadata.
pub(crate) fn architecture_of(
    path: &Path,
    metadata: &HashMap<String, String>,
) -> Result<Option<Architecture>> {
    let Some(text) = metadata.get(ARCHITECTURE) else { return Ok(None) };
    let file = path.display().to_string();
    let what = format!("metadata `{ARCHITECTURE}`");
    let architecture: Architecture = serde_json::from_str(text)
        .map_err(|error| Error::invalid_model(&file, &what, "layers as JSON", error.to_string()))?;
    architecture.validate().map_err(|error| {
        Error::invalid_model(&file, &what, "layers that fit each other", error.to_string())
    })?;
    Ok(Some(architecture))
}

pub(crate) fn load(path: &Path, expected: Option<&Architecture>) -> Result<BatchedWeights> {
    let file = path.display().to_string();
    let bytes = read_file(path)?;
    let (tensors, metadata) = parse(path, &bytes)?;
    let own = architecture_of(path, &metadata)?;
    let what = format!("metadata `{ARCHITECTURE}`");
    let architecture = match (own, expected) {
        (Some(own), Some(expected)) if own != *expected => {
            let describe = |architecture: &Architecture| {
                serde_json::to_string(architecture).unwrap_or_default()
            };
            let (expected, found) = (describe(expected), describe(&own));
            return Err(Error::invalid_model(file, what, expected, found));
        }
        (Some(own), _) => own,
        (None, Some(expected)) => expected.clone(),
        (None, None) => {
            let expected = "layers as JSON, or an architecture given by the caller";
            return Err(Error::invalid_model(file, what, expected, "none"));
        }
    };
    let names: Vec<String> = architecture
        .layers
        .iter()
        .enumerate()
        .flat_map(|(at, spec)| [Some(weight_name(at)), spec.bias.then(|| bias_name(at))])
        .flatten()
        .collect();
    if let Some(unknown) = tensors.names().into_iter().find(|name| !names.iter().any(|n| n == name))
    {
        let what = format!("tensor `{unknown}`");
        return Err(Error::invalid_model(file, what, names.join(", "), "it"));
    }
    let tensor = |name: &str, shape: &[Option<usize>]| {
        let invalid = |expected: String, found: String| {
            Error::invalid_model(&file, format!("tensor `{name}`"), expected, found)
        };
        let view =
            tensors.tensor(name).map_err(|_| invalid("a tensor".to_owned(), "none".to_owned()))?;
        let dtype = stored(view.dtype())
            .ok_or_else(|| invalid("F32, F16 or BF16".to_owned(), format!("{:?}", view.dtype())))?;
        let fits = view.shape().len() == shape.len()
            && view.shape().iter().zip(shape).all(|(n, want)| want.is_none_or(|want| want == *n));
        if !fits {
            let want: Vec<_> =
                shape.iter().map(|n| n.map_or("models".to_owned(), |n| n.to_string())).collect();
            let want = format!("shape [{}]", want.join(", "));
            return Err(invalid(want, format!("{:?}", view.shape())));
        }
        Ok((view, dtype))
    };
    let first = architecture.layers.first().copied();
    let first = first.map(|spec| [None, Some(spec.inputs), Some(spec.outputs)]);
    let (view, dtype) = tensor(&weight_name(0), &first.unwrap_or_default())?;
    let num_models = view.shape().first().copied().unwrap_or(0);
    let mut weights = BatchedWeights::with_dtype(num_models, &architecture, dtype)?;
    for (at, spec) in architecture.layers.iter().enumerate() {
        let mut copy = |name: String, shape: &[Option<usize>], is_bias: bool| {
            let (view, found) = tensor(&name, shape)?;
            if found != dtype {
                let what = format!("tensor `{name}`");
                let expected = format!("{dtype}, as of `layer_0`");
                return Err(Error::invalid_model(&file, what, expected, found.to_string()));
            }
            let layer = &mut weights.layers[at];
            let to = if is_bias { &mut layer.bias } else { &mut layer.weight };
            to.copy_from_slice(view.data());
            Ok(())
        };
        let models = Some(num_models);
        copy(weight_name(at), &[models, Some(spec.inputs), Some(spec.outputs)], false)?;
        if spec.bias {
            copy(bias_name(at), &[models, Some(spec.outputs)], true)?;
        }
    }
    (0..num_models).for_each(|index| weights.set_loaded(index, true));
    if let Some(text) = metadata.get(WITHOUT) {
        let invalid = |found: String| {
            let what = format!("metadata `{WITHOUT}`");
            let expected = format!("a JSON list of indices below {num_models}");
            Error::invalid_model(&file, what, expected, found)
        };
        let without: Vec<usize> =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        for index in without {
            if index >= num_models {
                return Err(invalid(index.to_string()));
            }
            weights.set_loaded(index, false);
        }
    }
    Ok(weights)
}
