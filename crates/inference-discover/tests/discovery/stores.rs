//! The stores of other tools.

use std::ffi::OsString;
use std::path::PathBuf;

use inference_discover::{Store, StoreKind, Stores};
use serde_json::json;

use crate::Place;
use crate::model_bytes::safetensors;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OLDER: &str = "1123456789abcdef0123456789abcdef01234567";

fn names(store: &Store) -> Vec<String> {
    store.models().map(|model| model.unwrap().name).collect()
}

#[test]
fn the_cache_of_the_hub_lists_snapshots_by_repository() {
    let place = Place::new();
    place.folder_model(&format!("models--org--name/snapshots/{COMMIT}"));
    place.folder_model(&format!("models--org--name/snapshots/{OLDER}"));
    place.write("models--org--name/refs/main", COMMIT);
    place.gguf_model(&format!("models--org--quantized/snapshots/{OLDER}/sub/m.Q4_K_M.gguf"));
    place.folder_model(&format!("models--gpt2/snapshots/{COMMIT}"));
    place.folder_model("datasets--org--name/snapshots/x");
    place.write("models--org--started/blobs/abc.incomplete", "half");
    let store = Store::new(StoreKind::HuggingFace, place.path());
    let (found, errors) = place.sorted_out(store.models());
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("inference pull org/started"), "{errors:?}");
    let names: Vec<_> = store.models().filter_map(Result::ok).map(|model| model.name).collect();
    let stores = Stores::new().with_store(StoreKind::HuggingFace, place.path());
    for model in store.models().filter_map(Result::ok) {
        assert_eq!(stores.resolve(&model.name).unwrap().path, model.path, "{}", model.name);
    }
    let older = format!("org/name@{OLDER}");
    assert_eq!(names, ["hf:gpt2", "org/name", &older, "org/quantized:sub/m.Q4_K_M.gguf"]);
}

#[test]
fn lm_studio_keeps_files_by_organisation_and_repository() {
    let place = Place::new();
    place.gguf_model("org/name-GGUF/m.gguf");
    place.folder_model("org/mlx");
    place.gguf_model("stray.gguf");
    let store = Store::new(StoreKind::LmStudio, place.path());
    let stray = place.path().join("stray.gguf").display().to_string();
    assert_eq!(names(&store), ["org/mlx", "org/name-GGUF:m.gguf", &stray]);
}

#[test]
fn llama_cpp_keeps_files_side_by_side() {
    let place = Place::new();
    place.gguf_model("org_name_m.gguf");
    place.gguf_model("folder/not-looked-at.gguf");
    place.write("manifest=org=name=latest.json", "{}");
    let store = Store::new(StoreKind::LlamaCpp, place.path());
    assert_eq!(names(&store), [place.path().join("org_name_m.gguf").display().to_string()]);
}

/// A store of Ollama with one model, whose manifest `change` may spoil.
fn ollama(name: &str, change: impl Fn(&mut serde_json::Value)) -> Place {
    let place = Place::new();
    let digest = "ab".repeat(32);
    let blob = place.gguf_model(&format!("blobs/sha256-{digest}"));
    let license = "cd".repeat(32);
    place.write(&format!("blobs/sha256-{license}"), "MIT License\n\nPermission");
    let mut manifest = json!({"schemaVersion": 2, "layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{digest}"),
         "size": std::fs::metadata(blob).unwrap().len()},
        {"mediaType": "application/vnd.ollama.image.license",
         "digest": format!("sha256:{license}")},
    ]});
    change(&mut manifest);
    place.write(&format!("manifests/{name}"), manifest.to_string());
    place
}

