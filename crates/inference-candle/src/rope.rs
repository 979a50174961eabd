//! Inverse frequencies and angles of rotary embeddings.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`, computed
//! in f64 and rounded once.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};
use inference_core::{Error, Result};

use crate::{BatchView, RopeScaling, RopeSpec};

/// Cosines and sines of one step, `[tokens, rotated / 2]`, f32, scaled by the
/// embedding's attention factor.
#[derive(Clone, Debug)]
pub struct RopeAngles {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

/// A rotary embedding, ready to compute angles.
///
/// Scaling that depends on the length of the context (dynamic, longrope) goes
/// by the length of a sequence's prompt, which is the same in all its steps:
/// what a sequence computes depends neither on how its prompt is cut into
/// steps nor on other sequences.
#[derive(Clone, Debug)]
pub struct Rope {
    spec: RopeSpec,
    /// Inverse frequencies of prompts within the trained context.
    inner: Vec<f32>,
}

impl Rope {
    /// A rotary embedding.
    #[must_use]
    pub fn new(spec: RopeSpec) -> Self {
        let inner = inverse_frequencies(&spec, 0);
        Self { spec, inner }
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &RopeSpec {
        &self.spec
    }

    /// The inverse frequencies of a sequence with a prompt of this length,
    /// `[rotated / 2]`.
    #[must_use]
    pub fn frequencies(&self, prompt_len: usize) -> Vec<f32> {
        match self.spec.scaling {
            RopeScaling::Dynamic { original_context, .. }
            | RopeScaling::LongRope { original_context, .. }
                if prompt_len > original_context =>
            {
                inverse_frequencies(&self.spec, prompt_len)
            }
            _ => self.inner.clone(),
        }
    }

    /// The factor on cosines and sines.
    #[must_use]
    pub fn attention_factor(&self) -> f32 {
        match self.spec.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::LongRope { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Whether prompts of this length are beyond the trained context, where
    /// that decides on the frequencies, and by what.
    pub(crate) fn stretch(&self, prompt_len: usize) -> Stretch {
        match self.spec.scaling {
            RopeScaling::Dynamic { original_context, .. } if prompt_len > original_context => {
                Stretch::Length
            }
            RopeScaling::LongRope { original_context, .. } if prompt_len > original_context => {
                Stretch::Long
            }
            _ => Stretch::None,
        }
    }

    /// The angles of a step's tokens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn angles(&self, batch: &BatchView<'_>, device: &Device) -> Result<RopeAngles> {
        let tokens = batch.positions.len();
        let half = self.inner.len();
        let factor = self.attention_factor();
        let mut cos = Vec::with_capacity(tokens * half);
        let mut sin = Vec::with_capacity(tokens * half);
        for sequence in batch.sequences {
            let frequencies = self.frequencies(sequence.prompt_len);
            let range = sequence.start..sequence.start + sequence.len;
            for position in batch.positions.get(range).unwrap_or_default() {
                let angles = frequencies.iter().map(|frequency| *position as f32 * frequency);
                cos.extend(angles.clone().map(|angle| angle.cos() * factor));
                sin.extend(angles.map(|angle| angle.sin() * factor));
            }
        }
        let tensor = |values| {
            Tensor::from_vec(values, (tokens, half), device)
                .map_err(|e| Error::engine("rotary angles", e))
        };
        Ok(RopeAngles { cos: tensor(cos)?, sin: tensor(sin)? })
    }
}

/// How the length of a prompt decides on frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// Not at all.
    None,
    /// There is one other set, for all long prompts.
    Long,
    /// Every length has its own.
    Length,
}

/// The same number for two lengths of prompts if, and only if, all of `ropes`
/// have the same frequencies for both: 0 where no length matters.
pub(crate) fn sharing_class(ropes: &[Rope], prompt_len: usize) -> u64 {
    let stretched = |kind| ropes.iter().filter(|r| r.stretch(prompt_len) == kind).count() as u64;
    if stretched(Stretch::Length) > 0 {
        // Beyond any count of embeddings.
        return (1 << 32) + prompt_len as u64;
    }
    // Prompts that are long for as many are long for the same ones.
    stretched(Stretch::Long)
}

/// The inverse frequencies of a context of `context` tokens, `[dim / 2]`.
fn inverse_frequencies(spec: &RopeSpec, context: usize) -> Vec<f32> {
    let dim = spec.dim as f64;
    let plain =
        |theta: f64| (0..spec.dim / 2).map(move |pair| 1.0 / theta.powf(2.0 * pair as f64 / dim));
    let round = |frequency: f64| frequency as f32;
    match &spec.scaling {
        RopeScaling::None => plain(spec.theta).map(round).collect(),
        RopeScaling::Linear { factor } => plain(spec.theta).map(|f| round(f / factor)).collect(),
        RopeScaling::Dynamic { factor, original_context } => {
            let original = *original_context as f64;
            let length = (context as f64).max(original);
            let stretch = factor * length / original - (factor - 1.0);
            plain(spec.theta * stretch.powf(dim / (dim - 2.0))).map(round).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let original = *original_context as f64;
            let scale = |f: f64| {
                let wavelength = 2.0 * PI / f;
                if wavelength < original / high_freq_factor {
                    return f;
                }
                if wavelength > original / low_freq_factor {
                    return f / factor;
                }
                let smooth = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * f / factor + smooth * f
            };
            plain(spec.theta).map(|f| round(scale(f))).collect()
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, truncate, .. } => {
            // The dimension that turns this often within the trained context.
            let dimension = |rotations: f64| {
                let ratio = *original_context as f64 / (rotations * 2.0 * PI);
                dim * ratio.ln() / (2.0 * spec.theta.ln())
            };
            let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim - 1.0));
            if low == high {
                high += 0.001;
            }
            let blend = |(pair, f): (usize, f64)| {
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                round(f / factor * ramp + f * (1.0 - ramp))
            };
            plain(spec.theta).enumerate().map(blend).collect()
        }
        RopeScaling::Factors { factors } => {
            plain(spec.theta).zip(factors).map(|(f, factor)| round(f / factor)).collect()
        }
        RopeScaling::LongRope { short, long, original_context, .. } => {
            let factors = if context > *original_context { long } else { short };
            plain(spec.theta).zip(factors).map(|(f, factor)| round(f / factor)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope::new(RopeSpec { theta: 1e4, dim: 8, scaling })
    }

    fn long(original_context: usize) -> RopeScaling {
        RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![4.0; 4],
            attention_factor: 1.0,
            original_context,
        }
    }

    #[test]
    fn classes_are_equal_where_all_frequencies_are() {
        let dynamic = |original_context| RopeScaling::Dynamic { factor: 2.0, original_context };
        let models = [
            vec![rope(RopeScaling::None), rope(RopeScaling::Linear { factor: 4.0 })],
            vec![rope(long(8))],
            vec![rope(long(8)), rope(RopeScaling::None), rope(long(12))],
            vec![rope(dynamic(10))],
            vec![rope(long(5)), rope(dynamic(9))],
        ];
        for ropes in models {
            let frequencies = |len| ropes.iter().map(|r| r.frequencies(len)).collect::<Vec<_>>();
            for (a, b) in (1..20).flat_map(|a| (1..20).map(move |b| (a, b))) {
                let same = sharing_class(&ropes, a) == sharing_class(&ropes, b);
                assert_eq!(same, frequencies(a) == frequencies(b), "{a} and {b} of {ropes:?}");
            }
            assert_eq!(sharing_class(&ropes, 1), 0);
        }
    }
}
