//! AdamW with a schedule of the learning rate and bounded gradients.

use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};

use crate::Result;

/// Bound of the gradients' joint norm. Pascanu et al., *On the difficulty of
/// training recurrent neural networks*, 2013.
const MAX_NORM: f64 = 1.0;
/// Steps until the learning rate is at its peak.
const WARM_UP: f64 = 200.0;
/// What is left of the peak at the end.
const FLOOR: f64 = 0.02;

/// The learning rate, relative to its peak, at `step` where `progress` (from 0
/// to 1) of the training is done: a linear warm-up, then half a cosine.
/// Loshchilov & Hutter, *SGDR*, 2017.
pub(crate) fn schedule(step: usize, progress: f64) -> f64 {
    let warm_up = ((step + 1) as f64 / WARM_UP).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.clamp(0.0, 1.0)).cos());
    warm_up * (FLOOR + (1.0 - FLOOR) * cosine)
}

/// AdamW over some variables; those with one dimension do not decay.
#[derive(Debug)]
pub(crate) struct Optimizer {
    vars: Vec<Var>,
    matrices: AdamW,
    vectors: AdamW,
    peak: f64,
}

impl Optimizer {
    pub(crate) fn new(vars: Vec<Var>, peak: f64) -> Result<Self> {
        let params = |weight_decay| ParamsAdamW {
            lr: peak,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay,
        };
        let (matrices, vectors) = vars.iter().cloned().partition(|var| var.rank() > 1);
        Ok(Self {
            vars,
            matrices: AdamW::new(matrices, params(0.05))?,
            vectors: AdamW::new(vectors, params(0.0))?,
            peak,
        })
    }

    /// One step along `gradients` at `rate` of the peak learning rate.
    pub(crate) fn step(&mut self, mut gradients: GradStore, rate: f64) -> Result<()> {
        clip(&self.vars, &mut gradients, MAX_NORM)?;
        for part in [&mut self.matrices, &mut self.vectors] {
            part.set_learning_rate(self.peak * rate);
            part.step(&gradients)?;
        }
        Ok(())
    }
}

/// Scales the gradients of `vars` so that their joint norm is at most `bound`;
/// returns the norm before.
fn clip(vars: &[Var], gradients: &mut GradStore, bound: f64) -> Result<f64> {
    let mut sum = 0.0;
    for var in vars {
        if let Some(gradient) = gradients.get(var) {
            sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let norm = sum.sqrt();
    if !norm.is_finite() {
        return Err(format!("the gradient's norm is {norm}").into());
    }
    if norm > bound {
        for var in vars {
            if let Some(gradient) = gradients.remove(var) {
                gradients.insert(var, (gradient * (bound / norm))?);
            }
        }
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_rate_rises_then_falls() {
        assert!(schedule(0, 0.0) < 0.01);
        assert!(schedule(199, 0.02) > 0.99);
        assert!((schedule(1000, 0.5) - 0.51).abs() < 1e-9);
        assert!((schedule(9999, 1.0) - FLOOR).abs() < 1e-9);
    }

    #[test]
    fn clipping_bounds_the_joint_norm() {
        let device = Device::Cpu;
        let a = Var::new(&[3.0_f32, 0.0], &device).unwrap();
        let b = Var::new(&[[4.0_f32]], &device).unwrap();
        let vars = [a.clone(), b.clone()];
        // The gradient of half the sum of squares is the variable itself.
        let half: Tensor =
            ((a.sqr().unwrap().sum_all().unwrap() + b.sqr().unwrap().sum_all().unwrap()).unwrap()
                * 0.5)
                .unwrap();
        let mut gradients = half.backward().unwrap();
        let before = clip(&vars, &mut gradients, 1.0).unwrap();
        assert!((before - 5.0).abs() < 1e-5);
        let after = clip(&vars, &mut gradients, 10.0).unwrap();
        assert!((after - 1.0).abs() < 1e-5);
    }

    #[test]
    fn steps_reach_a_minimum() {
        let x = Var::new(&[[5.0_f32, -3.0]], &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new(vec![x.clone()], 0.1).unwrap();
        for step in 0..400 {
            let loss = (x.as_tensor() - 1.0).unwrap().sqr().unwrap().sum_all().unwrap();
            let progress = f64::from(step) / 400.0;
            optimizer.step(loss.backward().unwrap(), 1.0 - progress).unwrap();
        }
        for value in x.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            assert!((value - 1.0).abs() < 0.05, "{value}");
        }
    }
}
