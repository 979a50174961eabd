//! Every action, as a value and as a method.

use inference_core::{
    Availability, BatchItem, CapabilityId, ClassifyOptions, ErrorKind, FinishReason,
    GenerateOptions, LoadOptions, Message,
};
use inference_service::action::{
    Batch, Cancel, Capabilities, Chat, Classify, Generate, Info, Load, Metrics, Unload,
};
use inference_service::reply::{ModelState, RequestKind};
use inference_service::{Action, InferenceService, Reply, ServiceOptions, Target};

use crate::support::service;

fn crosses_threads<T: Send + Sync + Clone>(_: &T) {}

#[test]
fn every_action_has_its_reply() {
    let (service, _) = service(ServiceOptions::new());
    crosses_threads(&service);
    let reply = service.dispatch(Load::new("a", "10 bytes")).unwrap();
    let Reply::Loaded(loaded) = &reply else { panic!("{reply:?}") };
    assert_eq!((loaded.name.as_str(), loaded.memory_bytes, loaded.shared), ("a", 10, false));
    assert_eq!((loaded.info.architecture.as_str(), reply.name()), ("echo", "loaded"));

    let Reply::Generation(generation) = service.dispatch(Generate::new("a", "hello")).unwrap()
    else {
        panic!("a generation")
    };
    assert_eq!((generation.id.0, generation.model.as_str()), (1, "a"));
    let (text, completion) = generation.stream.collect_text().unwrap();
    assert_eq!(text, "hello");
    assert_eq!(completion.metrics.generated_tokens, 6);

    let chat = Chat::new("a", vec![Message::system("Be brief."), Message::user("yes?")]);
    let Reply::Generation(generation) = service.dispatch(chat).unwrap() else { panic!("a chat") };
    assert_eq!(generation.stream.collect_text().unwrap().0, "yes?");

    let options = ClassifyOptions::new().with_labels(["no", "yes"]);
    let classify = Classify::new("a", vec!["nice".into(), "yellow".into()]).with_options(options);
    let Reply::Classifications(classes) = service.dispatch(classify).unwrap() else {
        panic!("classifications")
    };
    let labels: Vec<_> =
        classes.results.iter().map(|r| r.as_ref().unwrap().best().unwrap().label.clone()).collect();
    assert_eq!(labels, ["no", "yes"]);
    assert_eq!(classes.id.0, 3);

    let batch = Batch::new("a", vec![BatchItem::new("one"), BatchItem::new("two")]);
    let Reply::Batch(batch) = service.dispatch(batch).unwrap() else { panic!("a batch") };
    let texts: Vec<_> =
        batch.stream.collect_all().into_iter().map(|output| output.unwrap().text).collect();
    assert_eq!(texts, ["one", "two"]);

    let Reply::Info(info) = service.dispatch(Info::of("a")).unwrap() else { panic!("info") };
    assert_eq!((info.memory_used, info.memory_budget, info.default_model), (10, None, None));
    let status = &info.models[0];
    assert_eq!((status.name.as_str(), status.state), ("a", ModelState::Ready));
    assert_eq!((status.source.as_str(), status.requests), ("10 bytes", 0));
    assert_eq!(status.info.as_ref().unwrap().architecture, "echo");

    let Reply::Backends(backends) = service.dispatch(Capabilities::of("echo")).unwrap() else {
        panic!("backends")
    };
    assert_eq!(backends.backends.len(), 1);
    assert!(backends.backends[0].capabilities.status(CapabilityId::Generate).is_usable());

    let Reply::Metrics(metrics) = service.dispatch(Metrics::all()).unwrap() else {
        panic!("metrics")
    };
    assert_eq!((metrics.loads, metrics.requests, metrics.unloads), (1, 4, 0));
    // One, the chat, and two of a batch; a classification enters no stream.
    assert_eq!(metrics.models["a"].finished, 4);
    assert!(metrics.open.is_empty());

    let Reply::Cancelled(cancelled) = service.dispatch(Cancel::All).unwrap() else {
        panic!("cancelled")
    };
    assert!(cancelled.requests.is_empty());

    let Reply::Unloaded(unloaded) = service.dispatch(Unload::new("a")).unwrap() else {
        panic!("unloaded")
    };
    assert_eq!((unloaded.name.as_str(), unloaded.requests), ("a", 0));
}

#[test]
fn the_methods_are_the_same_actions() {
    let (service, _) = service(ServiceOptions::new());
    assert_eq!(service.load("a", "5 bytes").unwrap().memory_bytes, 5);
    let options = GenerateOptions::new().with_max_tokens(2);
    let generation = service.generate("a", "hello", options.clone()).unwrap();
    let open = service.metrics().unwrap().open;
    assert_eq!((open[0].id, open[0].kind), (generation.id, RequestKind::Generate));
    assert!(!open[0].cancelled);
    let (text, completion) = generation.stream.collect_text().unwrap();
    assert_eq!((text.as_str(), completion.finish_reason), ("he", FinishReason::Length));
    let chat = service.chat("a", vec![Message::user("hi")], options).unwrap();
    assert_eq!(chat.stream.collect_text().unwrap().0, "hi");
    let classes = service.classify("a", vec!["x".into()], ClassifyOptions::new()).unwrap();
    assert_eq!(classes.results[0].as_ref().unwrap().token.text, "x");
    let batch = service.batch("a", vec![BatchItem::new("b")]).unwrap();
    assert_eq!(batch.stream.collect_all().len(), 1);
    assert_eq!(service.info().unwrap().models.len(), 1);
    let backends = service.capabilities().unwrap().backends;
    let names: Vec<_> = backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["absent", "echo", "stage"]);
    assert_eq!(backends[0].availability, Availability::unavailable("no such device"));
    assert_eq!(service.unload("a").unwrap().name, "a");
    assert_eq!(format!("{service:?}"), "InferenceService { models: [], open_requests: 0, .. }");
}

