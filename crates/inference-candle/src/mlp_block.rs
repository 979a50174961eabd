//! The MLP half of a layer: gated, or a mixture of gated experts.

use std::sync::Arc;

use candle_core::Tensor;
use inference_core::Result;

use crate::moe::{Moe, moe};
use crate::norm::maybe;
use crate::{Activation, Linear, Norm, Ops};

/// `x + scale * norm(mlp(norm(x)))`.
#[derive(Debug)]
pub struct MlpBlock {
    /// The norm before.
    pub input_norm: Option<Norm>,
    /// The norm after, inside the residual branch.
    pub output_norm: Option<Norm>,
    /// The MLP itself.
    pub mlp: Mlp,
    /// Factor on what the block adds.
    pub residual_scale: f32,
}

/// The MLP of a layer.
#[derive(Debug)]
pub enum Mlp {
    /// One gated MLP.
    Gated(GatedMlp),
    /// A mixture of experts.
    Moe(Moe),
}

/// `down(activation(gate(x)) * up(x))`. Shazeer, *GLU Variants Improve
/// Transformer*, 2020.
#[derive(Debug)]
pub struct GatedMlp {
    /// Hidden to intermediate, activated.
    pub gate: Arc<dyn Linear>,
    /// Hidden to intermediate.
    pub up: Arc<dyn Linear>,
    /// Intermediate to hidden.
    pub down: Arc<dyn Linear>,
    /// The gate's activation.
    pub activation: Activation,
}

impl GatedMlp {
    /// The MLP of `x`, `[tokens, hidden]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn forward<O: Ops + ?Sized>(&self, ops: &O, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (ops.apply(&self.gate, x)?, ops.apply(&self.up, x)?);
        ops.apply(&self.down, &ops.gated_activation(&gate, &up, self.activation)?)
    }
}

/// The reference of [`Ops::mlp_block`]: the operations of `ops`, one after the
/// other.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn mlp_block<O: Ops + ?Sized>(ops: &O, block: &MlpBlock, x: &Tensor) -> Result<Tensor> {
    let input = maybe(block.input_norm.as_ref(), ops, x.clone())?;
    let output = match &block.mlp {
        Mlp::Gated(mlp) => mlp.forward(ops, &input)?,
        Mlp::Moe(mixture) => moe(ops, mixture, &input)?,
    };
    let output = maybe(block.output_norm.as_ref(), ops, output)?;
    ops.add_scaled(x, &output, block.residual_scale)
}