#[test]
fn models_of_ollama_are_blobs_that_manifests_name() {
    for (manifest, name) in [
        ("registry.ollama.ai/library/llama3.2/1b", "ollama:llama3.2:1b"),
        ("registry.ollama.ai/me/mine/latest", "ollama:me/mine:latest"),
        ("hf.co/org/name/Q4_K_M", "ollama:hf.co/org/name:Q4_K_M"),
    ] {
        let place = ollama(manifest, |_| {});
        let store = Store::new(StoreKind::Ollama, place.path());
        let model = store.models().next().unwrap().unwrap();
        assert_eq!(model.name, name);
        assert_eq!(model.dtype.as_deref(), Some("Q4_K_M"));
        assert_eq!(model.license.as_deref(), Some("mit"));
        let stores = Stores::new().with_store(StoreKind::Ollama, place.path());
        assert_eq!(stores.resolve(name).unwrap().path, model.path);
    }
}

#[test]
fn a_bad_manifest_is_an_error_that_names_it() {
    let name = "registry.ollama.ai/library/m/latest";
    for (pointer, value, named) in [
        ("/layers/0/digest", json!("sha256:../../x"), "digest"),
        ("/layers/0/size", json!(3), "size"),
        ("/layers/0/mediaType", json!("application/vnd.ollama.image.tensor"), "tensor"),
        ("/layers", json!("none"), "layers"),
        ("/layers/0/digest", json!(format!("sha256:{}", "ef".repeat(32))), "efefef"),
    ] {
        let place =
            ollama(name, |manifest| *manifest.pointer_mut(pointer).unwrap() = value.clone());
        let store = Store::new(StoreKind::Ollama, place.path());
        let (models, errors) = place.sorted_out(store.models());
        assert!(models.is_empty() && errors.len() == 1, "{value}: {models:?} {errors:?}");
        assert!(errors[0].contains(named), "{value}: {errors:?}");
    }
}

#[test]
fn the_environment_says_where_stores_are() {
    let stores = |vars: &[(&str, &str)]| {
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name);
        let stores = Stores::from_vars(|name| find(name).map(|(_, value)| OsString::from(*value)));
        stores.iter().map(|store| (store.kind(), store.root().to_owned())).collect::<Vec<_>>()
    };
    let at = |kind, path: &str| (kind, PathBuf::from(path));
    let plain = stores(&[("HOME", "/h")]);
    assert!(plain.contains(&at(StoreKind::HuggingFace, "/h/.cache/huggingface/hub")), "{plain:?}");
    assert!(plain.contains(&at(StoreKind::LmStudio, "/h/.lmstudio/models")), "{plain:?}");
    assert!(plain.contains(&at(StoreKind::LmStudio, "/h/.cache/lm-studio/models")), "{plain:?}");
    assert!(plain.contains(&at(StoreKind::Ollama, "/h/.ollama/models")), "{plain:?}");
    #[cfg(target_os = "linux")]
    assert!(plain.contains(&at(StoreKind::LlamaCpp, "/h/.cache/llama.cpp")), "{plain:?}");
    let set = stores(&[
        ("HOME", "/h"),
        ("HF_HOME", "~/hf"),
        ("OLLAMA_MODELS", "/o"),
        ("LLAMA_CACHE", "/l"),
        ("XDG_CACHE_HOME", "/x"),
    ]);
    assert!(set.contains(&at(StoreKind::HuggingFace, "/h/hf/hub")), "{set:?}");
    assert!(set.contains(&at(StoreKind::LlamaCpp, "/l")), "{set:?}");
    let ollama: Vec<_> = set.iter().filter(|(kind, _)| *kind == StoreKind::Ollama).collect();
    assert_eq!(ollama, [&at(StoreKind::Ollama, "/o")]);
    assert!(stores(&[]).is_empty());
}

#[test]
fn stores_that_do_not_exist_have_no_models() {
    let place = Place::new();
    let stores = Stores::new()
        .with_store(StoreKind::HuggingFace, place.path().join("none"))
        .with_store(StoreKind::Ollama, place.path())
        .with_store(StoreKind::LmStudio, place.path());
    assert_eq!(stores.models().count(), 0);
    place.write("org/name/model.safetensors", safetensors(&[]));
    assert!(stores.models().next().unwrap().is_err(), "no config.json");
}
