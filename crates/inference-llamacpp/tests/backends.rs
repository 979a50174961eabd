//! The backends of the crate, built in or not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use inference_core::{
    Availability, Backend, CapabilityId, DiscoveredModel, ErrorKind, LoadOptions, ModelSource,
    Registry,
};
use inference_llamacpp::{Devices, LlamaCppBackend};

#[test]
fn each_is_registered_and_runs_or_says_why_not() {
    let registry = Registry::new();
    inference_llamacpp::register(&registry);
    assert_eq!(registry.list(), ["llama_cpp", "rocm", "vulkan"]);
    for (name, built) in [
        ("llama_cpp", cfg!(feature = "llama-cpp")),
        ("rocm", cfg!(feature = "rocm")),
        ("vulkan", cfg!(feature = "vulkan")),
    ] {
        match registry.get(name).unwrap().availability() {
            Availability::Ready { devices } => assert!(built && !devices.is_empty(), "{name}"),
            Availability::Unavailable { reason } => {
                assert!(built || reason.contains("without the feature"), "{name}: {reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_not_built_loads_nothing() {
    for devices in Devices::ALL {
        let backend = LlamaCppBackend::new(*devices);
        if backend.availability().is_ready() {
            continue;
        }
        let error = backend
            .load_model(&ModelSource::from("model.gguf"), &LoadOptions::new())
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::BackendUnavailable, "{error}");
        assert!(error.to_string().contains(devices.backend_name()), "{error}");
    }
}

#[test]
fn gguf_models_are_accepted_whatever_the_architecture() {
    let backend = LlamaCppBackend::new(Devices::Default);
    let mut model = DiscoveredModel::default();
    model.format = "gguf".to_owned();
    model.architecture = Some("new".to_owned());
    backend.accepts(&model).unwrap();
    model.is_adapter = true;
    assert!(backend.accepts(&model).unwrap_err().to_string().contains("adapter"));
    model.is_adapter = false;
    model.format = "safetensors".to_owned();
    assert!(backend.accepts(&model).unwrap_err().to_string().contains("safetensors"));
}

#[test]
fn what_is_declared_is_what_the_engine_does_for_it() {
    let capabilities = LlamaCppBackend::new(Devices::Default).capabilities();
    for (id, declared) in [
        (CapabilityId::Generate, true),
        (CapabilityId::Logits, true),
        (CapabilityId::AdapterAtLoad, true),
        (CapabilityId::LoraInference, false),
        (CapabilityId::LoraTraining, false),
        (CapabilityId::AttentionProbe, false),
    ] {
        assert_eq!(capabilities.status(id).is_usable(), declared, "{id}");
    }
}
