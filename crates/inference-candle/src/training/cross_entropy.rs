//! The loss of logits.

use inference_core::Result;

use super::shared_work::share;
use super::vectors::{exp, greatest};
use crate::Ops;

/// What happens to the head's outputs before the softmax.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogitSpec {
    /// A factor on them.
    pub(super) scale: f32,
    /// `cap · tanh(logit / cap)`, after that, where set.
    pub(super) softcap: Option<f32>,
}

/// `-log softmax(logits)[target]` of each row of `outputs`, `[rows, vocab]`, the
/// head's; with `weight`, the gradient of `weight` times their sum takes the
/// place of the outputs.
pub(super) fn cross_entropy(
    ops: &dyn Ops,
    outputs: &mut [f32],
    targets: &[u32],
    spec: LogitSpec,
    weight: Option<f32>,
) -> Result<Vec<f64>> {
    let vocab = outputs.len().checked_div(targets.len()).unwrap_or(0).max(1);
    let mut losses = vec![0.0; targets.len()];
    let work = 32 * outputs.len();
    let parts = outputs.chunks_exact_mut(vocab).zip(targets).zip(&mut losses);
    share(ops, parts, work, |((row, target), loss)| {
        *loss = row_loss(row, *target as usize, spec, weight);
        Ok(())
    })?;
    Ok(losses)
}

fn row_loss(row: &mut [f32], target: usize, spec: LogitSpec, weight: Option<f32>) -> f64 {
    let LogitSpec { scale, softcap } = spec;
    if scale != 1.0 {
        row.iter_mut().for_each(|x| *x *= scale);
    }
    if let Some(cap) = softcap {
        row.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    }
    let max = greatest(row);
    let chosen = f64::from(row.get(target).copied().unwrap_or(f32::NAN)) - f64::from(max);
    let mut sum = 0.0_f64;
    for part in row.chunks(256) {
        let mut lanes = [0.0_f32; 8];
        let (chunks, rest) = part.as_chunks::<8>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += exp(x - max));
        }
        let rest: f32 = rest.iter().map(|x| exp(x - max)).sum();
        sum += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    if let Some(weight) = weight {
        let each = (f64::from(weight) / sum) as f32;
        // d(cap · tanh(x / cap)) / dx = 1 - tanh²(x / cap).
        let slope = |capped: f32| match softcap {
            Some(cap) => scale * (1.0 - (capped / cap) * (capped / cap)),
            None => scale,
        };
        let of_target = row.get(target).map(|capped| weight * slope(*capped));
        if softcap.is_some() || scale != 1.0 {
            row.iter_mut().for_each(|x| *x = each * exp(*x - max) * slope(*x));
        } else {
            row.iter_mut().for_each(|x| *x = each * exp(*x - max));
        }
        if let (Some(x), Some(of_target)) = (row.get_mut(target), of_target) {
            *x -= of_target;
        }
    }
    sum.ln() - chosen
}
