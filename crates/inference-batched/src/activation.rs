//! What follows a layer's affine map.

use std::fmt;
use std::str::FromStr;

use inference_core::{Error, Result};

/// A function applied to every output of a layer.
///
/// Its text form, [`Display`](fmt::Display) and [`FromStr`], is the name in snake case;
/// a leaky ReLU has its slope in parentheses: `leaky_relu(0.01)`.
///
/// NaN gives NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x` where it is not negative, else `slope * x`.
    LeakyRelu {
        /// The factor of negative values; finite.
        slope: f32,
    },
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * Φ(x)`, with the error function (Hendrycks and Gimpel,
    /// *Gaussian Error Linear Units*, 2016).
    Gelu,
    /// [`Gelu`](Self::Gelu) by its approximation
    /// `x / 2 * (1 + tanh(sqrt(2 / π) * (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The slope of a leaky ReLU that names none.
    pub const DEFAULT_SLOPE: f32 = 0.01;

    /// What [`FromStr`] takes.
    pub(crate) const NAMES: &str =
        "none, relu, leaky_relu(SLOPE), tanh, sigmoid, gelu, gelu_tanh or silu";
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Relu => "relu",
            Self::LeakyRelu { slope } => return write!(f, "leaky_relu({slope})"),
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
        })
    }
}

impl FromStr for Activation {
    type Err = Error;

    /// # Errors
    ///
    /// `InvalidInput` that lists the names.
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::None,
            "relu" => Self::Relu,
            "leaky_relu" => Self::LeakyRelu { slope: Self::DEFAULT_SLOPE },
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "gelu" => Self::Gelu,
            "gelu_tanh" => Self::GeluTanh,
            "silu" => Self::Silu,
            _ => {
                let slope = text
                    .strip_prefix("leaky_relu(")
                    .and_then(|rest| rest.strip_suffix(')')?.parse::<f32>().ok())
                    .filter(|slope| slope.is_finite());
                let Some(slope) = slope else {
                    return Err(Error::invalid_input("activation", Self::NAMES, text));
                };
                Self::LeakyRelu { slope }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let all = [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu { slope: 0.123_456_7 },
            Activation::Tanh,
            Activation::Sigmoid,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
        ];
        for activation in all {
            assert_eq!(activation.to_string().parse::<Activation>().unwrap(), activation);
        }
        let leaky: Activation = "leaky_relu".parse().unwrap();
        assert_eq!(leaky, Activation::LeakyRelu { slope: 0.01 });
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        for bad in ["", "Relu", "leaky_relu()", "leaky_relu(nan)", "leaky_relu(0.1"] {
            let error = bad.parse::<Activation>().unwrap_err().to_string();
            assert!(error.contains("gelu_tanh") && error.contains(bad), "{error}");
        }
    }
}
