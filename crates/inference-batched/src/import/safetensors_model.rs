//! A safetensors file with one model.

use std::path::Path;

use inference_core::{Error, Result};
use safetensors::tensor::{SafeTensors, TensorView};

use super::{ModelFile, natural_order};
use crate::model_weights::{bias_name, weight_name};
use crate::weights_file::{architecture_of, parse, read_file, stored};
use crate::{Activation, Architecture, LayerSpec};

pub(super) fn read(path: &Path) -> Result<ModelFile> {
    let file = path.display().to_string();
    let bytes = read_file(path)?;
    let (tensors, metadata) = parse(path, &bytes)?;
    let own = architecture_of(path, &metadata)?;
    let names = names(&file, &tensors)?;
    let mut layers = Vec::new();
    let mut weights = Vec::new();
    for (at, Names { weight, bias, transposed }) in names.iter().enumerate() {
        let invalid = |what: &str, expected: &str, found: String| {
            Error::invalid_model(&file, format!("tensor `{what}`"), expected, found)
        };
        let view = tensor(&file, &tensors, weight)?;
        let [rows, columns] = view.shape() else {
            return Err(invalid(weight, "two dimensions", format!("{:?}", view.shape())));
        };
        let values = numbers(&file, weight, &view)?;
        let (inputs, outputs, values) = if *transposed {
            (*columns, *rows, transpose(&values, *rows, *columns))
        } else {
            (*rows, *columns, values)
        };
        weights.push((weight_name(at), values));
        if let Some(bias) = bias {
            let view = tensor(&file, &tensors, bias)?;
            if view.shape() != [outputs] {
                return Err(invalid(bias, &format!("[{outputs}]"), format!("{:?}", view.shape())));
            }
            weights.push((bias_name(at), numbers(&file, bias, &view)?));
        }
        let activation = own
            .as_ref()
            .and_then(|own| own.layers.get(at))
            .map_or(Activation::None, |layer| layer.activation);
        layers.push(LayerSpec::new(inputs, outputs, activation).with_bias(bias.is_some()));
    }
    let architecture = Architecture::new(layers).map_err(|error| {
        Error::invalid_model(&file, "tensors", "layers that fit each other", error.to_string())
    })?;
    if let Some(own) = &own
        && *own != architecture
    {
        let describe =
            |architecture: &Architecture| serde_json::to_string(architecture).unwrap_or_default();
        let (expected, found) = (describe(own), describe(&architecture));
        return Err(Error::invalid_model(file, "tensors", expected, found));
    }
    Ok(ModelFile { architecture, knows_activations: own.is_some(), weights })
}

/// What the tensors of a layer are called.
struct Names {
    weight: String,
    bias: Option<String>,
    /// `[outputs, inputs]`.
    transposed: bool,
}

/// The layers of a file, in order; every tensor belongs to one.
fn names(file: &str, tensors: &SafeTensors<'_>) -> Result<Vec<Names>> {
    let mut all: Vec<&str> = tensors.names();
    all.sort_by(|a, b| natural_order(a, b));
    let own = all.iter().any(|name| name.starts_with("layer_") && !name.ends_with(".weight"));
    let weights: Vec<&str> = if own {
        all.iter().copied().filter(|name| !name.ends_with(".bias")).collect()
    } else {
        all.iter().copied().filter(|name| name.ends_with(".weight")).collect()
    };
    let mut names = Vec::new();
    for (at, weight) in weights.iter().enumerate() {
        let bias = match weight.strip_suffix(".weight") {
            Some(prefix) if !own => format!("{prefix}.bias"),
            _ if *weight == weight_name(at) => bias_name(at),
            _ => {
                let what = format!("tensor `{weight}`");
                return Err(Error::invalid_model(
                    file,
                    what,
                    format!("`{}`", weight_name(at)),
                    "it",
                ));
            }
        };
        let bias = all.contains(&bias.as_str()).then_some(bias);
        names.push(Names { weight: (*weight).to_owned(), bias, transposed: !own });
    }
    let known = |name: &str| {
        names.iter().any(|layer| layer.weight == name || layer.bias.as_deref() == Some(name))
    };
    if let Some(unknown) = all.iter().find(|name| !known(name)) {
        let expected = "weights `layer_N` or `NAME.weight`, and their biases";
        let what = format!("tensor `{unknown}`");
        return Err(Error::invalid_model(file, what, expected, "it"));
    }
    Ok(names)
}

fn tensor<'a>(file: &str, tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>> {
    tensors.tensor(name).map_err(|error| {
        Error::invalid_model(file, format!("tensor `{name}`"), "a tensor", error.to_string())
    })
}

fn numbers(file: &str, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    let Some(dtype) = stored(view.dtype()) else {
        let found = format!("{:?}", view.dtype());
        let what = format!("tensor `{name}`");
        return Err(Error::invalid_model(file, what, "F32, F16 or BF16", found));
    };
    let count = view.data().len() / dtype.bytes();
    Ok((0..count).map(|at| dtype.read(view.data(), at)).collect())
}

/// `[columns, rows]` of a row-major `[rows, columns]`.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}
