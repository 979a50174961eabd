//! Training an adapter on a decoder that serves at the same time.
//!
//! The forward pass is the reference's step, layer by layer: each layer is a
//! graph of its own, from a leaf that holds its input to its output. Going
//! back takes the layers in reverse, so that what a layer kept is free as soon
//! as its gradients are known; with gradient checkpointing a layer keeps its
//! input only, and its graph is built again on the way back. Layers below the
//! lowest adapted one keep nothing.
//!
//! The head and the loss are computed in chunks of rows whose logits' gradient
//! is taken at once: the logits of a whole batch never exist together.

mod factors;
mod frozen;
mod maps;
mod ops;
mod pass;
mod trainable;

pub(crate) use trainable::Trainable;
