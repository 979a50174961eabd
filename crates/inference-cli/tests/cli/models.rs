//! `models`, `pull` and `--model` with names, in an environment of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::run::{Run, command, fixture, inference};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The command with all stores in `home`, and no network to reach.
fn at_home(home: &Path) -> Command {
    let mut command = command();
    for name in ["HF_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("OLLAMA_MODELS", home.join("ollama"));
    command.env("HF_HOME", home.join("hf")).env("HF_ENDPOINT", "http://127.0.0.1:9");
    command
}

fn run(home: &Path, args: &[&str]) -> Run {
    at_home(home).args(args).output().unwrap().into()
}

/// A cache of the hub that holds the fixture as `org/name`.
fn home_with(fixture: &Path) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hf/hub/models--org--name");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    for entry in fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    home
}

#[test]
fn the_table_has_a_line_per_model_and_errors_below_it() {
    let Some((path, argument)) = fixture("gguf/llama") else { return };
    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join("x.gguf"), "no model").unwrap();
    let run = inference(["models", &argument, broken.path().to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert!(lines[0].starts_with("MODEL"), "{}", run.stdout);
    assert_eq!(lines.len(), 3, "{}", run.stdout);
    let file = path.join("llama-q8_0.gguf");
    let line = lines.iter().find(|line| line.starts_with(file.to_str().unwrap())).unwrap();
    for part in ["gguf", "llama", "Q8_0", "KiB"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(run.stderr.starts_with("error: ") && run.stderr.contains("x.gguf"), "{}", run.stderr);
}

#[test]
fn json_has_models_and_errors() {
    let Some((_, argument)) = fixture("tiny/qwen3") else { return };
    let found = inference(["models", "--json", &argument]).json();
    assert_eq!(found["errors"].as_array().unwrap().len(), 0);
    let model = &found["models"][0];
    assert_eq!(model["architecture"], "qwen3");
    assert_eq!(model["format"], "safetensors");
    assert!(model["parameters"].as_u64().unwrap() > 0);
    let backends = model["backends"].as_array().unwrap();
    assert!(backends.iter().any(|backend| backend[0] == "cpu" && backend[1].is_null()), "{model}");
}

#[test]
fn a_folder_that_is_not_there_is_a_failure_and_an_empty_one_is_not() {
    let stderr = inference(["models", "/no/such/folder"]).error(3);
    assert!(stderr.contains("/no/such/folder"), "{stderr}");
    let empty = tempfile::tempdir().unwrap();
    let run = run(empty.path(), &["models"]);
    assert_eq!(run.code, Some(0));
    // A store of the whole machine may exist; then it is listed.
    assert!(!run.stdout.is_empty() || run.stderr.contains("inference pull"), "{}", run.stderr);
}

#[test]
fn models_of_stores_are_used_by_the_names_that_the_table_shows() {
    let Some((path, argument)) = fixture("models/stories260k") else { return };
    let home = home_with(&path);
    let table = run(home.path(), &["models"]).text();
    assert!(table.lines().any(|line| line.starts_with("org/name  ")), "{table}");
    let args = |model| ["generate", "--model", model, "--max-tokens", "8", "Once upon a time"];
    let expected = inference(args(&argument)).text();
    for name in ["org/name", "hf:org/name", &format!("org/name@{COMMIT}")] {
        assert_eq!(run(home.path(), &args(name)).text(), expected, "{name}");
    }
    let ids = inference(["tokenize", "--model", &argument, "Once"]).text();
    assert_eq!(run(home.path(), &["tokenize", "--model", "org/name", "Once"]).text(), ids);
}

#[test]
fn a_name_without_a_model_says_how_to_get_it() {
    let home = tempfile::tempdir().unwrap();
    for (model, command, code) in [
        ("org/name", "inference pull org/name", 3),
        ("hf:org/name:x.gguf", "inference pull org/name:x.gguf", 3),
        ("ollama:llama3.2:1b", "ollama pull llama3.2:1b", 3),
        ("hf:../x", "hf:ORG/NAME", 2),
    ] {
        for args in [&["generate", "--model", model, "x"][..], &["inspect", model]] {
            let stderr = run(home.path(), args).error(code);
            assert!(stderr.contains(command), "{args:?}: {stderr}");
        }
    }
}

#[test]
fn a_model_of_ollama_runs_from_its_blob() {
    let Some((folder, _)) = fixture("gguf/stories260k") else { return };
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let hash = "ab".repeat(32);
    let ollama = home.path().join("ollama");
    fs::create_dir_all(ollama.join("blobs")).unwrap();
    fs::copy(&file, ollama.join(format!("blobs/sha256-{hash}"))).unwrap();
    let manifests = ollama.join("manifests/registry.ollama.ai/library/stories");
    fs::create_dir_all(&manifests).unwrap();
    let layer = serde_json::json!({"mediaType": "application/vnd.ollama.image.model",
        "digest": format!("sha256:{hash}")});
    let manifest = serde_json::json!({"layers": [layer]}).to_string();
    fs::write(manifests.join("latest"), manifest).unwrap();
    let args = |model| ["generate", "--model", model, "--max-tokens", "8", "Once upon a time"];
    let expected = inference(args(file.to_str().unwrap())).text();
    for name in ["ollama:stories", "ollama:stories:latest"] {
        assert_eq!(run(home.path(), &args(name)).text(), expected, "{name}");
    }
    assert!(run(home.path(), &["models"]).text().contains("\nollama:stories:latest  gguf"));
}

#[test]
fn the_embedded_model_has_a_name() {
    let empty = tempfile::tempdir().unwrap();
    let args = ["tokenize", "--model", "demo", "Once"];
    let named = command().args(args).current_dir(empty.path()).output().unwrap();
    let plain = inference(["tokenize", "Once"]).text();
    assert_eq!(Run::from(named).text(), plain);
}

#[test]
fn what_is_there_already_is_pulled_without_the_network() {
    let Some((path, argument)) = fixture("models/stories260k") else { return };
    assert_eq!(inference(["pull", &argument]).text(), format!("{argument}\n"));
    let home = home_with(&path);
    let offline = |args: &[&str]| -> Run {
        at_home(home.path()).env("HF_HUB_OFFLINE", "1").args(args).output().unwrap().into()
    };
    let pulled = offline(&["pull", "org/name", "--json"]).json();
    assert_eq!(pulled["store"], "huggingface");
    assert!(pulled["path"].as_str().unwrap().ends_with(COMMIT), "{pulled}");
    let stderr = offline(&["pull", "org/other"]).error(3);
    assert!(stderr.contains("HF_HUB_OFFLINE"), "{stderr}");
}

#[test]
fn a_hub_that_serves_is_pulled_from_and_tells_a_line_per_file() {
    let Some((path, _)) = fixture("models/stories260k") else { return };
    let endpoint = crate::hub::serve(&path, COMMIT);
    let home = tempfile::tempdir().unwrap();
    let mut pull = at_home(home.path());
    let output = pull.env("HF_ENDPOINT", &endpoint).args(["pull", "org/name"]).output().unwrap();
    let output = Run::from(output);
    assert!(output.stderr.contains("note: model.safetensors: "), "{}", output.stderr);
    let snapshot = output.text();
    assert!(snapshot.trim_end().ends_with(COMMIT), "{snapshot}");
    // The hub of `at_home` cannot be reached.
    let args = ["generate", "--model", "org/name", "--max-tokens", "4", "Once"];
    assert!(!run(home.path(), &args).text().is_empty());
    let error = run(home.path(), &["pull", "org/other", "--json"]);
    let stderr = error.stderr.lines().last().unwrap();
    let json: Value = serde_json::from_str(stderr).unwrap();
    assert_eq!(json["error"]["kind"], "network", "{json}");
    assert_eq!(error.code, Some(3));
}
