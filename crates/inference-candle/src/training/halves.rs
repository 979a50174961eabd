//! The halves of a layer, forward and back.
//!
//! Each is the block of the same name (`AttentionBlock`, `MlpBlock`), operation
//! by operation, and keeps what its gradients are computed from.

use inference_core::{Error, Result};

use super::adapted_map::{Gradients, Low, Maps};
use super::attention::{Operands, attention, attention_backward};
use super::elementwise::{Angles, NormWeight, add_scaled, gated, gated_backward, scaled};
use super::mixture::{MixtureKept, mixture, mixture_backward};
use crate::{AttentionBlock, AttentionSpec, GatedMlp, Mlp, MlpBlock, Norm, QkNorm};
use inference_engine::StepSequence;

/// Where the tokens of a pass stand.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) sequences: &'a [StepSequence],
    /// Of each of the model's rotary embeddings.
    pub(super) angles: &'a [Angles],
}

/// What an attention half keeps.
pub(super) struct AttentionKept {
    x: Vec<f32>,
    /// What the maps read, where that is not `x`.
    normed: Option<Vec<f32>>,
    /// Queries and keys before their norms, where they have norms.
    raw: Option<[Vec<f32>; 2]>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    /// Before the norm of the output, where there is one.
    output: Option<Vec<f32>>,
    low: [Low; 4],
}

/// What an MLP half keeps.
pub(super) struct MlpKept {
    x: Vec<f32>,
    normed: Option<Vec<f32>>,
    mlp: InnerKept,
    output: Option<Vec<f32>>,
}

enum InnerKept {
    Gated(GatedKept),
    Mixture(MixtureKept),
}

/// What a gated MLP keeps, besides its input.
pub(super) struct GatedKept {
    gate: Vec<f32>,
    up: Vec<f32>,
    gated: Vec<f32>,
    low: [Low; 3],
}

/// `x`, normalised where there is a norm.
fn normed(norm: Option<&Norm>, maps: &Maps<'_>, x: &[f32]) -> Result<Option<Vec<f32>>> {
    norm.map(|norm| NormWeight::of(norm)?.forward(maps.ops, x)).transpose()
}

/// The gradient of a norm's input, where there is a norm.
fn norm_back(
    norm: Option<&Norm>,
    maps: &Maps<'_>,
    x: Option<&[f32]>,
    gradient: Vec<f32>,
) -> Result<Vec<f32>> {
    match (norm, x) {
        (Some(norm), Some(x)) => NormWeight::of(norm)?.backward(maps.ops, x, &gradient),
        (None, _) => Ok(gradient),
        (Some(_), None) => Err(Error::engine_message("a norm without its input")),
    }
}

/// The end of a half: `x + scale · norm(output)`, and `output` where it is kept.
fn finish(
    maps: &Maps<'_>,
    x: &[f32],
    norm: Option<&Norm>,
    output: Vec<f32>,
    scale: f32,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let mut sum = x.to_vec();
    match normed(norm, maps, &output)? {
        Some(normed) => {
            add_scaled(maps.ops, &mut sum, &normed, scale)?;
            Ok((sum, Some(output)))
        }
        None => {
            add_scaled(maps.ops, &mut sum, &output, scale)?;
            Ok((sum, None))
        }
    }
}

/// The norms of queries and keys, and the size of what each normalises.
fn qk_norms(block: &AttentionBlock) -> Option<[&Norm; 2]> {
    let (QkNorm::AllHeads | QkNorm::PerHead, q, k) = block.qk_norm.as_ref()?;
    Some([q, k])
}

fn angles<'a>(block: &AttentionBlock, places: &Places<'a>) -> Result<Option<&'a Angles>> {
    let Some(rope) = block.rope else { return Ok(None) };
    let angles = places.angles.get(rope);
    let missing = || Error::engine_message(format!("no angles of rotary embedding {rope}"));
    angles.ok_or_else(missing).map(Some)
}

