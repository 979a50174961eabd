//! Where models are evaluated.

/// Where models are evaluated.
#[derive(Clone, Debug)]
pub struct Device(DeviceKind);

#[derive(Clone, Debug)]
pub(crate) enum DeviceKind {
    /// The kernels of this crate.
    Cpu,
}

impl Device {
    /// The CPU, with this crate's kernels.
    #[must_use]
    pub fn cpu() -> Self {
        Self(DeviceKind::Cpu)
    }

    pub(crate) fn kind(&self) -> &DeviceKind {
        &self.0
    }
}
