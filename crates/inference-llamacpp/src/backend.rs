//! The backends `llama_cpp`, `rocm` and `vulkan`.

use std::sync::Arc;

use inference_core::{
    Availability, Backend, Capabilities, CapabilityId, CapabilityStatus, DiscoveredModel, Error,
    LoadOptions, ModelSource, Result, TextModel,
};

use crate::device::Devices;

/// What llama.cpp computes and the engine builds on it.
const IMPLEMENTED: [CapabilityId; 14] = [
    CapabilityId::AdapterAtLoad,
    CapabilityId::Load,
    CapabilityId::QuantizedWeights,
    CapabilityId::Generate,
    CapabilityId::Chat,
    CapabilityId::Classify,
    CapabilityId::BatchGenerate,
    CapabilityId::Tokenizer,
    CapabilityId::ChatTemplate,
    CapabilityId::Logits,
    CapabilityId::Logprobs,
    CapabilityId::ContinuousBatching,
    CapabilityId::PrefixCache,
    CapabilityId::SpeculativeDecoding,
];

/// Runs GGUF models with llama.cpp, on one kind of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlamaCppBackend {
    devices: Devices,
}

impl LlamaCppBackend {
    /// The backend of these devices.
    #[must_use]
    pub fn new(devices: Devices) -> Self {
        Self { devices }
    }
}

impl Backend for LlamaCppBackend {
    fn name(&self) -> &str {
        self.devices.backend_name()
    }

    fn availability(&self) -> Availability {
        self.devices.availability()
    }

    fn capabilities(&self) -> Capabilities {
        let (status, detail) = match self.devices {
            Devices::Default => (CapabilityStatus::Supported, "GGUF models"),
            Devices::Rocm | Devices::Vulkan => {
                (CapabilityStatus::Experimental, "GGUF models; not tested on a GPU")
            }
        };
        let all =
            IMPLEMENTED.iter().fold(Capabilities::none(), |all, id| all.with(*id, status, detail));
        let detail =
            "with the prefix cache; not for models with sliding windows or recurrent state";
        all.with(CapabilityId::KvSnapshot, CapabilityStatus::Experimental, detail)
    }

    /// Any GGUF model: which architectures there are, llama.cpp tells only by
    /// loading.
    fn accepts(&self, model: &DiscoveredModel) -> Result<()> {
        let refuse = |found: &str| {
            let name = model.path.display().to_string();
            Err(Error::unsupported_model(name, "format", found, "a GGUF model"))
        };
        match model.format.as_str() {
            "gguf" if model.is_adapter => refuse("an adapter"),
            "gguf" => Ok(()),
            other => refuse(other),
        }
    }

    #[cfg(feature = "llama-cpp")]
    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        crate::load::load_model(self.devices, source, options)
    }

    #[cfg(not(feature = "llama-cpp"))]
    fn load_model(
        &self,
        _source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        let reason = match self.availability() {
            Availability::Unavailable { reason } => reason,
            _ => "built without llama.cpp".to_owned(),
        };
        Err(Error::BackendUnavailable { name: self.name().to_owned(), reason })
    }
}
