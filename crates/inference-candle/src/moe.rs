//! Mixtures of experts.

use std::cmp::Ordering;
use std::sync::Arc;

use candle_core::{D, Result as CandleResult, Tensor};
use inference_core::{Error, Result};

use crate::reference::softmax;
use crate::{GatedMlp, Linear, Ops};

/// A router and its experts. Jiang et al., *Mixtral of Experts*, 2024.
#[derive(Debug)]
pub struct Moe {
    /// Hidden to one score per expert.
    pub router: Arc<dyn Linear>,
    /// The experts.
    pub experts: Vec<GatedMlp>,
    /// Experts that each token goes to; at most all.
    pub experts_per_token: usize,
    /// The weights of a token's experts sum to 1.
    pub normalize: bool,
}

/// The mixture's output for `x`, `[tokens, hidden]`.
///
/// A token's experts are the `experts_per_token` most probable ones, the lower
/// index first where two are equal. Tokens are gathered per expert; each
/// token's sum is taken in the order of expert indices, so that it does not
/// depend on the other tokens.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub(crate) fn moe<O: Ops + ?Sized>(ops: &O, moe: &Moe, x: &Tensor) -> Result<Tensor> {
    let error = |e| Error::engine("mixture of experts", e);
    let routing = Routing::new(moe, &ops.apply(&moe.router, x)?).map_err(error)?;
    let mut sum = x.zeros_like().map_err(error)?;
    for (expert, rows) in moe.experts.iter().zip(&routing.rows) {
        if rows.tokens.is_empty() {
            continue;
        }
        let tokens = Tensor::new(rows.tokens.as_slice(), x.device()).map_err(error)?;
        let input = x.index_select(&tokens, 0).map_err(error)?;
        let output = expert.forward(ops, &input)?;
        let add = || -> CandleResult<Tensor> {
            let choices = Tensor::new(rows.choices.as_slice(), x.device())?;
            let weights = routing.weights.index_select(&choices, 0)?;
            sum.index_add(&tokens, &output.broadcast_mul(&weights)?, 0)
        };
        sum = add().map_err(error)?;
    }
    Ok(sum)
}

impl Moe {
    /// Which tokens of `x`, `[tokens, hidden]`, go to which experts: the
    /// `experts_per_token` most probable ones, the lower index first where two
    /// are equal.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn route(&self, x: &Tensor) -> Result<Routing> {
        let scores = self.router.forward(x)?;
        Routing::new(self, &scores).map_err(|e| Error::engine("mixture of experts", e))
    }
}

/// Which token goes where, and with what weight.
#[derive(Debug)]
pub struct Routing {
    /// The tokens of each expert.
    pub rows: Vec<ExpertRows>,
    /// `[tokens * experts_per_token, 1]`, differentiable.
    pub weights: Tensor,
}

/// The tokens of one expert, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpertRows {
    /// Their indices in the step.
    pub tokens: Vec<u32>,
    /// Their rows in [`Routing::weights`].
    pub choices: Vec<u32>,
}

impl Routing {
    /// From the router's scores, `[tokens, experts]`.
    pub(crate) fn new(moe: &Moe, scores: &Tensor) -> CandleResult<Self> {
        let (tokens, experts) = scores.dims2()?;
        let probabilities = softmax(scores)?;
        let mut rows = vec![ExpertRows::default(); experts];
        let mut chosen = Vec::with_capacity(tokens * moe.experts_per_token);
        for (token, row) in probabilities.detach().to_vec2::<f32>()?.iter().enumerate() {
            for expert in most_probable(row, moe.experts_per_token) {
                if let Some(rows) = rows.get_mut(expert) {
                    rows.tokens.push(token as u32);
                    rows.choices.push(chosen.len() as u32);
                }
                chosen.push((token * experts + expert) as u32);
            }
        }
        let chosen = Tensor::new(chosen.as_slice(), scores.device())?;
        let mut weights = probabilities.flatten_all()?.index_select(&chosen, 0)?;
        if moe.normalize {
            let each = weights.reshape((tokens, moe.experts_per_token))?;
            weights = each.broadcast_div(&each.sum_keepdim(D::Minus1)?)?;
        }
        Ok(Self { rows, weights: weights.reshape(((), 1))? })
    }
}

/// The indices of the `count` largest values; of equal ones the lower.
fn most_probable(row: &[f32], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..row.len()).collect();
    let descending = |a: &usize, b: &usize| match (row.get(*a), row.get(*b)) {
        (Some(a), Some(b)) => b.total_cmp(a),
        _ => Ordering::Equal,
    };
    indices.sort_by(descending);
    indices.truncate(count);
    indices
}
