//! RMS norm with its weight.

use candle_core::{DType, Tensor};
use inference_core::{Error, Result};

use crate::{Ops, Weight};

/// An RMS norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// f32, of the size of the last dimension.
    weight: Tensor,
    eps: f32,
    /// The norm multiplies by `weight + 1`; only for weights under training,
    /// because for stored ones the sum is taken at load.
    unit_offset: bool,
}

impl Norm {
    /// A norm from its weight, which is stored as `w - 1` if `unit_offset`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn new<O: Ops + ?Sized>(
        ops: &O,
        weight: &Weight,
        eps: f32,
        unit_offset: bool,
    ) -> Result<Self> {
        let error = |e| Error::engine(format!("norm `{}`", weight.name()), e);
        let mut tensor = weight.to_tensor(ops.device())?.to_dtype(DType::F32).map_err(error)?;
        let stored = weight.as_tensor().is_none();
        if stored && unit_offset {
            tensor = (tensor + 1.0).map_err(error)?;
        }
        Ok(Self { weight: tensor, eps, unit_offset: unit_offset && !stored })
    }

    /// The factor on each element, `[last]`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn weight(&self) -> Result<Tensor> {
        if self.unit_offset {
            return (&self.weight + 1.0).map_err(|e| Error::engine("norm", e));
        }
        Ok(self.weight.clone())
    }

    /// Its epsilon.
    #[must_use]
    pub fn eps(&self) -> f32 {
        self.eps
    }

    /// The norm of the last dimension of `x`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine).
    pub fn forward<O: Ops + ?Sized>(&self, ops: &O, x: &Tensor) -> Result<Tensor> {
        ops.rms_norm(x, &self.weight()?, self.eps)
    }
}

/// `x`, normalised where there is a norm.
pub(crate) fn maybe<O: Ops + ?Sized>(norm: Option<&Norm>, ops: &O, x: Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(ops, &x),
        None => Ok(x),
    }
}
