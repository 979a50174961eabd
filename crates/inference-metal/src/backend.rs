//! The backend `metal`.

use std::sync::Arc;

use inference_candle::ReferenceOps;
use inference_core::{
    Availability, Backend, Capabilities, CapabilityId, CapabilityStatus, Error, LoadOptions,
    ModelSource, Result, TextModel,
};

use crate::driver;

/// The name in the registry.
const NAME: &str = "metal";

/// Runs models on the first Metal device.
///
/// Of [`LoadOptions`] it refuses `threads` and `affinity`, which mean nothing
/// there; the loader honours or refuses the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetalBackend;

impl Backend for MetalBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn availability(&self) -> Availability {
        match driver::devices() {
            Ok(devices) if devices.is_empty() => Availability::unavailable("no Metal device found"),
            Ok(devices) => Availability::ready(devices),
            Err(reason) => Availability::unavailable(reason),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let set = |status, detail: &'static str| {
            move |all: Capabilities, id: &CapabilityId| all.with(*id, status, detail)
        };
        let usable = [
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::Chat,
            CapabilityId::Classify,
            CapabilityId::BatchGenerate,
            CapabilityId::Tokenizer,
            CapabilityId::ChatTemplate,
            CapabilityId::Logits,
            CapabilityId::Logprobs,
            CapabilityId::ContinuousBatching,
            CapabilityId::AttentionProbe,
        ];
        let planned = [
            CapabilityId::QuantizedWeights,
            CapabilityId::StructuredOutput,
            CapabilityId::Embeddings,
            CapabilityId::LoraInference,
            CapabilityId::LoraTraining,
            CapabilityId::KvSnapshot,
            CapabilityId::PrefixCache,
            CapabilityId::SpeculativeDecoding,
        ];
        let detail = "Candle's operations, without kernels of our own; needs the feature `metal`";
        let all =
            usable.iter().fold(Capabilities::none(), set(CapabilityStatus::Experimental, detail));
        planned.iter().fold(all, set(CapabilityStatus::Planned, "not implemented yet"))
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        for (option, given) in
            [("threads", options.threads.is_some()), ("affinity", options.affinity.is_some())]
        {
            if given {
                return Err(Error::unsupported("the backend `metal`", option));
            }
        }
        let device = driver::open()
            .map_err(|reason| Error::BackendUnavailable { name: NAME.to_owned(), reason })?;
        inference_candle::load_model(NAME, source, options, Arc::new(ReferenceOps::new(device)))
    }
}
