//! The weights of one model, by name.

use std::collections::HashSet;

use inference_core::{Error, Result};

use crate::{Architecture, WeightDtype};

/// The name of a layer's weight: `layer_0`.
#[must_use]
pub(crate) fn weight_name(layer: usize) -> String {
    format!("layer_{layer}")
}

/// The name of a layer's bias: `layer_0.bias`.
#[must_use]
pub(crate) fn bias_name(layer: usize) -> String {
    format!("layer_{layer}.bias")
}

/// Weights that fit an architecture.
#[derive(Debug)]
pub(crate) struct CheckedWeights<'a> {
    /// Weight and bias of each layer.
    layers: Vec<(&'a [f32], Option<&'a [f32]>)>,
}

impl<'a> CheckedWeights<'a> {
    /// Checks weights by name: all are there, of the right length, no others,
    /// and none too large for `dtype`. `model` is for messages.
    #[expect(clippy::type_complexity, reason = "weight and bias, as far as they were met")]
    pub(crate) fn new(
        model: usize,
        architecture: &Architecture,
        dtype: WeightDtype,
        weights: impl IntoIterator<Item = (&'a str, &'a [f32])>,
    ) -> Result<Self> {
        let mut found: Vec<(Option<&[f32]>, Option<&[f32]>)> =
            vec![(None, None); architecture.layers.len()];
        let mut seen = HashSet::new();
        for (name, values) in weights {
            let what = || format!("weights of model {model}: `{name}`");
            let Some((layer, is_bias)) = parse(name).filter(|(layer, _)| *layer < found.len())
            else {
                let last = found.len().saturating_sub(1);
                let expected = format!("`layer_N` and `layer_N.bias`, N from 0 to {last}");
                return Err(Error::invalid_input(what(), expected, name));
            };
            let spec = &architecture.layers[layer];
            if is_bias && !spec.bias {
                let expected = format!("no bias, as the architecture says of layer {layer}");
                return Err(Error::invalid_input(what(), expected, values.len().to_string()));
            }
            let expected = if is_bias { spec.biases() } else { spec.weights() };
            if values.len() != expected {
                let shape = if is_bias {
                    format!("{expected} numbers")
                } else {
                    format!("{expected} numbers, {} x {}", spec.inputs, spec.outputs)
                };
                return Err(Error::invalid_input(what(), shape, values.len().to_string()));
            }
            if let Some(at) = values.iter().position(|value| dtype.overflows(*value)) {
                let expected = format!("numbers that {dtype} can hold");
                let value = format!("{} at index {at}", values[at]);
                return Err(Error::invalid_input(what(), expected, value));
            }
            if !seen.insert((layer, is_bias)) {
                return Err(Error::invalid_input(what(), "every name once", "it twice"));
            }
            let slot = &mut found[layer];
            *(if is_bias { &mut slot.1 } else { &mut slot.0 }) = Some(values);
        }
        let missing = |name: String, expected: usize| {
            let what = format!("weights of model {model}: `{name}`");
            Error::invalid_input(what, format!("{expected} numbers"), "none")
        };
        let layers = found.into_iter().zip(&architecture.layers).enumerate();
        let layers = layers.map(|(index, ((weight, bias), spec))| {
            let weight = weight.ok_or_else(|| missing(weight_name(index), spec.weights()))?;
            if spec.bias && bias.is_none() {
                return Err(missing(bias_name(index), spec.biases()));
            }
            Ok((weight, bias))
        });
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// Weight and bias of each layer.
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&'a [f32], Option<&'a [f32]>)> {
        self.layers.iter().copied()
    }
}

/// Layer and whether it is the bias, of `layer_3` or `layer_3.bias`.
fn parse(name: &str) -> Option<(usize, bool)> {
    let rest = name.strip_prefix("layer_")?;
    let (number, is_bias) = match rest.strip_suffix(".bias") {
        Some(number) => (number, true),
        None => (rest, false),
    };
    let layer: usize = number.parse().ok()?;
    // Neither `+1` nor `01`.
    (layer.to_string() == number).then_some((layer, is_bias))
}
