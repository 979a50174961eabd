//! Norms, rotary embeddings, gates and sums over rows, forward and back.

use candle_core::cpu::erf::erf_f32;
use inference_core::{Error, Result};

use super::shared_work::{ELEMENTS, ROWS, share};
use super::vectors::{dot, exp};
use crate::{Activation, Norm, Ops, RopeAngles};

/// What an exponential costs, in multiply-adds.
const EXP: usize = 16;

/// An RMS norm's factors.
pub(super) struct NormWeight {
    weight: Vec<f32>,
    eps: f32,
}

impl NormWeight {
    pub(super) fn of(norm: &Norm) -> Result<Self> {
        let weight = norm.weight()?.flatten_all().and_then(|weight| weight.to_vec1());
        let weight = weight.map_err(|e| Error::engine("a norm's weight", e))?;
        Ok(Self { weight, eps: norm.eps() })
    }

    /// `1 / sqrt(mean(x²) + eps)`.
    fn scale(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }

    /// `x · scale(x) · weight`, row by row.
    pub(super) fn forward(&self, ops: &dyn Ops, x: &[f32]) -> Result<Vec<f32>> {
        let width = self.weight.len().max(1);
        let mut out = vec![0.0; x.len()];
        let parts = out.chunks_mut(ROWS * width).zip(x.chunks(ROWS * width));
        share(ops, parts, 4 * x.len(), |(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = self.scale(x);
                for ((out, x), weight) in out.iter_mut().zip(x).zip(&self.weight) {
                    *out = x * scale * weight;
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// The gradient of `x` from that of the result: with `h = g · weight`,
    /// `scale · h - x · scale³ · mean(h · x)`.
    pub(super) fn backward(&self, ops: &dyn Ops, x: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let width = self.weight.len().max(1);
        let mut out = vec![0.0; x.len()];
        let parts = out
            .chunks_mut(ROWS * width)
            .zip(x.chunks(ROWS * width))
            .zip(gradient.chunks(ROWS * width));
        share(ops, parts, 8 * x.len(), |((out, x), gradient)| {
            let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((out, x), gradient) in rows.zip(gradient.chunks_exact(width)) {
                let scale = self.scale(x);
                for ((out, g), weight) in out.iter_mut().zip(gradient).zip(&self.weight) {
                    *out = g * weight;
                }
                let along = dot(out, x) / width as f32 * scale * scale * scale;
                for (out, x) in out.iter_mut().zip(x) {
                    *out = *out * scale - x * along;
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// The angles of a step, on the host.
pub(super) struct Angles {
    /// `[tokens, half]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Angles {
    pub(super) fn of(angles: &RopeAngles) -> Result<Self> {
        let read = || -> candle_core::Result<Self> {
            let half = angles.cos.dim(1)?;
            let flat = |tensor: &candle_core::Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            Ok(Self { cos: flat(&angles.cos)?, sin: flat(&angles.sin)?, half })
        };
        read().map_err(|e| Error::engine("rotary angles", e))
    }

    /// Turns the heads of `x`, `[tokens, heads, head_dim]`; or, `back`, turns
    /// them back: for a gradient.
    pub(super) fn rotate(
        &self,
        ops: &dyn Ops,
        x: &mut [f32],
        head_dim: usize,
        back: bool,
    ) -> Result<()> {
        let half = self.half;
        let tokens = self.cos.len().checked_div(half).unwrap_or(0);
        let width = x.len().checked_div(tokens).unwrap_or(0);
        if width == 0 || head_dim == 0 {
            return Ok(());
        }
        let sign = if back { -1.0 } else { 1.0 };
        let work = 4 * x.len();
        let angles = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        let parts = x.chunks_mut(width).zip(angles);
        share(ops, parts, work, |(x, (cos, sin))| {
            for head in x.chunks_exact_mut(head_dim) {
                let Some((a, b)) = head.get_mut(..2 * half).map(|head| head.split_at_mut(half))
                else {
                    return Err(Error::engine_message("angles of more than a head"));
                };
                for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    let (x, y, sin) = (*a, *b, sign * sin);
                    *a = x * cos - y * sin;
                    *b = y * cos + x * sin;
                }
            }
            Ok(())
        })
    }
}

/// `activation(x)` and its derivative.
#[inline(always)]
fn activated(x: f32, activation: Activation) -> (f32, f32) {
    let sigmoid = |x: f32| 1.0 / (1.0 + exp(-x));
    match activation {
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 = sigmoid(2u); the factor is 2 · sqrt(2 / π).
            const FACTOR: f32 = 1.595_769;
            let s = sigmoid(FACTOR * (x + 0.044_715 * x * x * x));
            let inner = FACTOR * (1.0 + 3.0 * 0.044_715 * x * x);
            (x * s, s + x * s * (1.0 - s) * inner)
        }
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2));
            // The density at 0 is 1 / sqrt(2π).
            let density = 0.398_942_3 * exp(-0.5 * x * x);
            (x * cdf, cdf + x * density)
        }
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
    }
}

/// Calls a function with the activation as a constant, so that its loop is
/// compiled for each.
macro_rules! with_constant {
    ($activation:expr, $name:ident => $then:expr) => {
        match $activation {
            Activation::Silu => {
                const $name: Activation = Activation::Silu;
                $then
            }
            Activation::GeluTanh => {
                const $name: Activation = Activation::GeluTanh;
                $then
            }
            Activation::Gelu => {
                const $name: Activation = Activation::Gelu;
                $then
            }
            Activation::Relu => {
                const $name: Activation = Activation::Relu;
                $then
            }
        }
    };
}

/// `activation(gate) · up`.
pub(super) fn gated(
    ops: &dyn Ops,
    gate: &[f32],
    up: &[f32],
    activation: Activation,
) -> Result<Vec<f32>> {
    let mut out = vec![0.0; gate.len()];
    let parts = out.chunks_mut(ELEMENTS).zip(gate.chunks(ELEMENTS)).zip(up.chunks(ELEMENTS));
    share(ops, parts, EXP * gate.len(), |((out, gate), up)| {
        with_constant!(activation, KIND => for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = activated(*gate, KIND).0 * up;
        });
        Ok(())
    })?;
    Ok(out)
}

/// The gradients of gate and up from that of the result, which takes the place
/// of the latter.
pub(super) fn gated_backward(
    ops: &dyn Ops,
    gate: &[f32],
    up: &[f32],
    gradient: &mut [f32],
    activation: Activation,
) -> Result<Vec<f32>> {
    let mut of_gate = vec![0.0; gate.len()];
    let parts = of_gate
        .chunks_mut(ELEMENTS)
        .zip(gradient.chunks_mut(ELEMENTS))
        .zip(gate.chunks(ELEMENTS))
        .zip(up.chunks(ELEMENTS));
    share(ops, parts, EXP * gate.len(), |(((of_gate, gradient), gate), up)| {
        let inputs = gate.iter().zip(up);
        let outputs = of_gate.iter_mut().zip(gradient);
        with_constant!(activation, KIND => for ((of_gate, gradient), (gate, up)) in outputs.zip(inputs) {
            let (value, slope) = activated(*gate, KIND);
            *of_gate = *gradient * up * slope;
            *gradient *= value;
        });
        Ok(())
    })?;
    Ok(of_gate)
}

/// `x += scale · y`.
pub(super) fn add_scaled(ops: &dyn Ops, x: &mut [f32], y: &[f32], scale: f32) -> Result<()> {
    let work = x.len();
    let parts = x.chunks_mut(ELEMENTS).zip(y.chunks(ELEMENTS));
    share(ops, parts, work, |(x, y)| {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
        Ok(())
    })
}

/// `scale · x`.
pub(super) fn scaled(x: &[f32], scale: f32) -> Vec<f32> {
    x.iter().map(|x| scale * x).collect()
}
