//! What the backend says of itself, and which options it takes.

#![allow(clippy::unwrap_used, reason = "a test")]

use inference_core::{
    Availability, Backend, CapabilityId, ErrorKind, KvDtype, LoadOptions, ModelSource, Prompt,
    Registry,
};
use inference_cpu::{CpuBackend, CpuOps, CpuOptions, Tier};

fn load_error(options: &LoadOptions) -> Option<inference_core::Error> {
    let dir = inference_fixtures::dir("tiny/llama-tied-bias")?;
    let loaded = CpuBackend::new().load_model(&ModelSource::from(dir.as_path()), options);
    Some(loaded.map(drop).unwrap_err())
}

#[test]
fn linking_registers_it() {
    assert!(Registry::global().list().contains(&"cpu".to_owned()));
    let registry = Registry::new();
    inference_cpu::register(&registry);
    assert_eq!(registry.default_backend().unwrap().name(), "cpu");
}

#[test]
fn it_is_ready_and_describes_the_machine() {
    let Availability::Ready { devices } = CpuBackend::new().availability() else {
        panic!("the CPU is always there");
    };
    let kernels = devices[0].facts.iter().find(|(name, _)| name == "kernels").unwrap();
    assert_eq!(kernels.1, Tier::best().as_str());
    assert!(devices[0].compute_units.is_some_and(|cores| cores > 0));
}

#[test]
fn kernels_of_another_cpu_are_refused() {
    for tier in Tier::ALL.into_iter().filter(|tier| !tier.is_available()) {
        assert!(!CpuBackend::new().with_tier(tier).availability().is_ready());
        let error = CpuOps::new(&CpuOptions::new().with_tier(tier)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(tier.as_str()), "{error}");
    }
}

#[test]
fn options_that_cannot_be_honoured_are_refused_by_name() {
    let options = LoadOptions::new();
    for (options, name, kind) in [
        (options.clone().with_gpu_layers(2), "gpu_layers", ErrorKind::Unsupported),
        (options.clone().with_adapter_path("no/adapter"), "no/adapter", ErrorKind::Io),
        // Heads of 8 elements.
        (options.clone().with_kv_dtype(KvDtype::Q8_0), "kv_dtype", ErrorKind::InvalidOption),
        (options.clone().with_threads(100_000), "threads", ErrorKind::InvalidOption),
        (options.clone().with_kv_budget(1), "kv_budget", ErrorKind::Exhausted),
    ] {
        let Some(error) = load_error(&options) else { return };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    if cfg!(target_os = "linux") {
        let options = LoadOptions::new().with_affinity(vec![usize::MAX]);
        assert_eq!(load_error(&options).unwrap().kind(), ErrorKind::InvalidOption);
    }
}

#[test]
fn what_is_declared_usable_is_there() {
    let Some(dir) = inference_fixtures::dir("tiny/llama-llama3rope") else { return };
    let source = ModelSource::from(dir.as_path());
    let backend = CpuBackend::new();
    let options = LoadOptions::new().with_gpu_layers(0).with_threads(1);
    let model = backend.load_model(&source, &options).unwrap();
    let capabilities = backend.capabilities();
    for (id, present) in [
        (CapabilityId::Logits, model.as_scorer().is_some()),
        (CapabilityId::AttentionProbe, model.as_attention_inspector().is_some()),
        (CapabilityId::LoraTraining, model.as_trainable().is_some()),
        (CapabilityId::LoraInference, model.as_adapters().is_some()),
        (CapabilityId::KvSnapshot, model.as_state().is_some()),
        (CapabilityId::Tokenizer, model.encode("a", false).is_ok()),
    ] {
        assert_eq!(capabilities.status(id).is_usable(), present, "{id}");
    }
    assert_eq!(model.info().backend, "cpu");
    model.close();
    let error = model.generate(Prompt::from("a"), Default::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
