//! What the CUDA driver tells about its devices.

use std::panic::catch_unwind;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result};
use inference_core::DeviceInfo;

/// The devices, or the driver's error.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, String> {
    guarded(|| {
        let count = CudaContext::device_count()?;
        (0..count).map(describe).collect()
    })
}

/// The first device, for Candle.
pub(crate) fn open() -> Result<Device, String> {
    guarded(|| Device::new_cuda(0))
}

fn describe(ordinal: i32) -> Result<DeviceInfo, DriverError> {
    let context = CudaContext::new(usize::try_from(ordinal).unwrap_or_default())?;
    let (major, minor) = context.compute_capability()?;
    let memory = context.total_mem()?;
    let (free, _) = result::mem_get_info()?;
    Ok(DeviceInfo::new(context.name()?)
        .with_memory_bytes(memory as u64)
        .with_fact("compute_capability", format!("{major}.{minor}"))
        .with_fact("free_memory_bytes", free.to_string())
        .with_fact("ordinal", ordinal.to_string()))
}

/// Runs a call of the driver. Its bindings may panic where the library or a
/// function of it is missing; that is a reason like any other here.
fn guarded<T, E: std::fmt::Display>(call: impl Fn() -> Result<T, E>) -> Result<T, String> {
    let call = std::panic::AssertUnwindSafe(call);
    match catch_unwind(call) {
        Ok(result) => result.map_err(|error| format!("the CUDA driver: {error}")),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("the CUDA driver: {}", message.unwrap_or("it could not be loaded")))
        }
    }
}
