//! Memory, numbers of models, and who goes.

use inference_core::{Error, ErrorKind, GenerateOptions, LoadOptions};
use inference_service::action::Load;
use inference_service::{InferenceService, ServiceOptions};

use crate::support::service;

fn names(service: &InferenceService) -> Vec<String> {
    service.info().unwrap().models.into_iter().map(|model| model.name).collect()
}

fn load(service: &InferenceService, name: &str, bytes: u64) -> Result<Vec<String>, Error> {
    let load = Load::new(name, format!("{bytes} bytes").as_str()).with_memory_bytes(bytes);
    service.perform(load).map(|loaded| loaded.unloaded)
}

fn touch(service: &InferenceService, name: &str) {
    service.generate(name, "x", GenerateOptions::new()).unwrap().stream.finish().unwrap();
}

#[test]
fn the_least_recently_used_go_first_and_no_more_than_needed() {
    let (service, stage) = service(ServiceOptions::new().with_memory_budget(100));
    for name in ["a", "b", "c"] {
        assert!(load(&service, name, 30).unwrap().is_empty());
    }
    touch(&service, "a");
    // 90 are used: b, the least recently used, is enough.
    assert_eq!(load(&service, "d", 40).unwrap(), ["b"]);
    assert_eq!(names(&service), ["a", "c", "d"]);
    // 100 are used, 70 are needed: c and a go, in this order.
    assert_eq!(load(&service, "e", 60).unwrap(), ["c", "a"]);
    assert_eq!(names(&service), ["d", "e"]);
    assert_eq!(service.info().unwrap().memory_used, 100);
    assert_eq!(stage.alive(), 2);
    let metrics = service.metrics().unwrap();
    assert_eq!((metrics.loads, metrics.evictions, metrics.unloads), (5, 3, 3));
}

#[test]
fn loading_what_is_there_is_a_use() {
    let (service, _) = service(ServiceOptions::new().with_max_models(2));
    load(&service, "a", 1).unwrap();
    load(&service, "b", 1).unwrap();
    load(&service, "a", 1).unwrap();
    assert_eq!(load(&service, "c", 1).unwrap(), ["b"]);
}

#[test]
fn the_end_of_a_request_is_a_use() {
    let (service, _) = service(ServiceOptions::new().with_max_models(2));
    load(&service, "a", 1).unwrap();
    let open = service.generate("a", "x", GenerateOptions::new()).unwrap();
    load(&service, "b", 1).unwrap();
    open.stream.finish().unwrap();
    assert_eq!(load(&service, "c", 1).unwrap(), ["b"]);
}

#[test]
fn models_with_open_requests_and_pinned_ones_stay() {
    let (service, stage) = service(ServiceOptions::new().with_memory_budget(100));
    let pinned = Load::new("p", "30 bytes").with_memory_bytes(30).with_pinned(true);
    service.perform(pinned).unwrap();
    load(&service, "a", 30).unwrap();
    load(&service, "b", 30).unwrap();
    // Not even begun, and yet open.
    let open = service.generate("a", "hello", GenerateOptions::new()).unwrap();
    let error = load(&service, "big", 50).unwrap_err();
    let Error::Exhausted { resource, needed, available } = &error else { panic!("{error}") };
    assert!(resource.contains("bytes"), "{resource}");
    assert_eq!((*needed, *available), (50, 40));
    // Since it would not have sufficed, b is still there.
    assert_eq!(names(&service), ["a", "b", "p"]);
    assert_eq!(stage.loads().len(), 3, "what cannot fit is not even tried");
    assert_eq!(load(&service, "c", 40).unwrap(), ["b"]);
    assert_eq!(open.stream.collect_text().unwrap().0, "hello");
    assert_eq!(load(&service, "d", 70).unwrap(), ["c", "a"]);
    assert_eq!(load(&service, "e", 71).unwrap_err().kind(), ErrorKind::Exhausted);
    // Pinned does not mean for ever.
    service.unload("p").unwrap();
    assert_eq!(load(&service, "f", 100).unwrap(), ["d"]);
}

