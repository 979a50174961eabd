//! The operations that training runs on.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};
use inference_core::{Error, Result};
use inference_lora::Draws;

use super::factors::{Factors, MapPart};
use super::frozen::frozen;
use crate::{Linear, Ops};

/// The reference operations, with frozen maps and the adapter that is trained.
pub(super) struct TrainingOps<'a> {
    pub(super) factors: &'a Factors,
    pub(super) device: Device,
    /// Where dropout draws from; `None`: no dropout.
    pub(super) dropout: Option<Draws>,
}

impl fmt::Debug for TrainingOps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainingOps").field("dropout", &self.dropout).finish_non_exhaustive()
    }
}

impl TrainingOps<'_> {
    /// `scaling · dropout(x) · Aᵀ · Bᵀ`, for the rows of `B` that the map has.
    fn delta(&self, part: MapPart, x: &Tensor) -> Result<Option<Tensor>> {
        let Some((a, b)) = self.factors.of(part.module) else { return Ok(None) };
        let compute = || -> CandleResult<Tensor> {
            let x = self.dropped(part.module, x)?;
            let low = x.matmul(&a.variable.as_tensor().t()?)?;
            let low = low.affine(f64::from(self.factors.config.scaling()), 0.0)?;
            let mut b = b.variable.as_tensor().clone();
            if part.rows != b.dim(0)? {
                b = b.narrow(0, part.first, part.rows)?;
            }
            low.matmul(&b.t()?)
        };
        compute().map(Some).map_err(|e| Error::engine("the adapter", e))
    }

    /// Dropout on a module's input: the same mask whenever the pass is
    /// computed, so that it can be computed again.
    fn dropped(&self, module: usize, x: &Tensor) -> CandleResult<Tensor> {
        let p = self.factors.config.dropout;
        let Some(draws) = self.dropout.filter(|_| p > 0.0) else { return Ok(x.clone()) };
        let draws = draws.stream(module as u64);
        let keep = 1.0 / (1.0 - p);
        let mask = (0..x.elem_count() as u64)
            .map(|index| if draws.uniform(index) < p { 0.0 } else { keep })
            .collect::<Vec<f32>>();
        x.mul(&Tensor::from_vec(mask, x.shape(), x.device())?)
    }
}

impl Ops for TrainingOps<'_> {
    fn device(&self) -> &Device {
        &self.device
    }

    fn apply(&self, map: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
        let base = frozen(map, x)?;
        let Some(part) = self.factors.part(map) else { return Ok(base) };
        match self.delta(part, x)? {
            Some(delta) => base.add(&delta).map_err(|e| Error::engine("the adapter", e)),
            None => Ok(base),
        }
    }
}
