//! Folders with a file for each model.

mod onnx;
mod onnx_file;
mod protobuf;
mod safetensors_model;

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

use crate::{Architecture, BatchedWeights};

/// The models of a folder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Import {
    /// The weights, in the order of [`names`](Self::names).
    pub weights: BatchedWeights,
    /// The file names of the models, without extension; numbers in them are in
    /// order of size: `sensor-9` is before `sensor-10`.
    pub names: Vec<String>,
}

/// One model of a file: its weights by name, and its layers as far as the file
/// knows.
#[derive(Debug)]
struct ModelFile {
    architecture: Architecture,
    /// Whether the file says what the activations are.
    knows_activations: bool,
    weights: Vec<(String, Vec<f32>)>,
}

/// Reads a folder of files with a model each, `*.safetensors` or `*.onnx`, all
/// of one architecture; other files are left alone.
///
/// A safetensors file has tensors `layer_N` (`[inputs, outputs]`) and
/// `layer_N.bias`, or those of PyTorch's linear layers, `NAME.weight`
/// (`[outputs, inputs]`) and `NAME.bias`, in the order of their names. It does
/// not say what the activations are, unless its metadata has an `architecture`
/// as [`BatchedWeights::save`] writes it; otherwise `architecture` must be given.
///
/// An ONNX file is a chain of `Gemm`, or `MatMul` and `Add`, with `Relu`,
/// `LeakyRelu`, `Tanh`, `Sigmoid` or `Gelu` after them; its weights are in the
/// file itself.
///
/// # Errors
///
/// `Io`; `InvalidModel` and `UnsupportedModel` that name file and tensor or
/// node: anything else in a file, or a model that differs from the others or
/// from `architecture`; `ModelNotFound` for a folder without such files.
pub fn from_folder(path: impl AsRef<Path>, architecture: Option<&Architecture>) -> Result<Import> {
    let path = path.as_ref();
    if let Some(architecture) = architecture {
        architecture.validate()?;
    }
    let files = model_files(path)?;
    let mut common = architecture.cloned();
    let mut models = Vec::with_capacity(files.len());
    for file in &files {
        let model = if has_extension(file, "onnx") {
            onnx::read(file)?
        } else {
            safetensors_model::read(file)?
        };
        let expected = match &common {
            Some(common) => common,
            None if model.knows_activations => &*common.insert(model.architecture.clone()),
            None => {
                let file = file.display().to_string();
                let expected = "an architecture in the metadata, or one given by the caller";
                return Err(Error::invalid_model(file, "activations", expected, "neither"));
            }
        };
        check_same(file, &model, expected)?;
        models.push(model.weights);
    }
    let Some(architecture) = common else {
        let hint = "a folder with *.safetensors or *.onnx files is needed";
        return Err(Error::model_not_found(path.display().to_string(), hint));
    };
    if files.is_empty() {
        let hint = "it has no *.safetensors or *.onnx files";
        return Err(Error::model_not_found(path.display().to_string(), hint));
    }
    let mut weights = BatchedWeights::new(models.len(), &architecture)?;
    for (index, model) in models.into_iter().enumerate() {
        weights.load_weights(index, model)?;
    }
    let stem = |file: &PathBuf| {
        file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    };
    Ok(Import { weights, names: files.iter().map(stem).collect() })
}

/// Whether a model has the layers that all must have.
fn check_same(file: &Path, model: &ModelFile, expected: &Architecture) -> Result<()> {
    let found = &model.architecture.layers;
    let invalid = |what: String, expected: String, found: String| {
        Err(Error::invalid_model(file.display().to_string(), what, expected, found))
    };
    if found.len() != expected.layers.len() {
        let (expected, found) = (expected.layers.len().to_string(), found.len().to_string());
        return invalid("number of layers".to_owned(), expected, found);
    }
    for (at, (found, expected)) in found.iter().zip(&expected.layers).enumerate() {
        let mut same = *found;
        if !model.knows_activations {
            same.activation = expected.activation;
        }
        if same != *expected {
            let describe = |layer: &crate::LayerSpec| {
                let bias = if layer.bias { "a bias" } else { "no bias" };
                format!("{} x {}, {bias}, {}", layer.inputs, layer.outputs, layer.activation)
            };
            return invalid(format!("layer {at}"), describe(expected), describe(&same));
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// The model files of a folder, in the order of their names.
fn model_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(folder, "list", error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && (has_extension(&path, "onnx") || has_extension(&path, "safetensors")) {
            files.push(path);
        }
    }
    files.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// Numbers by their size, everything else by characters.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits_a, digits_b) = (digits(a), digits(b));
        if digits_a > 0 && digits_b > 0 {
            let (number_a, rest_a) = a.split_at(digits_a);
            let (number_b, rest_b) = b.split_at(digits_b);
            let size = |number: &str| number.trim_start_matches('0').len();
            let order = size(number_a)
                .cmp(&size(number_b))
                .then_with(|| {
                    number_a.trim_start_matches('0').cmp(number_b.trim_start_matches('0'))
                })
                .then_with(|| digits_a.cmp(&digits_b));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
        match (chars_a.next(), chars_b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(first_a), Some(first_b)) if first_a != first_b => return first_a.cmp(&first_b),
            _ => (a, b) = (chars_a.as_str(), chars_b.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_in_order_of_size() {
        let mut names = ["b", "a10", "a9", "a", "a9b2", "a09", "a100000000000000000000000"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a", "a9", "a9b2", "a09", "a10", "a100000000000000000000000", "b"]);
    }
}
