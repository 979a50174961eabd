//! Instances of a model: shared weights, and a cache for one sequence each.

use candle_core::{Device, Result as CandleResult, Tensor};

/// One sequence of a model.
pub(super) trait Instance: Send {
    /// Takes the tokens from `position` on, which is how many it has taken;
    /// the logits after the last of them, of any shape.
    fn forward(&mut self, tokens: &[u32], position: usize) -> CandleResult<Tensor>;
}

/// A model with no tokens taken.
pub(super) trait Prototype: Send {
    /// An instance for a new sequence, which shares the weights.
    fn instance(&self) -> CandleResult<Box<dyn Instance>>;

    /// How several tokens may be taken at once.
    fn chunks(&self) -> Chunks;
}

/// How several tokens may be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// Anywhere.
    Any,
    /// At position 0 only: the mask of the model knows no earlier keys.
    First,
    /// Never.
    Never,
}

/// A model whose clones share weights and have caches of their own.
#[derive(Clone)]
pub(super) struct Cloned<M> {
    pub(super) model: M,
    pub(super) device: Device,
    pub(super) chunks: Chunks,
    /// Takes tokens `[1, tokens]` from a position on.
    pub(super) forward: fn(&mut M, &Tensor, usize) -> CandleResult<Tensor>,
}

impl<M: Clone + Send + 'static> Prototype for Cloned<M> {
    fn instance(&self) -> CandleResult<Box<dyn Instance>> {
        Ok(Box::new(self.clone()))
    }

    fn chunks(&self) -> Chunks {
        self.chunks
    }
}

impl<M: Send> Instance for Cloned<M> {
    fn forward(&mut self, tokens: &[u32], position: usize) -> CandleResult<Tensor> {
        let tokens = Tensor::new(tokens, &self.device)?.unsqueeze(0)?;
        (self.forward)(&mut self.model, &tokens, position)
    }
}

/// A model that cannot be cloned and is built again for every sequence, from
/// the same tensors.
pub(super) struct Rebuilt<F> {
    pub(super) build: F,
    pub(super) chunks: Chunks,
}

impl<F> Prototype for Rebuilt<F>
where
    F: Fn() -> CandleResult<Box<dyn Instance>> + Send,
{
    fn instance(&self) -> CandleResult<Box<dyn Instance>> {
        (self.build)()
    }

    fn chunks(&self) -> Chunks {
        self.chunks
    }
}

/// A model that is built again, with what calls it.
pub(super) struct Owned<M> {
    pub(super) model: M,
    pub(super) device: Device,
    /// Takes tokens `[1, tokens]` from a position on.
    pub(super) forward: fn(&mut M, &Tensor, usize) -> CandleResult<Tensor>,
}

impl<M: Send> Instance for Owned<M> {
    fn forward(&mut self, tokens: &[u32], position: usize) -> CandleResult<Tensor> {
        let tokens = Tensor::new(tokens, &self.device)?.unsqueeze(0)?;
        (self.forward)(&mut self.model, &tokens, position)
    }
}
