//! Capabilities.

use std::collections::BTreeSet;

use inference_core::doc::EchoBackend;
use inference_core::{Backend, Capabilities, CapabilityId, CapabilityStatus};

#[test]
fn every_id_is_there_exactly_once() {
    let supported = [CapabilityId::Load, CapabilityId::Load, CapabilityId::Generate];
    for capabilities in [
        Capabilities::none(),
        Capabilities::none().with_supported(&supported),
        EchoBackend.capabilities(),
    ] {
        let ids: Vec<_> = capabilities.iter().map(|capability| capability.id).collect();
        assert_eq!(ids, CapabilityId::ALL);
        for capability in &capabilities {
            assert_eq!(capability.group, capability.id.group());
        }
    }
}

#[test]
fn names_are_stable_and_differ() {
    let names: BTreeSet<_> = CapabilityId::ALL.iter().map(|id| id.as_str()).collect();
    let expected = [
        "adapter_at_load",
        "attention_probe",
        "batch_generate",
        "chat",
        "chat_template",
        "classify",
        "continuous_batching",
        "embeddings",
        "generate",
        "kv_snapshot",
        "load",
        "logits",
        "logprobs",
        "lora_inference",
        "lora_training",
        "prefix_cache",
        "quantized_weights",
        "speculative_decoding",
        "structured_output",
        "tokenizer",
    ];
    assert!(names.iter().eq(&expected), "{names:?}");
    assert_eq!(names.len(), CapabilityId::ALL.len());
}

#[test]
fn the_last_status_holds() {
    let capabilities = Capabilities::none().with_supported(&[CapabilityId::Chat]).with(
        CapabilityId::Chat,
        CapabilityStatus::Planned,
        "templates come later",
    );
    assert_eq!(capabilities.status(CapabilityId::Chat), CapabilityStatus::Planned);
    assert_eq!(capabilities.get(CapabilityId::Chat).unwrap().detail, "templates come later");
    assert_eq!(capabilities.status(CapabilityId::Load), CapabilityStatus::Unsupported);
}

#[test]
fn what_works_is_usable() {
    use CapabilityStatus::{Experimental, Planned, Supported, Unsupported};
    for (status, usable, name) in [
        (Supported, true, "supported"),
        (Experimental, true, "experimental"),
        (Planned, false, "planned"),
        (Unsupported, false, "unsupported"),
    ] {
        assert_eq!(status.is_usable(), usable);
        assert_eq!(status.to_string(), name);
    }
}
