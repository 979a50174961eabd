//! What Metal tells about its devices.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::{Device, Error};
use inference_core::DeviceInfo;

/// The default device, or why there is none.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, String> {
    let device = open()?;
    let metal = device.as_metal_device().map_err(|error| error.to_string())?.metal_device();
    Ok(vec![
        DeviceInfo::new("Apple GPU")
            .with_memory_bytes(metal.recommended_max_working_set_size() as u64)
            .with_fact("architecture", metal.architecture_name())
            .with_fact("allocated_bytes", metal.current_allocated_size().to_string()),
    ])
}

/// The first device, for Candle.
///
/// Candle indexes the list of devices without asking whether there is any: a
/// panic is a reason like any other here.
pub(crate) fn open() -> Result<Device, String> {
    let open = || -> Result<Device, Error> { Device::new_metal(0) };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(device) => device.map_err(|error| format!("Metal: {error}")),
        Err(_) => Err("Metal: no device found".to_owned()),
    }
}