#[test]
fn what_turns_out_larger_than_expected_makes_more_room_or_goes() {
    let (service, stage) = service(ServiceOptions::new().with_memory_budget(100));
    load(&service, "a", 40).unwrap();
    load(&service, "b", 40).unwrap();
    // Nothing is known of it beforehand; it turns out to need 50.
    let loaded = service.load("c", "50 bytes").unwrap();
    assert_eq!((loaded.memory_bytes, loaded.unloaded), (50, vec!["a".to_owned()]));
    let error = service.load("d", "101 bytes").unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory budget of the models (bytes) exhausted: 101 needed, 100 available"
    );
    assert_eq!(names(&service), ["b", "c"]);
    assert_eq!(stage.alive(), 2, "the large one was closed");
    // The name is free again.
    assert!(service.load("d", "10 bytes").unwrap().unloaded.is_empty());
}

#[test]
fn what_turns_out_smaller_gives_back_the_rest() {
    let (service, _) = service(ServiceOptions::new().with_memory_budget(100));
    let generous = Load::new("a", "10 bytes").with_memory_bytes(90);
    assert_eq!(service.perform(generous).unwrap().memory_bytes, 10);
    assert!(load(&service, "b", 90).unwrap().is_empty());
}

#[test]
fn the_number_of_models_is_bounded_too() {
    let (service, _) = service(ServiceOptions::new().with_max_models(2));
    load(&service, "a", 0).unwrap();
    load(&service, "b", 0).unwrap();
    let open = [
        service.generate("a", "x", GenerateOptions::new()).unwrap(),
        service.generate("b", "x", GenerateOptions::new()).unwrap(),
    ];
    let error = load(&service, "c", 0).unwrap_err();
    assert_eq!(error.to_string(), "loaded models exhausted: 3 needed, 2 available");
    drop(open);
    assert_eq!(load(&service, "c", 0).unwrap(), ["a"]);
}

#[test]
fn models_without_weight_do_not_go_for_memory() {
    let (service, _) = service(ServiceOptions::new().with_memory_budget(10));
    load(&service, "light", 0).unwrap();
    load(&service, "heavy", 10).unwrap();
    assert_eq!(load(&service, "next", 5).unwrap(), ["heavy"]);
}

#[test]
fn files_and_the_kv_budget_are_expected_and_the_pool_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), vec![0; 60]).unwrap();
    let (service, stage) = service(ServiceOptions::new().with_memory_budget(100));
    let options = LoadOptions::new().with_kv_budget(41);
    let error = service.perform(Load::new("a", folder.path()).with_options(options)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "memory budget of the models (bytes) exhausted: 101 needed, 100 available"
    );
    assert!(stage.loads().is_empty());
    // The engine says what its pool takes: 512 blocks of 10 bytes beside 1000
    // bytes of weights.
    let error = service.load("sim", "sim").unwrap_err();
    assert!(error.to_string().contains("6120 needed"), "{error}");
    assert!(stage.sim("sim").is_dropped());
}

#[test]
fn a_model_counts_for_what_it_has_grown_to() {
    let (service, _) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let before = service.info().unwrap().memory_used;
    assert_eq!(before, 6120);
    let options = GenerateOptions::new().with_max_tokens(4);
    let generation = service.generate("sim", vec![1; 300], options).unwrap();
    generation.stream.finish().unwrap();
    // Weights, blocks in use and activations together stay below that.
    assert_eq!(service.info().unwrap().memory_used, before);
    assert!(service.metrics().unwrap().models["sim"].peak_bytes > 1000);
}

#[test]
fn a_held_model_stays_until_it_is_let_go() {
    let (service, stage) = service(ServiceOptions::new().with_max_models(1));
    load(&service, "a", 1).unwrap();
    let held = service.model("a").unwrap();
    assert_eq!((held.name(), held.encode("a", true).unwrap()), ("a", vec![97]));
    assert_eq!(load(&service, "b", 1).unwrap_err().kind(), ErrorKind::Exhausted);
    drop(held);
    assert_eq!(load(&service, "b", 1).unwrap(), ["a"]);
    assert_eq!(service.model("a").unwrap_err().kind(), ErrorKind::ModelNotFound);
    // Unloaded all the same where somebody says so.
    let held = service.model("b").unwrap();
    service.unload("b").unwrap();
    assert_eq!(stage.alive(), 0);
    let refused = held.generate("x".into(), GenerateOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed);
}
