//! In place of the driver where the crate is built without Metal.

use candle_core::Device;
use inference_core::DeviceInfo;

const REASON: &str = "built without the feature `metal`";

/// There is nothing to look for.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, String> {
    Err(REASON.to_owned())
}

/// There is nothing to open.
pub(crate) fn open() -> Result<Device, String> {
    Err(REASON.to_owned())
}
