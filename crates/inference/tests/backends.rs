//! Backends come with the facade: by linking, and by hand.
#![cfg(feature = "cpu")]

use inference::prelude::*;

#[test]
fn linking_the_facade_links_its_backends() {
    assert!(Registry::global().get("cpu").unwrap().availability().is_ready());
}

#[test]
fn backends_registered_by_hand_load_models() {
    let registry = Registry::new();
    let Some(path) = inference_fixtures::dir("models/stories260k") else { return };
    let error = registry.load_model(path.clone(), &LoadOptions::new()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoBackendRegistered);

    inference::register_backends(&registry);
    let model = registry.load_model(path.clone(), &LoadOptions::new().with_threads(1)).unwrap();
    let expected = inference_fixtures::json(&path.join("expected.json"));
    let case = &expected["cases"][1];
    let options = GenerateOptions::new().with_max_tokens(128).with_ignore_eos(true);
    let prompt = case["prompt"].as_str().unwrap();
    let (text, completion) =
        model.generate(prompt.into(), options).unwrap().collect_text().unwrap();
    assert_eq!(text, case["greedy_text"].as_str().unwrap());
    assert_eq!(completion.finish_reason, FinishReason::Length);
}

#[test]
fn load_chooses_a_backend_and_names_the_one_that_fails() {
    let error = inference::load("/no/such/model", &LoadOptions::new()).err().unwrap();
    assert!(error.to_string().contains("/no/such/model"), "{error}");
    let options = LoadOptions::new().with_backend("abacus");
    let error = inference::load("/no/such/model", &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnknownBackend);
}
