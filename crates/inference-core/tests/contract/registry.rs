//! The registry.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use inference_core::doc::{self, EchoBackend};
use inference_core::{
    AUTOMATIC_ORDER, Availability, Backend, BackendRegistration, Capabilities, CapabilityId,
    DeviceInfo, Error, ErrorKind, LoadOptions, ModelSource, Registry, Result, TextModel, inventory,
};

inventory::submit! { BackendRegistration::new(|| Arc::new(EchoBackend)) }

/// Loads the echo model under another name.
struct Named {
    name: &'static str,
    reason: Option<&'static str>,
}

impl Backend for Named {
    fn name(&self) -> &str {
        self.name
    }

    fn availability(&self) -> Availability {
        match self.reason {
            Some(reason) => Availability::unavailable(reason),
            None => Availability::ready(vec![DeviceInfo::new(self.name)]),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        let mut options = options.clone();
        options.backend = None;
        EchoBackend.load_model(source, &options)
    }
}

fn ready(name: &'static str) -> Arc<dyn Backend> {
    Arc::new(Named { name, reason: None })
}

fn unavailable(name: &'static str, reason: &'static str) -> Arc<dyn Backend> {
    Arc::new(Named { name, reason: Some(reason) })
}

fn registry(backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Registry {
    let registry = Registry::new();
    for backend in backends {
        assert!(registry.register(backend).is_none());
    }
    registry
}

fn names(backends: &[Arc<dyn Backend>]) -> Vec<&str> {
    backends.iter().map(|backend| backend.name()).collect()
}

#[test]
fn linked_backends_are_found_and_other_registries_are_not_touched() {
    assert_eq!(Registry::global().list(), ["echo"]);
    let linked = Registry::linked();
    assert_eq!(linked.list(), ["echo"]);
    linked.register(ready("other"));
    assert_eq!(linked.list(), ["echo", "other"]);
    assert_eq!(Registry::global().list(), ["echo"]);
    assert!(Registry::new().list().is_empty());
}

#[test]
fn registering_a_name_again_replaces() {
    let registry = Registry::new();
    assert!(registry.register(unavailable("a", "old")).is_none());
    let replaced = registry.register(ready("a")).unwrap();
    assert_eq!(replaced.availability(), Availability::unavailable("old"));
    assert_eq!(registry.list(), ["a"]);
    assert!(registry.get("a").unwrap().availability().is_ready());
    assert_eq!(registry.all().len(), 1);
}

#[test]
fn the_list_is_sorted_and_all_is_in_automatic_order() {
    let mut shuffled: Vec<_> = AUTOMATIC_ORDER.to_vec();
    shuffled.extend(["zeta", "alpha"]);
    shuffled.sort_by_key(|name| (name.len(), *name));
    let registry = registry(shuffled.into_iter().map(ready));

    let list = registry.list();
    assert!(list.is_sorted());
    assert_eq!(list.len(), AUTOMATIC_ORDER.len() + 2);
    let expected = [&AUTOMATIC_ORDER[..], &["alpha", "zeta"]].concat();
    assert_eq!(names(&registry.all()), expected);
}

#[test]
fn the_default_is_the_first_that_is_available() {
    let registry = registry([
        ready("remote"),
        ready("cpu"),
        unavailable("metal", "not a Mac"),
        unavailable("cuda", "no driver"),
    ]);
    assert_eq!(registry.default_backend().unwrap().name(), "cpu");
    registry.register(unavailable("cpu", "gone"));
    assert_eq!(registry.default_backend().unwrap().name(), "remote");
}

#[test]
fn each_failure_has_its_own_error() {
    let options = LoadOptions::new();
    let empty = Registry::new();
    for error in [
        empty.default_backend().err().unwrap(),
        empty.get("cpu").err().unwrap(),
        empty.capabilities("cpu").err().unwrap(),
        empty.load_model("echo", &options).err().unwrap(),
    ] {
        assert!(matches!(error, Error::NoBackendRegistered), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::NoBackendRegistered);
    }

    let none = registry([unavailable("remote", "no url"), unavailable("cuda", "no driver")]);
    let error = none.load_model("echo", &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoBackendAvailable);
    let expected = "no registered backend is available: cuda (no driver); remote (no url)";
    assert_eq!(error.to_string(), expected);

    let some = registry([ready("cpu"), unavailable("cuda", "no driver")]);
    let error = some.load_model("echo", &options.clone().with_backend("gpu")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnknownBackend);
    assert_eq!(error.to_string(), "unknown backend `gpu`; registered: cpu, cuda");

    let error = some.load_model("echo", &options.clone().with_backend("cuda")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable);
    assert_eq!(error.to_string(), "backend `cuda` is unavailable: no driver");
    // Asking about it needs no device.
    assert_eq!(some.get("cuda").unwrap().name(), "cuda");
    assert!(some.capabilities("cuda").is_ok());

    let error = some.load_model("missing", &options).err().unwrap();
    assert!(matches!(error, Error::Load { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert_eq!(error.to_string(), "backend `cpu` could not load missing");
    let cause = error.source().unwrap().to_string();
    assert_eq!(cause, "the model source: name `missing` is not supported; supported: echo");

    let error = some.load_trainable("echo", &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "echo on backend `echo` does not support lora_training");

    let error = some.load_model("echo", &options.with_threads(0)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[test]
fn a_named_backend_loads() {
    let registry = registry([ready("cpu")]);
    doc::register(&registry);
    let options = LoadOptions::new().with_backend("echo");
    for source in [ModelSource::from("echo"), Path::new("echo").into()] {
        assert_eq!(registry.load_model(source, &options).unwrap().info().backend, "echo");
    }
    let capabilities = registry.capabilities("echo").unwrap();
    assert!(capabilities.status(CapabilityId::Generate).is_usable());
    assert!(!registry.capabilities("cpu").unwrap().status(CapabilityId::Load).is_usable());
}

#[test]
fn a_registry_is_shared_between_threads() {
    let registry = Registry::new();
    std::thread::scope(|scope| {
        for name in AUTOMATIC_ORDER {
            let registry = &registry;
            scope.spawn(move || {
                registry.register(ready(name));
                registry.default_backend().unwrap();
            });
        }
    });
    assert_eq!(registry.list().len(), AUTOMATIC_ORDER.len());
}
