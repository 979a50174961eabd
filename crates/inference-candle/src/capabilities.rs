//! What models on the decoder and loader of this crate can do.

use inference_core::{Capabilities, CapabilityId, CapabilityStatus};

/// What the loader, the engine and the decoder implement on any device.
const IMPLEMENTED: [CapabilityId; 17] = [
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
    CapabilityId::PrefixCache,
    CapabilityId::ContinuousBatching,
    CapabilityId::SpeculativeDecoding,
    CapabilityId::AttentionProbe,
    CapabilityId::KvSnapshot,
    CapabilityId::AdapterAtLoad,
    CapabilityId::LoraInference,
];

/// The capabilities of a backend that loads with [`load_model`](crate::load_model):
/// what is implemented has the given status and detail (how far the device's
/// own operations are trusted), everything else is planned. Training works on
/// the CPU alone, whose backend adds it.
#[must_use]
pub fn capabilities(status: CapabilityStatus, detail: &str) -> Capabilities {
    CapabilityId::ALL.iter().fold(Capabilities::none(), |all, id| {
        if IMPLEMENTED.contains(id) {
            all.with(*id, status, detail)
        } else {
            all.with(*id, CapabilityStatus::Planned, "not implemented yet")
        }
    })
}
