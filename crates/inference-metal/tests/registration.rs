//! The backend is registered and honest about this machine.

use inference_core::{
    Availability, Backend, CapabilityId, CapabilityStatus, ErrorKind, LoadOptions, ModelSource,
    Registry,
};
use inference_metal::MetalBackend;

#[test]
fn linking_registers_it() {
    assert!(Registry::global().list().contains(&"metal".to_owned()));
    let registry = Registry::new();
    inference_metal::register(&registry);
    assert_eq!(registry.list(), ["metal"]);
}

#[test]
fn it_is_unavailable_with_a_reason_or_ready_with_devices() {
    match MetalBackend.availability() {
        Availability::Ready { devices } if cfg!(feature = "metal") => {
            assert!(devices.iter().all(|device| device.memory_bytes.is_some()));
        }
        Availability::Unavailable { reason } if cfg!(feature = "metal") => {
            assert!(reason.contains("Metal"), "{reason}");
        }
        Availability::Unavailable { reason } => {
            assert_eq!(reason, "built without the feature `metal`");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_device_loading_says_so() {
    if MetalBackend.availability().is_ready() {
        return;
    }
    let registry = Registry::new();
    inference_metal::register(&registry);
    let options = LoadOptions::new().with_backend("metal");
    let error = registry.load_model("nowhere", &options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
    let source = ModelSource::from("nowhere");
    let error = MetalBackend.load_model(&source, &LoadOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
    assert_eq!(
        registry.default_backend().map(drop).unwrap_err().kind(),
        ErrorKind::NoBackendAvailable
    );
}

#[test]
fn options_that_mean_nothing_there_are_refused_by_name() {
    let load = |options: LoadOptions| {
        MetalBackend.load_model(&ModelSource::from("nowhere"), &options).map(drop).unwrap_err()
    };
    for (options, name) in [
        (LoadOptions::new().with_threads(2), "threads"),
        (LoadOptions::new().with_affinity(vec![0]), "affinity"),
    ] {
        let error = load(options);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn what_is_not_there_is_not_declared_usable() {
    let capabilities = MetalBackend.capabilities();
    assert_eq!(capabilities.status(CapabilityId::LoraTraining), CapabilityStatus::Planned);
    assert!(capabilities.status(CapabilityId::Generate).is_usable());
}
