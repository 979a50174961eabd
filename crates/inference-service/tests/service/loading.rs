//! Loads that are shared, fail, or come from strange places.

use std::sync::{Arc, Mutex};
use std::thread;

use inference_core::{ErrorKind, GenerateOptions, LoadOptions, ProgressSink};
use inference_service::action::{Info, Load};
use inference_service::reply::ModelState;
use inference_service::{InferenceService, ServiceOptions};

use crate::support::{service, wait_until};

#[test]
fn consumers_that_load_the_same_at_once_load_once() {
    let (service, stage) = service(ServiceOptions::new());
    let results: Vec<_> = thread::scope(|scope| {
        let loads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| service.load("a", "gated").unwrap())).collect();
        stage.await_loads(1);
        // A request for the name waits as well.
        let request = scope.spawn(|| {
            let generation = service.generate("a", "hello", GenerateOptions::new()).unwrap();
            generation.stream.collect_text().unwrap().0
        });
        let status = service.perform(Info::of("a")).unwrap().models.remove(0);
        assert_eq!((status.state, status.info), (ModelState::Loading, None));
        stage.open_gate();
        assert_eq!(request.join().unwrap(), "hello");
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    assert_eq!(stage.loads(), ["gated"]);
    assert_eq!(results.iter().filter(|loaded| !loaded.shared).count(), 1);
    assert_eq!(service.metrics().unwrap().loads, 1);
}

#[test]
fn a_load_that_fails_answers_everybody_and_leaves_nothing() {
    for (source, kind) in
        [("gated fail", ErrorKind::InvalidModel), ("gated panic", ErrorKind::Engine)]
    {
        let default = Load::new("main", source);
        let (service, stage) = service(ServiceOptions::new().with_default_model(default));
        service.load("other", "5 bytes").unwrap();
        thread::scope(|scope| {
            let loads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| service.load("main", source))).collect();
            let request = scope.spawn(|| service.generate(None, "x", GenerateOptions::new()));
            // All of them are there before it fails: at least one load, and
            // the others wait or will try again themselves.
            stage.await_loads(2);
            stage.open_gate();
            for load in loads {
                let error = load.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
            }
            assert_eq!(request.join().unwrap().unwrap_err().kind(), kind);
        });
        let info = service.info().unwrap();
        assert_eq!((info.models.len(), info.memory_used), (1, 5));
        assert!(service.metrics().unwrap().failed_loads >= 1);
        // The name is as free as before.
        service.load("main", "1 bytes").unwrap();
    }
}

#[test]
fn waiters_of_one_load_get_its_error() {
    let (service, stage) = service(ServiceOptions::new());
    thread::scope(|scope| {
        let first = scope.spawn(|| service.load("a", "gated fail"));
        stage.await_loads(1);
        let joined = scope.spawn(|| service.load("a", "gated fail"));
        let request = scope.spawn(|| service.generate("a", "x", GenerateOptions::new()));
        // Both are in the table, or will find the name free: either way the
        // answer is an error, and the model was not loaded by the request.
        stage.open_gate();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidModel);
        assert_eq!(joined.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidModel);
        let kind = request.join().unwrap().unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::InvalidModel | ErrorKind::ModelNotFound), "{kind:?}");
    });
}

#[test]
fn what_can_be_refused_at_once_makes_nobody_leave() {
    let (service, stage) = service(ServiceOptions::new().with_max_models(1));
    service.load("a", "1 bytes").unwrap();
    let with = |options| Load::new("b", "2 bytes").with_options(options);
    for (load, kind) in [
        (with(LoadOptions::new().with_backend("nobody")), ErrorKind::UnknownBackend),
        (with(LoadOptions::new().with_backend("absent")), ErrorKind::BackendUnavailable),
        (with(LoadOptions::new().with_threads(0)), ErrorKind::InvalidOption),
        (Load::new("", "2 bytes"), ErrorKind::InvalidInput),
    ] {
        assert_eq!(service.perform(load).unwrap_err().kind(), kind);
    }
    assert_eq!(service.info().unwrap().models[0].name, "a");
    assert_eq!(stage.loads().len(), 1);
    // A failure of the load itself comes too late for that.
    assert_eq!(service.load("b", "fail").unwrap_err().kind(), ErrorKind::InvalidModel);
    assert!(service.info().unwrap().models.is_empty());
}