/// The attention half of a layer.
pub(super) fn attention_half(
    maps: &Maps<'_>,
    block: &AttentionBlock,
    places: &Places<'_>,
    x: Vec<f32>,
) -> Result<(Vec<f32>, AttentionKept)> {
    let AttentionSpec { head_dim, .. } = block.spec;
    let normed_x = normed(block.input_norm.as_ref(), maps, &x)?;
    let input = normed_x.as_deref().unwrap_or(&x);
    let query = maps.forward(&block.query, input)?;
    let key = maps.forward(&block.key, input)?;
    let value = maps.forward(&block.value, input)?;
    let (mut q, mut k, v) = (query.y, key.y, value.y);
    let mut raw = None;
    if let Some([q_norm, k_norm]) = qk_norms(block) {
        // A norm goes over as many values as it has weights: a head's or all.
        let normed_q = NormWeight::of(q_norm)?.forward(maps.ops, &q)?;
        let normed_k = NormWeight::of(k_norm)?.forward(maps.ops, &k)?;
        raw = Some([std::mem::replace(&mut q, normed_q), std::mem::replace(&mut k, normed_k)]);
    }
    if let Some(angles) = angles(block, places)? {
        angles.rotate(maps.ops, &mut q, head_dim, false)?;
        angles.rotate(maps.ops, &mut k, head_dim, false)?;
    }
    let operands = Operands { q: &q, k: &k, v: &v };
    let attended = attention(maps.ops, operands, places.sequences, &block.spec)?;
    let output = maps.forward(&block.output, &attended)?;
    let norm = block.output_norm.as_ref();
    let (sum, before) = finish(maps, &x, norm, output.y, block.residual_scale)?;
    let low = [query.low, key.low, value.low, output.low];
    let kept = AttentionKept { x, normed: normed_x, raw, q, k, v, attended, output: before, low };
    Ok((sum, kept))
}

/// The gradient of an attention half's input; where it is not wanted, anything.
pub(super) fn attention_half_backward(
    maps: &Maps<'_>,
    block: &AttentionBlock,
    places: &Places<'_>,
    kept: AttentionKept,
    mut gradient: Vec<f32>,
    wanted: bool,
    gradients: &mut Gradients,
) -> Result<Vec<f32>> {
    let head_dim = block.spec.head_dim;
    let AttentionKept { x, normed, raw, q, k, v, attended, output, low } = kept;
    let [q_low, k_low, v_low, o_low] = &low;
    let of_output = scaled(&gradient, block.residual_scale);
    let of_output = norm_back(block.output_norm.as_ref(), maps, output.as_deref(), of_output)?;
    let of_attended =
        maps.backward(&block.output, &attended, o_low, &of_output, true, gradients)?;
    let operands = Operands { q: &q, k: &k, v: &v };
    let mut of =
        attention_backward(maps.ops, operands, places.sequences, &block.spec, &of_attended)?;
    if let Some(angles) = angles(block, places)? {
        angles.rotate(maps.ops, &mut of.q, head_dim, true)?;
        angles.rotate(maps.ops, &mut of.k, head_dim, true)?;
    }
    if let (Some([q_norm, k_norm]), Some([raw_q, raw_k])) = (qk_norms(block), &raw) {
        of.q = NormWeight::of(q_norm)?.backward(maps.ops, raw_q, &of.q)?;
        of.k = NormWeight::of(k_norm)?.backward(maps.ops, raw_k, &of.k)?;
    }
    let input = normed.as_deref().unwrap_or(&x);
    let mut of_input = maps.backward(&block.query, input, q_low, &of.q, wanted, gradients)?;
    for (map, low, of) in [(&block.key, k_low, &of.k), (&block.value, v_low, &of.v)] {
        let added = maps.backward(map, input, low, of, wanted, gradients)?;
        add_scaled(maps.ops, &mut of_input, &added, 1.0)?;
    }
    if wanted {
        let of_x = norm_back(block.input_norm.as_ref(), maps, Some(&x), of_input)?;
        add_scaled(maps.ops, &mut gradient, &of_x, 1.0)?;
    }
    Ok(gradient)
}

