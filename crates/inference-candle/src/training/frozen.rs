//! Maps that do not change, differentiable with respect to their input.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Storage, Tensor};
use inference_core::{Error, Result};

use crate::Linear;

/// `map` of `x`, exactly: activations are not rounded. The result can be
/// differentiated with respect to `x`, and holds on to nothing but the map.
pub(super) fn frozen(map: &Arc<dyn Linear>, x: &Tensor) -> Result<Tensor> {
    let result = map.forward_exact(&x.detach())?;
    if !x.track_op() {
        return Ok(result);
    }
    let op = Frozen { map: Arc::clone(map), result: Mutex::new(Some(result)) };
    x.apply_op1(op).map_err(|e| Error::engine("a frozen map", e))
}

/// A product that was computed, and the way back from it.
struct Frozen {
    map: Arc<dyn Linear>,
    /// Taken by the operation.
    result: Mutex<Option<Tensor>>,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-map"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(result) = result else { candle_core::bail!("a frozen map is applied once") };
        let (storage, layout) = result.storage_and_layout();
        match (&*storage, layout.is_contiguous() && layout.start_offset() == 0) {
            (Storage::Cpu(storage), true) => Ok((storage.clone(), layout.shape().clone())),
            _ => candle_core::bail!("the result of a map on the CPU is contiguous"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        self.map.input_gradient(gradient).map(Some).map_err(candle_core::Error::wrap)
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({:?})", self.map)
    }
}
