//! Where models are evaluated.

use inference_core::{Error, Result};

/// Where models are evaluated.
#[derive(Clone, Debug)]
pub struct Device(DeviceKind);

#[derive(Clone, Debug)]
pub(crate) enum DeviceKind {
    /// The kernels of this crate.
    Cpu,
    /// Candle's operations.
    #[cfg(feature = "candle")]
    Candle(candle_core::Device),
}

impl Device {
    /// The CPU, with this crate's kernels.
    #[must_use]
    pub fn cpu() -> Self {
        Self(DeviceKind::Cpu)
    }

    /// Candle's operations on one of its devices: per layer a batched product,
    /// then bias and activation (experimental). Weights are f32; rows are padded
    /// to the longest of the call; a subset copies the weights that it takes.
    #[cfg(feature = "candle")]
    #[must_use]
    pub fn candle(device: candle_core::Device) -> Self {
        Self(DeviceKind::Candle(device))
    }

    /// A CUDA device, as a device of Candle (experimental).
    ///
    /// # Errors
    ///
    /// `BackendUnavailable` without the feature `cuda`, or without the device.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return candle_core::Device::new_cuda(ordinal)
            .map(Self::candle)
            .map_err(|error| unavailable("cuda", ordinal, &error.to_string()));
        #[cfg(not(feature = "cuda"))]
        Err(unavailable("cuda", ordinal, "built without the feature `cuda`"))
    }

    /// A Metal device, as a device of Candle (experimental).
    ///
    /// # Errors
    ///
    /// `BackendUnavailable` without the feature `metal`, or without the device.
    pub fn metal(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "metal")]
        return candle_core::Device::new_metal(ordinal)
            .map(Self::candle)
            .map_err(|error| unavailable("metal", ordinal, &error.to_string()));
        #[cfg(not(feature = "metal"))]
        Err(unavailable("metal", ordinal, "built without the feature `metal`"))
    }

    pub(crate) fn kind(&self) -> &DeviceKind {
        &self.0
    }
}

fn unavailable(name: &str, ordinal: usize, reason: &str) -> Error {
    let reason = reason.to_owned();
    Error::BackendUnavailable { name: format!("{name}:{ordinal}"), reason }
}
