//! The optimizer.

use inference_core::OptimizerConfig;

/// One AdamW update of a parameter and its means, in place; all slices have
/// the same length.
///
/// With gradient `g` (times `clip`), rate `η`, decay `λ` and update number
/// `t` from 1 on: `p ← p·(1 − ηλ)`; `m ← β₁m + (1 − β₁)g`;
/// `v ← β₂v + (1 − β₂)g²`; `p ← p − η/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.
/// Loshchilov & Hutter, *Decoupled Weight Decay Regularization*, 2019; in the
/// order of operations of PyTorch's `torch.optim.AdamW`.
///
/// # Panics
///
/// Never; of slices of different lengths the shortest counts.
pub fn adamw(
    config: &OptimizerConfig,
    update: u64,
    clip: f64,
    gradient: &[f32],
    values: &mut [f32],
    mean: &mut [f32],
    mean_square: &mut [f32],
) {
    let OptimizerConfig { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = *config;
    let t = update as f64;
    let decay = (1.0 - learning_rate * weight_decay) as f32;
    let step = (learning_rate / (1.0 - beta1.powf(t))) as f32;
    let root = (1.0 - beta2.powf(t)).sqrt() as f32;
    let (keep1, new1) = (beta1 as f32, (1.0 - beta1) as f32);
    let (keep2, new2) = (beta2 as f32, (1.0 - beta2) as f32);
    let (clip, epsilon) = (clip as f32, epsilon as f32);
    let state = values.iter_mut().zip(mean).zip(mean_square);
    for (((value, mean), square), gradient) in state.zip(gradient) {
        let gradient = gradient * clip;
        *mean = *mean * keep1 + gradient * new1;
        *square = *square * keep2 + gradient * gradient * new2;
        *value = *value * decay - step * *mean / (square.sqrt() / root + epsilon);
    }
}

/// The factor that scales gradients of Euclidean norm `norm` down to at most
/// `max_norm`; PyTorch's `clip_grad_norm_`, its 1e-6 included.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook's formula in f64.
    fn textbook(config: &OptimizerConfig, gradients: &[f64], start: f64) -> f64 {
        let (mut p, mut m, mut v) = (start, 0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            let t = (t + 1) as i32;
            m = config.beta1 * m + (1.0 - config.beta1) * g;
            v = config.beta2 * v + (1.0 - config.beta2) * g * g;
            let mean = m / (1.0 - config.beta1.powi(t));
            let square = v / (1.0 - config.beta2.powi(t));
            p -= config.learning_rate
                * (mean / (square.sqrt() + config.epsilon) + config.weight_decay * p);
        }
        p
    }

    #[test]
    fn updates_are_the_textbooks() {
        let config = OptimizerConfig::new()
            .with_learning_rate(0.01)
            .with_weight_decay(0.1)
            .with_betas(0.8, 0.95);
        let gradients = [0.3, -0.2, 0.5, 0.01, -1.0];
        let (mut p, mut m, mut v) = ([0.7_f32], [0.0], [0.0]);
        for (t, g) in gradients.iter().enumerate() {
            adamw(&config, t as u64 + 1, 1.0, &[*g as f32], &mut p, &mut m, &mut v);
        }
        let expected = textbook(&config, &gradients, 0.7);
        assert!((f64::from(p[0]) - expected).abs() < 1e-6, "{} is not {expected}", p[0]);
    }

    #[test]
    fn only_large_gradients_are_scaled_down() {
        assert_eq!(clip_factor(5.0, None), 1.0);
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert!((clip_factor(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
    }
}
