//! The MLP half of a layer: gated, or a mixture of gated experts.

use std::sync::Arc;

use candle_core::Tensor;
use inference_core::Result;

use crate::decoder_adapter::{AdaptedMap, LayerMap};
use crate::moe::{Moe, moe};
use crate::norm::maybe;
use crate::project::project;
use crate::{Activation, AdapterRows, Linear, Norm, Ops, StepContext};

/// `x + scale * norm(mlp(norm(x)))`.
#[derive(Debug)]
pub struct MlpBlock {
    /// The layer, counted from 0.
    pub layer: usize,
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
    /// The MLP of `x`, `[tokens, hidden]`, without adapters.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn forward<O: Ops + ?Sized>(&self, ops: &O, x: &Tensor) -> Result<Tensor> {
        self.forward_adapted(ops, x, 0, &[])
    }

    /// The MLP of a layer with the adapters of a step.
    fn forward_adapted<O: Ops + ?Sized>(
        &self,
        ops: &O,
        x: &Tensor,
        layer: usize,
        adapters: &[AdapterRows<'_>],
    ) -> Result<Tensor> {
        let map = |map: &Arc<dyn Linear>, kind: LayerMap, x: &Tensor| {
            project(ops, map, AdaptedMap::Layer(layer, kind), x, adapters)
        };
        let gate = map(&self.gate, LayerMap::Gate, x)?;
        let up = map(&self.up, LayerMap::Up, x)?;
        let gated = ops.gated_activation(&gate, &up, self.activation)?;
        map(&self.down, LayerMap::Down, &gated)
    }
}

/// The reference of [`Ops::mlp_block`]: the operations of `ops`, one after the
/// other.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn mlp_block<O: Ops + ?Sized>(
    ops: &O,
    block: &MlpBlock,
    x: &Tensor,
    step: &StepContext<'_>,
) -> Result<Tensor> {
    let input = maybe(block.input_norm.as_ref(), ops, x.clone())?;
    let output = match &block.mlp {
        Mlp::Gated(mlp) => mlp.forward_adapted(ops, &input, block.layer, step.batch.adapters)?,
        Mlp::Moe(mixture) => moe(ops, mixture, &input)?,
    };
    let output = maybe(block.output_norm.as_ref(), ops, output)?;
    ops.add_scaled(x, &output, block.residual_scale)
}
