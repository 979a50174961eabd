//! The backend is registered and honest about this machine.

use inference_core::{
    Availability, Backend, CapabilityId, CapabilityStatus, ErrorKind, LoadOptions, ModelSource,
    Registry,
};
use inference_cuda::CudaBackend;

#[test]
fn linking_registers_it() {
    assert!(Registry::global().list().contains(&"cuda".to_owned()));
    let registry = Registry::new();
    inference_cuda::register(&registry);
    assert_eq!(registry.list(), ["cuda"]);
}

#[test]
fn it_is_unavailable_with_a_reason_or_ready_with_devices() {
    match CudaBackend.availability() {
        Availability::Ready { devices } if cfg!(feature = "cuda") => {
            assert!(devices.iter().all(|device| device.memory_bytes.is_some()));
        }
        Availability::Unavailable { reason } if cfg!(feature = "cuda") => {
            assert!(reason.contains("CUDA"), "{reason}");
        }
        Availability::Unavailable { reason } => {
            assert_eq!(reason, "built without the feature `cuda`");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_device_loading_says_so() {
    if CudaBackend.availability().is_ready() {
        return;
    }
    let registry = Registry::new();
    inference_cuda::register(&registry);
    let options = LoadOptions::new().with_backend("cuda");
    let error = registry.load_model("nowhere", &options).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
    let source = ModelSource::from("nowhere");
    let error = CudaBackend.load_model(&source, &LoadOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
    assert_eq!(
        registry.default_backend().map(drop).unwrap_err().kind(),
        ErrorKind::NoBackendAvailable
    );
}

#[test]
fn options_that_mean_nothing_there_are_refused_by_name() {
    let load = |options: LoadOptions| {
        CudaBackend.load_model(&ModelSource::from("nowhere"), &options).map(drop).unwrap_err()
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
    let capabilities = CudaBackend.capabilities();
    assert_eq!(capabilities.status(CapabilityId::LoraTraining), CapabilityStatus::Planned);
    assert!(capabilities.status(CapabilityId::Generate).is_usable());
}