#[test]
fn a_name_stands_for_one_model() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    let error = service.load("a", "2 bytes").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("model name `a`"), "{error}");
    assert!(error.to_string().contains("1 bytes"), "{error}");
    for other in [
        Load::new("a", "1 bytes").with_pinned(true),
        Load::new("a", "1 bytes").with_options(LoadOptions::new().with_threads(3)),
        Load::new("a", "1 bytes").with_options(LoadOptions::new().with_backend("echo")),
    ] {
        assert_eq!(service.perform(other).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    // Said differently, but the same; a progress sink only watches.
    let same = LoadOptions::new().with_backend("stage").with_progress(ProgressSink::new(|_| {}));
    assert!(service.perform(Load::new("a", "1 bytes").with_options(same)).unwrap().shared);
    // The same source under another name is another model.
    assert!(!service.load("b", "1 bytes").unwrap().shared);
    assert_eq!(stage.loads().len(), 2);
}

#[test]
fn the_services_load_options_fill_what_a_load_leaves_open() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress = ProgressSink::new(move |event| sink.lock().unwrap().push(format!("{event:?}")));
    let options = LoadOptions::new().with_progress(progress).with_backend("echo");
    let (service, stage) = service(ServiceOptions::new().with_load_options(options));
    let loaded = service.load("e", "echo").unwrap();
    assert_eq!(loaded.info.backend, "echo");
    assert!(!seen.lock().unwrap().is_empty());
    let other = LoadOptions::new().with_backend("stage");
    service.perform(Load::new("s", "1 bytes").with_options(other)).unwrap();
    assert_eq!(stage.loads(), ["1 bytes"]);
    // The template's own options are refused by name like anybody's.
    let refused = LoadOptions::new().with_parallel_slots(2);
    let error = service.perform(Load::new("f", "echo").with_options(refused)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Calls `action` from inside of a load, on the loading thread, and returns
/// what it came to.
fn inside_a_load<T: Send + 'static>(
    service: &InferenceService,
    action: impl Fn(&InferenceService) -> T + Send + Sync + 'static,
) -> T {
    let (slot, inner) = (Arc::new(Mutex::new(None)), service.clone());
    let result = Arc::clone(&slot);
    let progress = ProgressSink::new(move |_| *result.lock().unwrap() = Some(action(&inner)));
    let load = Load::new("outer", "3 bytes");
    service.perform(load.with_options(LoadOptions::new().with_progress(progress))).unwrap();
    service.unload("outer").unwrap();
    slot.lock().unwrap().take().unwrap()
}

#[test]
fn a_callback_of_a_load_may_use_the_service_but_not_wait_for_itself() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    let text = inside_a_load(&service, |service| {
        let generation = service.generate("a", "hello", GenerateOptions::new()).unwrap();
        generation.stream.collect_text().unwrap().0
    });
    assert_eq!(text, "hello");
    assert!(!inside_a_load(&service, |service| service.load("b", "1 bytes")).unwrap().shared);
    assert_eq!(inside_a_load(&service, |service| service.unload("b")).unwrap().name, "b");
    for error in [
        inside_a_load(&service, |service| service.load("outer", "3 bytes").err()),
        inside_a_load(&service, |service| service.unload("outer").err()),
        inside_a_load(&service, |service| {
            service.generate("outer", "x", GenerateOptions::new()).err()
        }),
    ] {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("`outer`"), "{error}");
    }
}

#[test]
fn an_unload_waits_for_the_load() {
    let (service, stage) = service(ServiceOptions::new());
    thread::scope(|scope| {
        let load = scope.spawn(|| service.load("a", "gated"));
        stage.await_loads(1);
        let unload = scope.spawn(|| service.unload("a"));
        stage.open_gate();
        assert_eq!(load.join().unwrap().unwrap().name, "a");
        assert_eq!(unload.join().unwrap().unwrap().name, "a");
    });
    wait_until(|| stage.alive() == 0);
    assert!(service.info().unwrap().models.is_empty());
}
