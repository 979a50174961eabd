//! What is evaluated: how many models of which widths.

use std::fmt;
use std::str::FromStr;

use inference_batched::{Activation, Architecture};

use crate::Result;

/// Models with ReLU between layers, biases, and nothing after the last layer.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) models: usize,
    pub(super) widths: Vec<usize>,
}

/// Weight and bias of each layer of a model.
pub(super) type Model = Vec<(Vec<f32>, Vec<f32>)>;

impl Shape {
    /// Those that goals are about.
    pub(super) fn standard() -> Result<Vec<Self>> {
        ["1000x16-32-8", "100x64-128-64", "10000x4-8-2", "1000x128-256-128"]
            .into_iter()
            .map(|text| Ok(text.parse()?))
            .collect()
    }

    pub(super) fn architecture(&self) -> Result<Architecture> {
        Ok(Architecture::mlp(&self.widths, Activation::Relu, Activation::None)?)
    }

    /// Bytes of all weights as f32.
    pub(super) fn weight_bytes(&self) -> usize {
        let numbers: usize = self.layers().map(|(inputs, outputs)| (inputs + 1) * outputs).sum();
        4 * numbers * self.models
    }

    /// Inputs and outputs of each layer.
    pub(super) fn layers(&self) -> impl Iterator<Item = (usize, usize)> {
        self.widths.windows(2).map(|pair| (pair[0], pair[1]))
    }

    pub(super) fn random_models(&self) -> Vec<Model> {
        let mut state = 1;
        (0..self.models)
            .map(|_| {
                self.layers()
                    .map(|(inputs, outputs)| {
                        let scale = (inputs as f32).sqrt().recip();
                        let weight = (0..inputs * outputs).map(|_| number(&mut state) * scale);
                        (weight.collect(), (0..outputs).map(|_| number(&mut state)).collect())
                    })
                    .collect()
            })
            .collect()
    }

    pub(super) fn random_inputs(&self) -> Vec<f32> {
        let mut state = 2;
        let width = self.widths.first().copied().unwrap_or(0);
        (0..self.models * width).map(|_| number(&mut state)).collect()
    }
}

/// From -1 to 1, by a linear congruential generator (Knuth's MMIX).
fn number(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<_> = self.widths.iter().map(ToString::to_string).collect();
        write!(f, "{}x{}", self.models, widths.join("-"))
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let refused = || format!("`{text}` is not like `1000x16-32-8`, in positive numbers");
        let (models, widths) = text.split_once('x').ok_or_else(refused)?;
        let positive = |text: &str| text.parse().ok().filter(|n| *n > 0).ok_or_else(refused);
        let widths = widths.split('-').map(positive).collect::<std::result::Result<Vec<_>, _>>()?;
        if widths.len() < 2 {
            return Err(refused());
        }
        Ok(Self { models: positive(models)?, widths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for shape in Shape::standard().unwrap() {
            assert_eq!(shape.to_string().parse::<Shape>().unwrap().widths, shape.widths);
        }
        let shape: Shape = "3x4-8-2".parse().unwrap();
        assert_eq!(shape.weight_bytes(), 3 * 4 * (5 * 8 + 9 * 2));
        for bad in ["", "3", "3x", "3x4", "0x4-2", "3x4-0", "3x4--2", "ax1-1"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