/// `down(activation(gate(x)) · up(x))`.
pub(super) fn gated_mlp(
    maps: &Maps<'_>,
    mlp: &GatedMlp,
    x: &[f32],
) -> Result<(Vec<f32>, GatedKept)> {
    let gate = maps.forward(&mlp.gate, x)?;
    let up = maps.forward(&mlp.up, x)?;
    let gated = gated(maps.ops, &gate.y, &up.y, mlp.activation)?;
    let down = maps.forward(&mlp.down, &gated)?;
    let low = [gate.low, up.low, down.low];
    Ok((down.y, GatedKept { gate: gate.y, up: up.y, gated, low }))
}

/// The gradient of a gated MLP's input `x`.
pub(super) fn gated_mlp_backward(
    maps: &Maps<'_>,
    mlp: &GatedMlp,
    x: &[f32],
    kept: GatedKept,
    gradient: &[f32],
    gradients: &mut Gradients,
) -> Result<Vec<f32>> {
    let GatedKept { gate, up, gated, low: [gate_low, up_low, down_low] } = kept;
    let mut of_up = maps.backward(&mlp.down, &gated, &down_low, gradient, true, gradients)?;
    let of_gate = gated_backward(maps.ops, &gate, &up, &mut of_up, mlp.activation)?;
    let mut of_x = maps.backward(&mlp.gate, x, &gate_low, &of_gate, true, gradients)?;
    let added = maps.backward(&mlp.up, x, &up_low, &of_up, true, gradients)?;
    add_scaled(maps.ops, &mut of_x, &added, 1.0)?;
    Ok(of_x)
}

/// The MLP half of a layer.
pub(super) fn mlp_half(
    maps: &Maps<'_>,
    block: &MlpBlock,
    x: Vec<f32>,
) -> Result<(Vec<f32>, MlpKept)> {
    let normed_x = normed(block.input_norm.as_ref(), maps, &x)?;
    let input = normed_x.as_deref().unwrap_or(&x);
    let (output, mlp) = match &block.mlp {
        Mlp::Gated(mlp) => {
            let (output, kept) = gated_mlp(maps, mlp, input)?;
            (output, InnerKept::Gated(kept))
        }
        Mlp::Moe(moe) => {
            let (output, kept) = mixture(maps, moe, input)?;
            (output, InnerKept::Mixture(kept))
        }
    };
    let norm = block.output_norm.as_ref();
    let (sum, output) = finish(maps, &x, norm, output, block.residual_scale)?;
    Ok((sum, MlpKept { x, normed: normed_x, mlp, output }))
}

/// The gradient of an MLP half's input.
pub(super) fn mlp_half_backward(
    maps: &Maps<'_>,
    block: &MlpBlock,
    kept: MlpKept,
    mut gradient: Vec<f32>,
    gradients: &mut Gradients,
) -> Result<Vec<f32>> {
    let MlpKept { x, normed, mlp, output } = kept;
    let of_output = scaled(&gradient, block.residual_scale);
    let of_output = norm_back(block.output_norm.as_ref(), maps, output.as_deref(), of_output)?;
    let input = normed.as_deref().unwrap_or(&x);
    let of_input = match (&block.mlp, mlp) {
        (Mlp::Gated(mlp), InnerKept::Gated(kept)) => {
            gated_mlp_backward(maps, mlp, input, kept, &of_output, gradients)?
        }
        (Mlp::Moe(moe), InnerKept::Mixture(kept)) => {
            mixture_backward(maps, moe, input, kept, &of_output, gradients)?
        }
        _ => return Err(Error::engine_message("another layer's MLP was kept")),
    };
    let of_x = norm_back(block.input_norm.as_ref(), maps, Some(&x), of_input)?;
    add_scaled(maps.ops, &mut gradient, &of_x, 1.0)?;
    Ok(gradient)
}
