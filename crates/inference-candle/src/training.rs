//! Training an adapter on a decoder that serves at the same time.
//!
//! The forward pass is the decoder's step, half a layer at a time, over plain
//! slices; each half keeps what its gradients are computed from, and knows how
//! to go back. Going back takes the layers in reverse, so that what a layer kept
//! is free as soon as its gradients are known; with gradient checkpointing a
//! layer keeps its input only, and is computed again on the way back. Layers
//! below the lowest adapted one keep nothing.
//!
//! Work is shared among the threads of the decoder's operations, in parts that
//! do not depend on how many there are: results are the same bits.
//!
//! The head and the loss are computed in chunks of rows whose logits' gradient
//! is taken at once: the logits of a whole batch never exist together.

mod adapted_map;
mod attention;
mod cross_entropy;
mod elementwise;
mod factors;
mod halves;
mod maps;
mod mixture;
mod pass;
mod shared_work;
#[cfg(test)]
mod tests;
mod trainable;
mod vectors;

pub(crate) use trainable::Trainable;