#[test]
fn actions_have_stable_names() {
    let actions: [(Action, &str); 5] = [
        (Load::new("a", "b").into(), "load"),
        (Unload::new("a").into(), "unload"),
        (Generate::new(None, "x").into(), "generate"),
        (Capabilities::all().into(), "capabilities"),
        (Cancel::All.into(), "cancel"),
    ];
    for (action, name) in actions {
        assert_eq!(action.name(), name);
    }
}

#[test]
fn an_unknown_model_is_answered_with_those_that_are_there() {
    let (service, stage) = service(ServiceOptions::new());
    let message = |service: &InferenceService| {
        let error = service.generate("c", "x", GenerateOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound);
        error.to_string()
    };
    assert_eq!(message(&service), "no model `c`: loaded: none");
    service.load("b", "1 bytes").unwrap();
    service.load("a", "1 bytes").unwrap();
    assert_eq!(message(&service), "no model `c`: loaded: a, b");
    for action in [
        Action::from(Info::of("c")),
        Metrics::of("c").into(),
        Unload::new("c").into(),
        Cancel::Model("c".into()).into(),
        Classify::new("c", vec![]).into(),
        Batch::new("c", vec![]).into(),
        Chat::new("c", vec![]).into(),
    ] {
        let name = action.name();
        let error = service.dispatch(action).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound, "{name}");
    }
    let error = service.dispatch(Capabilities::of("nobody")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownBackend);
    assert_eq!(stage.loads().len(), 2);
}

#[test]
fn the_default_model_is_loaded_when_it_is_first_used_and_again_after() {
    let default = Load::new("main", "7 bytes");
    let (service, stage) = service(ServiceOptions::new().with_default_model(default));
    assert!(stage.loads().is_empty());
    let info = service.info().unwrap();
    assert_eq!((info.models.len(), info.default_model.as_deref()), (0, Some("main")));

    let read = |target: Target| {
        let generation = service.generate(target, "hello", GenerateOptions::new()).unwrap();
        assert_eq!(generation.model, "main");
        generation.stream.collect_text().unwrap().0
    };
    assert_eq!(read(Target::Default), "hello");
    assert_eq!(read("main".into()), "hello");
    assert_eq!(stage.loads().len(), 1);
    service.unload("main").unwrap();
    assert_eq!(read("main".into()), "hello");
    assert_eq!(stage.loads().len(), 2);
}

#[test]
fn without_a_default_model_one_must_be_named() {
    let (service, _) = service(ServiceOptions::new());
    let error = service.generate(None, "x", GenerateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no default model"), "{error}");
}

#[test]
fn a_refused_request_leaves_nothing_open() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "1 bytes").unwrap();
    let bad = GenerateOptions::new().with_max_tokens(0);
    assert_eq!(service.generate("a", "x", bad).unwrap_err().kind(), ErrorKind::InvalidOption);
    let empty = service.generate("a", "", GenerateOptions::new()).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::InvalidInput);
    let bad = ClassifyOptions::new().with_top(101);
    let error = service.classify("a", vec!["x".into()], bad).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let status = &service.info().unwrap().models[0];
    assert_eq!(status.requests, 0);
    assert!(service.metrics().unwrap().open.is_empty());
    // Nothing to read: it is over when it begins.
    let empty = service.batch("a", vec![]).unwrap();
    assert!(service.metrics().unwrap().open.is_empty());
    assert!(empty.stream.collect_all().is_empty());
}

#[test]
fn options_are_checked() {
    let check = |options: ServiceOptions, field: &str| {
        let error = InferenceService::new(options).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    };
    check(ServiceOptions::new().with_memory_budget(0), "memory_budget");
    check(ServiceOptions::new().with_max_models(0), "max_models");
    check(ServiceOptions::new().with_max_requests(0), "max_requests");
    check(ServiceOptions::new().with_load_options(LoadOptions::new().with_threads(0)), "threads");
    check(ServiceOptions::new().with_default_model(Load::new("", "x")), "model name");
}

#[test]
fn a_model_has_so_many_open_requests_and_no_more() {
    let (service, _) = service(ServiceOptions::new().with_max_requests(2));
    service.load("a", "1 bytes").unwrap();
    service.load("b", "1 bytes").unwrap();
    let start = |name: &str| service.generate(name, "x", GenerateOptions::new());
    let first = start("a").unwrap();
    let second = start("a").unwrap();
    let error = start("a").unwrap_err();
    assert_eq!(error.to_string(), "open requests of model `a` exhausted: 3 needed, 2 available");
    let other = start("b").unwrap();
    drop(first);
    let third = start("a").unwrap();
    assert!(start("a").is_err());
    second.stream.finish().unwrap();
    start("a").unwrap();
    drop((other, third));
    assert!(service.metrics().unwrap().open.is_empty());
}
