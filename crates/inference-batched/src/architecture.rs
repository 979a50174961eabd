//! The shape that all models of a group share.

use inference_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Activation;

/// One affine map and what follows it: `y = activation(x W + b)`, with `W` of
/// shape `[inputs, outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// Length of a row of inputs.
    pub inputs: usize,
    /// Length of a row of outputs.
    pub outputs: usize,
    /// What is applied to each output.
    #[serde(with = "as_text", default)]
    pub activation: Activation,
    /// Whether the layer has a bias.
    #[serde(default = "yes")]
    pub bias: bool,
}

fn yes() -> bool {
    true
}

/// Activations as their names.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::Activation;

    pub(super) fn serialize<S: Serializer>(
        activation: &Activation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(activation)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Activation, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl LayerSpec {
    /// A layer with a bias.
    #[must_use]
    pub fn new(inputs: usize, outputs: usize, activation: Activation) -> Self {
        Self { inputs, outputs, activation, bias: true }
    }

    /// With or without a bias.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Numbers of the weight, without the bias.
    pub(crate) fn weights(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Numbers of the bias: none or one per output.
    pub(crate) fn biases(&self) -> usize {
        if self.bias { self.outputs } else { 0 }
    }
}

/// Layers, each fed with the outputs of the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// In order of evaluation.
    pub layers: Vec<LayerSpec>,
}

impl Architecture {
    /// Most numbers that one model may have.
    const MAX_PARAMETERS: usize = 1 << 40;

    /// Checked layers.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn new(layers: impl Into<Vec<LayerSpec>>) -> Result<Self> {
        let architecture = Self { layers: layers.into() };
        architecture.validate()?;
        Ok(architecture)
    }

    /// A multilayer perceptron with biases: `[16, 32, 8]` are two layers,
    /// 16 to 32 with `hidden` and 32 to 8 with `last`.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    ///
    /// ```
    /// use inference_batched::{Activation, Architecture};
    ///
    /// let architecture = Architecture::mlp(&[16, 32, 8], Activation::Relu, Activation::None)?;
    /// assert_eq!(architecture.layers.len(), 2);
    /// assert_eq!(architecture.parameters(), 16 * 32 + 32 + 32 * 8 + 8);
    /// # Ok::<(), inference_core::Error>(())
    /// ```
    pub fn mlp(widths: &[usize], hidden: Activation, last: Activation) -> Result<Self> {
        let mut layers: Vec<_> =
            widths.windows(2).map(|pair| LayerSpec::new(pair[0], pair[1], hidden)).collect();
        if let Some(layer) = layers.last_mut() {
            layer.activation = last;
        }
        Self::new(layers)
    }

    /// Checks that there is a layer, that sizes are positive and that each
    /// layer takes what the one before gives.
    ///
    /// # Errors
    ///
    /// `InvalidInput` that names the layer and both sizes.
    pub fn validate(&self) -> Result<()> {
        if self.layers.is_empty() {
            return Err(Error::invalid_input("architecture", "at least one layer", "none"));
        }
        let mut before: Option<usize> = None;
        let mut parameters = 0usize;
        for (index, layer) in self.layers.iter().enumerate() {
            for (what, size) in [("inputs", layer.inputs), ("outputs", layer.outputs)] {
                if size == 0 {
                    let what = format!("layer {index} of the architecture: {what}");
                    return Err(Error::invalid_input(what, "at least 1", "0"));
                }
            }
            if let Some(outputs) = before
                && outputs != layer.inputs
            {
                return Err(Error::invalid_input(
                    format!("layer {index} of the architecture: inputs"),
                    format!("{outputs}, the outputs of layer {}", index - 1),
                    layer.inputs.to_string(),
                ));
            }
            if let Activation::LeakyRelu { slope } = layer.activation
                && !slope.is_finite()
            {
                return Err(Error::invalid_input(
                    format!("layer {index} of the architecture: slope of leaky_relu"),
                    "a finite number",
                    slope.to_string(),
                ));
            }
            let size = layer.inputs.checked_mul(layer.outputs);
            let size = size.and_then(|size| size.checked_add(layer.biases()));
            parameters = size
                .and_then(|size| parameters.checked_add(size))
                .filter(|sum| *sum <= Self::MAX_PARAMETERS)
                .ok_or_else(|| {
                    Error::invalid_input(
                        format!("layer {index} of the architecture: inputs and outputs"),
                        format!("at most {} numbers per model", Self::MAX_PARAMETERS),
                        format!("{} and {}", layer.inputs, layer.outputs),
                    )
                })?;
            before = Some(layer.outputs);
        }
        Ok(())
    }

    /// Length of a row of inputs; 0 without layers.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// Length of a row of outputs; 0 without layers.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Numbers of one model, weights and biases.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.weights() + layer.biases()).sum()
    }

    /// The widest row between two layers; 0 where there is one layer.
    pub(crate) fn widest_between(&self) -> usize {
        let (_, before_last) = self.layers.split_last().unwrap_or((&Self::NO_LAYER, &[]));
        before_last.iter().map(|layer| layer.outputs).max().unwrap_or(0)
    }

    const NO_LAYER: LayerSpec =
        LayerSpec { inputs: 0, outputs: 0, activation: Activation::None, bias: false };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(inputs: usize, outputs: usize) -> LayerSpec {
        LayerSpec::new(inputs, outputs, Activation::None)
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |layers: &[LayerSpec]| Architecture::new(layers).unwrap_err().to_string();
        assert!(error(&[]).contains("at least one layer"));
        let text = error(&[layer(4, 8), layer(7, 2)]);
        assert!(text.contains("layer 1") && text.contains('8') && text.contains('7'), "{text}");
        assert!(error(&[layer(4, 0)]).contains("layer 0 of the architecture: outputs"));
        assert!(error(&[layer(0, 4)]).contains("layer 0 of the architecture: inputs"));
        assert!(error(&[layer(1, 2), layer(2, usize::MAX)]).contains("layer 1"));
        let nan = LayerSpec::new(1, 1, Activation::LeakyRelu { slope: f32::NAN });
        assert!(error(&[nan]).contains("slope"));
    }

    #[test]
    fn json_is_read_as_it_is_written() {
        let leaky = Activation::LeakyRelu { slope: 0.2 };
        let architecture = Architecture::mlp(&[3, 5, 1], leaky, Activation::Silu).unwrap();
        let json = serde_json::to_string(&architecture).unwrap();
        assert!(json.contains("\"leaky_relu(0.2)\""), "{json}");
        assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        let short = r#"{"layers":[{"inputs":2,"outputs":3}]}"#;
        let short: Architecture = serde_json::from_str(short).unwrap();
        assert!(short.layers[0].bias);
        for bad in [
            r#"{"layers":[{"inputs":2,"outputs":3,"activation":"cubic"}]}"#,
            r#"{"layers":[{"inputs":2,"outputs":3,"dropout":0.1}]}"#,
        ] {
            assert!(serde_json::from_str::<Architecture>(bad).is_err());
        }
    }
}
