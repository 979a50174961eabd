//! Rules of the workspace that no compiler checks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest first-party source file, in lines. A file is one idea.
const MAX_LINES: usize = 600;

/// Where code may be unsafe: kernels, memory maps, and calls of others' kernels.
const UNSAFE_ALLOWED: [&str; 4] = [
    "crates/inference-cpu/src/",
    "crates/inference-batched/src/kernels",
    "crates/inference-gguf/src/mapped_file.rs",
    // A peer whose only interface is unsafe.
    "xtask/src/bench/batched/gemm_peer.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every first-party source, by its path from the root.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    walk(&path, root, found);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    for top in ["crates", "examples", "xtask", "tests"] {
        walk(&root.join(top), &root, &mut found);
    }
    assert!(found.len() > 20, "found only {} sources", found.len());
    found
}

/// The crates that `package` pulls into a build, itself included.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
}

#[test]
fn modules_are_named_after_what_they_hold() {
    for (name, _) in sources() {
        let file = name.rsplit('/').next().unwrap();
        assert!(!["mod.rs", "utils.rs", "util.rs", "helpers.rs"].contains(&file), "{name}");
    }
}

#[test]
fn unsafe_code_stays_in_kernels_and_maps() {
    for (name, text) in sources() {
        let allowed = UNSAFE_ALLOWED.iter().any(|folder| name.starts_with(folder));
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| code.contains(word))
        });
        assert!(allowed || !uses || name == "tests/tests/tidy.rs", "{name} uses unsafe");
    }
}

#[test]
fn the_contract_is_small() {
    let core = tree("inference-core");
    assert!(core.len() < 15, "{} crates: {core:?}", core.len());
    let lib = fs::read_to_string(root().join("crates/inference-core/src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn layers_depend_downwards_only() {
    let has = |package: &str, dependency: &str| {
        tree(package).iter().any(|name| name.starts_with(dependency))
    };
    for heavy in ["candle", "tokio", "tokenizers", "serde_json"] {
        assert!(!has("inference-core", heavy), "inference-core pulls in {heavy}");
    }
    assert!(!has("inference-engine", "candle"), "the engine knows no tensor library");
    assert!(!has("inference-llamacpp", "candle"), "llama.cpp needs no tensor library");
    assert!(!has("inference-text", "inference-engine"));
    assert!(!has("inference-service", "inference-engine"), "the service knows the contract alone");
    for (backend, others) in [
        ("inference-cpu", ["inference-cuda", "inference-metal"]),
        ("inference-cuda", ["inference-cpu", "inference-metal"]),
        ("inference-metal", ["inference-cpu", "inference-cuda"]),
    ] {
        for other in others {
            assert!(!has(backend, other), "{backend} depends on {other}");
        }
    }
    assert_eq!(tree("inference-demo").len(), 1, "the embedded model depends on nothing");
}

#[test]
fn published_crates_are_complete() {
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let dir = entry.unwrap().path();
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        let folder = dir.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(manifest.contains(&format!("name = \"{folder}\"")), "{folder}: package name");
        if manifest.contains("publish = false") {
            continue;
        }
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(dir.join(file).is_file(), "{folder} lacks {file}");
        }
        for field in ["description", "license.workspace", "[package.metadata.docs.rs]"] {
            assert!(manifest.contains(field), "{folder} lacks {field}");
        }
    }
}
