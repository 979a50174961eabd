//! From what a user writes to a path.

use inference_core::{ErrorKind, ModelSource};
use inference_discover::{StoreKind, Stores, resolve};

use crate::Place;
use crate::model_bytes::{gguf, llama_metadata};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache of the hub in `hub`, LM Studio's in `lms`, llama.cpp's in `cpp`.
fn place() -> (Place, Stores) {
    let place = Place::new();
    let at = |path: &str| place.path().join(path);
    let stores = Stores::new()
        .with_store(StoreKind::HuggingFace, at("hub"))
        .with_store(StoreKind::LmStudio, at("lms"))
        .with_store(StoreKind::LlamaCpp, at("cpp"))
        .with_store(StoreKind::Ollama, at("oll"));
    (place, stores)
}

#[test]
fn names_are_looked_up_in_every_store() {
    let (place, stores) = place();
    place.folder_model(&format!("hub/models--org--name/snapshots/{COMMIT}"));
    place.write("hub/models--org--name/refs/main", COMMIT);
    place.write("hub/models--org--name/refs/v1", format!("{COMMIT}\n"));
    place.gguf_model("lms/org/studio/m.Q4_K_M.gguf");
    place.gguf_model("lms/org/studio/m.Q8_0.gguf");
    place.gguf_model("cpp/org_name_m.gguf");
    let snapshot = format!("hub/models--org--name/snapshots/{COMMIT}");
    for (text, path, store) in [
        ("org/name", &*snapshot, StoreKind::HuggingFace),
        ("hf:org/name", &snapshot, StoreKind::HuggingFace),
        ("org/name@v1", &snapshot, StoreKind::HuggingFace),
        (&format!("org/name@{COMMIT}"), &snapshot, StoreKind::HuggingFace),
        ("org/studio:m.Q8_0.gguf", "lms/org/studio/m.Q8_0.gguf", StoreKind::LmStudio),
        ("hf:org/studio:q4_k_m", "lms/org/studio/m.Q4_K_M.gguf", StoreKind::LmStudio),
        ("hf:org/name:m.gguf", "cpp/org_name_m.gguf", StoreKind::LlamaCpp),
    ] {
        let resolved = stores.resolve(text).unwrap();
        assert_eq!(resolved.path, place.path().join(path), "{text}");
        assert_eq!(resolved.store, Some(store), "{text}");
        assert_eq!(ModelSource::from(resolved), ModelSource::Path(place.path().join(path)));
    }
    let error = stores.resolve("org/studio").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.contains("org/studio:m.Q4_K_M.gguf, org/studio:m.Q8_0.gguf"), "{text}");
}

#[test]
fn what_is_not_there_says_how_to_get_it() {
    let (place, stores) = place();
    for (text, command) in [
        ("org/name", "inference pull org/name"),
        ("hf:gpt2", "inference pull hf:gpt2"),
        ("hf:org/name:x.gguf", "inference pull org/name:x.gguf"),
        ("org/name@v2", "inference pull org/name@v2"),
        ("ollama:llama3.2:1b", "ollama pull llama3.2:1b"),
    ] {
        let error = stores.resolve(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound, "{text}");
        assert!(error.to_string().contains(command), "{error}");
    }
    // The snapshot has a description and no weights.
    place.write(&format!("hub/models--org--name/snapshots/{COMMIT}/config.json"), "{}");
    let error = stores.resolve("org/name").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotFound);
    assert!(error.to_string().contains("incomplete"), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_split_file_that_lacks_a_part_is_incomplete() {
    let (place, stores) = place();
    let bytes = gguf(&llama_metadata(15), &[("w", &[8, 8])]);
    place.write("lms/org/big/m-00001-of-00002.gguf", bytes);
    let error = stores.resolve("org/big:m-00001-of-00002.gguf").unwrap_err();
    assert!(error.to_string().contains("m-00002-of-00002.gguf"), "{error}");
}

#[test]
fn a_path_that_exists_wins_and_one_that_does_not_is_named() {
    let (place, stores) = place();
    let model = place.gguf_model("hf:org/name");
    let text = model.to_str().unwrap();
    assert_eq!(stores.resolve(text).unwrap().path, model);
    assert_eq!(resolve(text).unwrap().store, None);
    for text in ["/no/such/model", "./models/x", "model.gguf", ""] {
        let error = stores.resolve(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{text}");
    }
    assert_eq!(stores.resolve("hf:../x").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_a_path() {
    let (place, stores) = place();
    let link = place.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert_eq!(stores.resolve(link.to_str().unwrap()).unwrap().path, link);
}
