//! What GGUF keeps of rotary embeddings in tensors.

use inference_core::{Error, Result};

use crate::config::gguf::{FREQUENCIES, LONG, SHORT};
use crate::{DecoderConfig, Rope, RopeScaling, RopeSpec};

/// The tensors of factors of a decoder's rotary embeddings.
pub(super) fn rope_tensors(config: &DecoderConfig) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let mut tensors = Vec::new();
    for rope in &config.ropes {
        match &rope.scaling {
            RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {
                tensors.push((FREQUENCIES, factors(rope)));
            }
            RopeScaling::LongRope { short, long, .. } => {
                let narrow = |factors: &[f64]| factors.iter().map(|x| *x as f32).collect();
                tensors.push((LONG, narrow(long)));
                tensors.push((SHORT, narrow(short)));
            }
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => {}
            RopeScaling::Dynamic { .. } => {
                let what = "rope_scaling.rope_type";
                let supported = "linear, llama3, yarn, longrope";
                return Err(Error::unsupported_model("config.json", what, "dynamic", supported));
            }
        }
    }
    Ok(tensors)
}

/// By how much the wavelength of each pair grows.
fn factors(rope: &RopeSpec) -> Vec<f32> {
    let plain = Rope::new(RopeSpec { scaling: RopeScaling::None, ..rope.clone() });
    let scaled = Rope::new(rope.clone());
    plain.frequencies(0).iter().zip(scaled.frequencies(0)).map(|(a, b)| a / b).collect()
}
