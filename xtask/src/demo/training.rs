//! The training loop.

use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use tokenizers::Tokenizer;

use super::architecture::{CONTEXT, initial_weights};
use super::corpus::Corpus;
use super::loss::cross_entropy;
use super::network::Network;
use super::optimizer::{Optimizer, schedule};
use super::packing::{Batch, Packer};
use crate::Result;

/// Parts of a step, each on a thread of its own. A constant, so that the result
/// does not depend on the machine.
const PARTS: usize = 2;
/// Tokens of one part of a step.
const PART_TOKENS: usize = 512;
/// Length of most sequences; longer documents and later positions are learned
/// from every sixteenth step, whose sequences are as long as the context.
const SHORT: usize = 128;
/// The highest learning rate.
const PEAK_RATE: f64 = 3e-3;

/// How long to train.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Steps, at most.
    pub(crate) steps: usize,
    /// Wall time, at most.
    pub(crate) time: Option<Duration>,
    pub(crate) seed: u64,
}

/// A network under training.
pub(crate) struct Training<'a> {
    weights: Vec<(String, Var)>,
    optimizer: Optimizer,
    packer: Packer<'a>,
    budget: Budget,
    started: Instant,
    step: usize,
    /// Tokens seen.
    tokens: usize,
}

impl<'a> Training<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, budget: Budget) -> Result<Self> {
        let weights = initial_weights(budget.seed)?;
        let vars = weights.iter().map(|(_, var)| var.clone()).collect();
        Ok(Self {
            optimizer: Optimizer::new(vars, PEAK_RATE)?,
            packer: Packer::new(Corpus::new(budget.seed), tokenizer),
            weights,
            budget,
            started: Instant::now(),
            step: 0,
            tokens: 0,
        })
    }

    /// How much of the budget is used, 0 to 1.
    pub(crate) fn progress(&self) -> f64 {
        let steps = self.step as f64 / self.budget.steps.max(1) as f64;
        let time = self.budget.time.map_or(0.0, |budget| {
            self.started.elapsed().as_secs_f64() / budget.as_secs_f64().max(1e-9)
        });
        steps.max(time)
    }

    /// Whether the budget is used up.
    pub(crate) fn is_over(&self) -> bool {
        self.progress() >= 1.0
    }

    pub(crate) fn step_count(&self) -> usize {
        self.step
    }

    pub(crate) fn token_count(&self) -> usize {
        self.tokens
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The weights as they are now.
    pub(crate) fn weights(&self) -> Vec<(String, Tensor)> {
        self.weights.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// One step; returns its loss.
    pub(crate) fn step(&mut self) -> Result<f32> {
        let len = if self.step % 16 == 15 { CONTEXT } else { SHORT };
        let parts = (0..PARTS)
            .map(|_| self.packer.batch(PART_TOKENS / len, len))
            .collect::<Result<Vec<_>>>()?;
        let total = parts.iter().flat_map(|part| &part.weights).sum::<f32>();
        let network = Network::new(&self.weights())?;
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                parts.iter().map(|part| scope.spawn(|| gradients(&network, part, total))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let mut loss = 0.0;
        let mut sum: Option<GradStore> = None;
        for result in results {
            let (part_loss, gradients) = result.map_err(|_| "a training thread panicked")??;
            loss += part_loss;
            match &mut sum {
                None => sum = Some(gradients),
                Some(sum) => self.add(sum, &gradients)?,
            }
        }
        let gradients = sum.ok_or("a step has at least one part")?;
        if !loss.is_finite() {
            return Err(format!("step {}: the loss is {loss}", self.step).into());
        }
        let rate = schedule(self.step, self.progress());
        self.optimizer.step(gradients, rate)?;
        self.step += 1;
        self.tokens += parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        Ok(loss)
    }

    /// Adds `part` to `sum`, for the variables under training.
    fn add(&self, sum: &mut GradStore, part: &GradStore) -> Result<()> {
        for (_, var) in &self.weights {
            if let Some(gradient) = part.get(var) {
                let gradient = match sum.get(var) {
                    Some(other) => (other + gradient)?,
                    None => gradient.clone(),
                };
                sum.insert(var, gradient);
            }
        }
        Ok(())
    }
}

/// A part's share of the step's loss, whose weights sum to `total`, and its
/// gradients.
fn gradients(network: &Network, part: &Batch, total: f32) -> Result<(f32, GradStore)> {
    let weights: Vec<f32> = part.weights.iter().map(|weight| weight / total).collect();
    let logits = network.logits(&part.tokens, part.len, &part.rows)?;
    let loss = cross_entropy(&logits, &part.targets, &weights)?;
    Ok((loss.to_scalar::<f32>()?, loss.backward()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tokenizer::train;

    fn losses(tokenizer: &Tokenizer, steps: usize) -> Vec<f32> {
        let budget = Budget { steps, time: None, seed: 1 };
        let mut training = Training::new(tokenizer, budget).unwrap();
        let mut losses = Vec::new();
        while !training.is_over() {
            losses.push(training.step().unwrap());
        }
        losses
    }

    #[test]
    fn the_loss_falls_and_a_seed_repeats_it() {
        let tokenizer = train(1).unwrap();
        let one = losses(&tokenizer, 8);
        let two = losses(&tokenizer, 8);
        assert_eq!(one, two);
        // At first every token is about as likely: ln 1024.
        assert!((one[0] - 1024.0_f32.ln()).abs() < 0.1, "{one:?}");
        assert!(one[7] < one[0] - 0.1, "{one:?}");
    }
}
