//! Which of llama.cpp's devices a backend runs on.

use inference_core::Availability;
#[cfg(feature = "llama-cpp")]
use inference_core::DeviceInfo;
#[cfg(feature = "llama-cpp")]
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

/// The devices of one backend of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Devices {
    /// The CPU, and CUDA devices where they were built in and are there.
    Default,
    /// AMD GPUs, through ROCm.
    Rocm,
    /// GPUs, through Vulkan.
    Vulkan,
}

impl Devices {
    /// Every value.
    pub const ALL: &[Devices] = &[Devices::Default, Devices::Rocm, Devices::Vulkan];

    /// The name of the backend in the registry.
    #[must_use]
    pub fn backend_name(self) -> &'static str {
        match self {
            Self::Default => "llama_cpp",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
        }
    }

    /// The feature of this crate that builds the backend.
    fn feature(self) -> &'static str {
        match self {
            Self::Default => "llama-cpp",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
        }
    }

    fn is_built(self) -> bool {
        match self {
            Self::Default => cfg!(feature = "llama-cpp"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Vulkan => cfg!(feature = "vulkan"),
        }
    }

    /// The devices that are there, or why the backend cannot run.
    pub(crate) fn availability(self) -> Availability {
        if !self.is_built() {
            let feature = self.feature();
            return Availability::unavailable(format!("built without the feature `{feature}`"));
        }
        self.present()
    }

    #[cfg(not(feature = "llama-cpp"))]
    fn present(self) -> Availability {
        Availability::unavailable("built without the feature `llama-cpp`")
    }

    #[cfg(feature = "llama-cpp")]
    fn present(self) -> Availability {
        if let Err(reason) = crate::load::library() {
            return Availability::unavailable(reason);
        }
        let mut devices: Vec<_> = self.accelerators().iter().map(describe).collect();
        if self == Self::Default {
            let cpu =
                |device: &LlamaBackendDevice| device.device_type == LlamaBackendDeviceType::Cpu;
            devices
                .extend(list_llama_ggml_backend_devices().iter().filter(|d| cpu(d)).map(describe));
        }
        if devices.is_empty() {
            let name = self.ggml_name();
            return Availability::unavailable(format!("llama.cpp finds no {name} device"));
        }
        Availability::ready(devices)
    }

    /// What ggml calls the devices besides the CPU.
    #[cfg(feature = "llama-cpp")]
    fn ggml_name(self) -> &'static str {
        match self {
            Self::Default => "CUDA",
            Self::Rocm => "ROCm",
            Self::Vulkan => "Vulkan",
        }
    }

    /// The GPUs that layers are put on.
    #[cfg(feature = "llama-cpp")]
    pub(crate) fn accelerators(self) -> Vec<LlamaBackendDevice> {
        let is_gpu = |device: &LlamaBackendDevice| {
            let kind = device.device_type;
            matches!(kind, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
        };
        let mut devices = list_llama_ggml_backend_devices();
        devices.retain(|device| is_gpu(device) && device.backend == self.ggml_name());
        devices
    }
}

#[cfg(feature = "llama-cpp")]
fn describe(device: &LlamaBackendDevice) -> DeviceInfo {
    let name = device.description.trim();
    let mut info = DeviceInfo::new(if name.is_empty() { &device.name } else { name });
    if device.memory_total > 0 {
        info = info.with_memory_bytes(device.memory_total as u64);
    }
    if device.device_type == LlamaBackendDeviceType::Cpu
        && let Ok(cores) = std::thread::available_parallelism()
    {
        info = info.with_compute_units(cores.get());
    }
    info.with_fact("ggml_device", &*device.name).with_fact("ggml_backend", &*device.backend)
}
