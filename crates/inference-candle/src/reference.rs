//! The reference implementation of every operation, in plain Candle.
//!
//! Each function is the default of the method of [`Ops`] that bears its name,
//! the oracle that a backend's kernels are tested against, and what training
//! runs through: without a cache, everything can be differentiated with
//! respect to activations and to weights made by [`Weight::from_tensor`].
//! Weights stay in their stored type; f16 and bf16 are widened, and quantized
//! ones decoded, block by block while they are used. Unless precision is to be
//! exact, ggml's blocks go through Candle's own kernels where it has them.

mod attention;
mod decoded;
mod kv_cache;
mod kv_plane;
mod linear;
mod products;
mod quantized_linear;

use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use inference_core::{Error, Precision, Result};

pub use crate::attention_block::attention_block;
pub use crate::decoder::step;
pub use crate::mlp_block::mlp_block;
pub use attention::attention;
pub(crate) use attention::softmax;
pub use decoded::{forward_exact, input_gradient};
pub use kv_cache::{ReferenceKvCache, kv_cache};
pub use linear::{DenseLinear, linear};
pub use products::{for_each, multiply};

use crate::{Activation, Ops, Weight};

/// The operations of any Candle device, all of them the reference.
#[derive(Clone, Debug)]
pub struct ReferenceOps {
    device: Device,
    precision: Precision,
}

impl ReferenceOps {
    /// The operations of `device`.
    #[must_use]
    pub fn new(device: Device) -> Self {
        Self { device, precision: Precision::Fast }
    }

    /// Sets how products with quantized weights are computed.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The operations of the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(Device::Cpu)
    }
}

impl Ops for ReferenceOps {
    fn device(&self) -> &Device {
        &self.device
    }

    fn precision(&self) -> Precision {
        self.precision
    }
}

/// Turns a Candle error into the contract's, with what was being computed.
pub(crate) fn context(what: &'static str) -> impl FnOnce(candle_core::Error) -> Error {
    move |error| Error::engine(what, error)
}

/// Rows `ids` of `table` (`[vocab, hidden]`) as f32 `[tokens, hidden]`.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the device
/// fails or an id is out of range.
pub fn embedding(device: &Device, table: &Weight, ids: &[u32]) -> Result<Tensor> {
    let &[vocab, hidden] = table.shape() else {
        return Err(Error::engine_message(format!("{table:?} is not an embedding table")));
    };
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        return Err(Error::engine_message(format!("token id {id} in a vocabulary of {vocab}")));
    }
    if let Some(table) = table.as_tensor() {
        let gather = || -> CandleResult<Tensor> {
            table.index_select(&Tensor::new(ids, device)?, 0)?.to_dtype(DType::F32)
        };
        return gather().map_err(context("embedding"));
    }
    // Only the rows in use leave the file.
    let mut rows = vec![0.0; ids.len() * hidden];
    for (id, row) in ids.iter().zip(rows.chunks_exact_mut(hidden.max(1))) {
        table.decode_rows(*id as usize, row)?;
    }
    Tensor::from_vec(rows, (ids.len(), hidden), device).map_err(context("embedding"))
}

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension. Zhang &
/// Sennrich, *Root Mean Square Layer Normalization*, 2019.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let compute = || -> CandleResult<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean + f64::from(eps))?.sqrt()?.recip()?;
        x.broadcast_mul(&scale)?.broadcast_mul(weight)
    };
    compute().map_err(context("rms_norm"))
}

/// Rotates the pairs `(i, i + rot/2)` of the first `rot` elements of each head
/// of `x`, `[tokens, heads, head_dim]`, by the angles whose cosines and sines
/// are `[tokens, rot/2]`. Su et al., *RoFormer*, 2021.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let compute = || -> CandleResult<Tensor> {
        let (_, _, head_dim) = x.dims3()?;
        let half = cos.dim(D::Minus1)?;
        let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
        let a = x.narrow(2, 0, half)?;
        let b = x.narrow(2, half, half)?;
        let rotated_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let rotated_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        if 2 * half == head_dim {
            return Tensor::cat(&[rotated_a, rotated_b], 2);
        }
        let rest = x.narrow(2, 2 * half, head_dim - 2 * half)?;
        Tensor::cat(&[rotated_a, rotated_b, rest], 2)
    };
    compute().map_err(context("rope"))
}

/// `activation(x)`, elementwise.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::Relu => x.relu(),
    }
    .map_err(context("activation"))
}

/// `activation(gate) * up`, elementwise.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn gated_activation(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    activate(gate, activation)?.mul(up).map_err(context("gated_activation"))
}

/// `x + y * scale`, elementwise.
///
/// # Errors
///
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
pub fn add_scaled(x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
    let compute = || {
        if scale == 1.0 {
            return x.add(y);
        }
        x.add(&y.affine(f64::from(scale), 0.0)?)
    };
    compute().map_err(context("add_scaled"))
}
