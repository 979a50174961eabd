//! The loss: weighted cross-entropy.

use candle_core::{D, Tensor};

use crate::Result;

/// The weighted sum of the negative log-probabilities of `targets` under
/// `logits`, `[rows, vocab]`, of Candle's differentiable operations.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let weights = Tensor::new(weights, logits.device())?;
    // The maximum cancels out: it needs no gradient.
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let target = shifted.gather(&targets, 1)?.squeeze(1)?;
    let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?;
    Ok(((log_sum - target)? * weights)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn value_and_gradient() {
        let logits = Var::new(&[[1.0_f32, 2.0, 3.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &[2, 0], &[0.75, 0.25]).unwrap();
        let sum: f32 = [1.0_f32, 2.0, 3.0].iter().map(|x| x.exp()).sum();
        let expected = 0.75 * (sum.ln() - 3.0) + 0.25 * 3.0_f32.ln();
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
        // d loss / d logit = weight * (probability - is target).
        let gradient = loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert!((gradient[0][0] - 0.75 * 1.0_f32.exp() / sum).abs() < 1e-6);
        assert!((gradient[0][2] - 0.75 * (3.0_f32.exp() / sum - 1.0)).abs() < 1e-6);
        assert!((gradient[1][0] - 0.25 * (1.0 / 3.0 - 1.0)).abs() < 1e-6);
    }
}
