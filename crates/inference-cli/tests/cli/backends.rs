//! `backends`.

use inference::CapabilityId;
use serde_json::Value;

use crate::run::inference;

#[test]
fn all_three_show_and_say_why_they_cannot_run() {
    let backends = inference(["backends", "--json"]).json();
    let by_name = |name: &str| -> Value {
        let all = backends.as_array().unwrap();
        all.iter().find(|backend| backend["name"] == name).unwrap().clone()
    };
    let cpu = by_name("cpu");
    let device = &cpu["availability"]["ready"]["devices"][0];
    assert!(device["name"].is_string(), "{cpu}");
    assert!(device["compute_units"].as_u64().unwrap() >= 1, "{cpu}");
    for (name, feature, built) in [
        ("cuda", "cuda", cfg!(feature = "cuda")),
        ("metal", "metal", cfg!(feature = "metal")),
        ("llama_cpp", "llama-cpp", cfg!(feature = "llama-cpp")),
        ("rocm", "rocm", cfg!(feature = "rocm")),
        ("vulkan", "vulkan", cfg!(feature = "vulkan")),
    ] {
        let backend = by_name(name);
        let reason = backend["availability"]["unavailable"]["reason"].as_str();
        assert!(built || reason.is_some_and(|reason| reason.contains(feature)), "{backend}");
    }
    for backend in backends.as_array().unwrap() {
        let abilities = backend["capabilities"].as_array().unwrap();
        assert_eq!(abilities.len(), CapabilityId::ALL.len(), "{backend}");
        for ability in abilities {
            for field in ["id", "group", "status", "detail"] {
                assert!(ability[field].is_string(), "{ability}");
            }
        }
    }
}

#[test]
fn the_table_follows_the_order_of_automatic_choice() {
    let table = inference(["backends"]).text();
    let line = |name: &str| table.lines().position(|line| line.starts_with(name)).unwrap();
    assert!(line("metal") < line("cuda") && line("cuda") < line("cpu"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(!table.contains("continuous_batching"), "{table}");
}

#[test]
fn verbose_adds_what_each_can_do() {
    let table = inference(["backends", "--verbose"]).text();
    for ability in CapabilityId::ALL {
        assert!(table.contains(ability.as_str()), "{ability} in {table}");
    }
}
