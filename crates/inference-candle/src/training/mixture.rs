//! Mixtures of experts, forward and back.

use candle_core::{Device, Result as CandleResult, Tensor, Var};
use inference_core::{Error, Result};

use super::adapted_map::{Gradients, Low, Maps};
use super::halves::{GatedKept, gated_mlp, gated_mlp_backward};
use super::vectors::dot;
use crate::moe::{Moe, Routing};

/// What a mixture keeps, besides its input.
pub(super) struct MixtureKept {
    /// The router's, a leaf of the routing's weights.
    scores: Var,
    routing: Routing,
    /// `[tokens * experts per token]`.
    weights: Vec<f32>,
    low: Low,
    /// Of each expert that has tokens.
    experts: Vec<Option<ExpertKept>>,
}

/// What an expert keeps.
struct ExpertKept {
    input: Vec<f32>,
    output: Vec<f32>,
    inner: GatedKept,
}

fn error(error: candle_core::Error) -> Error {
    Error::engine("mixture of experts", error)
}

/// Rows `tokens` of `[.., width]`.
fn gather(x: &[f32], tokens: &[u32], width: usize) -> Vec<f32> {
    let row = |token: &u32| x.get(*token as usize * width..(*token as usize + 1) * width);
    tokens.iter().filter_map(row).flatten().copied().collect()
}

/// The mixture's output for `x`, `[tokens, hidden]`.
pub(super) fn mixture(maps: &Maps<'_>, moe: &Moe, x: &[f32]) -> Result<(Vec<f32>, MixtureKept)> {
    let width = moe.router.in_features();
    let scores = maps.forward(&moe.router, x)?;
    let tokens = x.len().checked_div(width).unwrap_or(0);
    let route = || -> CandleResult<(Var, Routing, Vec<f32>)> {
        let shape = (tokens, moe.router.out_features());
        let scores = Var::from_tensor(&Tensor::from_vec(scores.y, shape, &Device::Cpu)?)?;
        let routing = Routing::new(moe, scores.as_tensor())?;
        let weights = routing.weights.flatten_all()?.to_vec1()?;
        Ok((scores, routing, weights))
    };
    let (leaf, routing, weights) = route().map_err(error)?;
    let mut sum = vec![0.0; x.len()];
    let mut experts = Vec::with_capacity(moe.experts.len());
    for (expert, rows) in moe.experts.iter().zip(&routing.rows) {
        if rows.tokens.is_empty() {
            experts.push(None);
            continue;
        }
        let input = gather(x, &rows.tokens, width);
        let (output, inner) = gated_mlp(maps, expert, &input)?;
        let choices = rows.tokens.iter().zip(&rows.choices);
        for ((token, choice), row) in choices.zip(output.chunks_exact(width)) {
            let weight = weights.get(*choice as usize).copied().unwrap_or_default();
            let to = sum.iter_mut().skip(*token as usize * width);
            to.zip(row).for_each(|(sum, value)| *sum += weight * value);
        }
        experts.push(Some(ExpertKept { input, output, inner }));
    }
    Ok((sum, MixtureKept { scores: leaf, routing, weights, low: scores.low, experts }))
}

/// The gradient of a mixture's input `x`.
pub(super) fn mixture_backward(
    maps: &Maps<'_>,
    moe: &Moe,
    x: &[f32],
    kept: MixtureKept,
    gradient: &[f32],
    gradients: &mut Gradients,
) -> Result<Vec<f32>> {
    let MixtureKept { scores, routing, weights, low, experts } = kept;
    let width = moe.router.in_features();
    let mut of_x = vec![0.0; x.len()];
    let mut of_weights = vec![0.0; weights.len()];
    for ((expert, rows), kept) in moe.experts.iter().zip(&routing.rows).zip(experts) {
        let Some(ExpertKept { input, output, inner }) = kept else { continue };
        let mut of_output = gather(gradient, &rows.tokens, width);
        let each = of_output.chunks_exact_mut(width).zip(output.chunks_exact(width));
        for ((of_row, row), choice) in each.zip(&rows.choices) {
            let choice = *choice as usize;
            if let Some(of_weight) = of_weights.get_mut(choice) {
                *of_weight = dot(of_row, row);
            }
            let weight = weights.get(choice).copied().unwrap_or_default();
            of_row.iter_mut().for_each(|value| *value *= weight);
        }
        let of_input = gated_mlp_backward(maps, expert, &input, inner, &of_output, gradients)?;
        for (token, row) in rows.tokens.iter().zip(of_input.chunks_exact(width)) {
            let to = of_x.iter_mut().skip(*token as usize * width);
            to.zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
    let back = || -> CandleResult<Vec<f32>> {
        let of_weights = Tensor::from_vec(of_weights, routing.weights.shape(), &Device::Cpu)?;
        let sum = routing.weights.mul(&of_weights)?.sum_all()?;
        match sum.backward()?.get(scores.as_tensor()) {
            Some(of_scores) => of_scores.flatten_all()?.to_vec1(),
            None => candle_core::bail!("weights that do not depend on the scores"),
        }
    };
    let of_scores = back().map_err(error)?;
    let added = maps.backward(&moe.router, x, &low, &of_scores, true, gradients)?;
    of_x.iter_mut().zip(added).for_each(|(sum, value)| *sum += value);
    Ok(of_x)
}
