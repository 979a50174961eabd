//! Finds the reference data that tests compare with.
//!
//! The data lies beside the checkout, in `../shared/fixtures`, and is not part
//! of it. Where it is absent a test prints why it skips and returns; in
//! continuous integration (`CI` set) its absence is a failure.
//!
//! ```
//! let Some(dir) = inference_fixtures::dir("tiny/qwen3") else { return };
//! let expected = inference_fixtures::json(&dir.join("expected.json"));
//! assert!(expected["prompts"].is_array());
//! ```

use std::path::{Path, PathBuf};

/// The fixture file or folder `name`, below `../shared/fixtures`; `None`,
/// with a message, where it is absent.
///
/// # Panics
///
/// If it is absent and the environment variable `CI` is set.
#[must_use]
#[expect(clippy::print_stderr, reason = "a helper of tests")]
pub fn dir(name: &str) -> Option<PathBuf> {
    // Beside the checkout of the package whose test runs: a target directory
    // that several checkouts share may hold this crate as built in another.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut places = package.ancestors().map(|folder| folder.join("shared/fixtures").join(name));
    if let Some(path) = places.find(|path| path.exists()) {
        return Some(path);
    }
    let path = Path::new("../shared/fixtures").join(name);
    let message = format!("reference data {} is absent", path.display());
    assert!(std::env::var_os("CI").is_none(), "{message}");
    eprintln!("skipped: {message}");
    None
}

/// Reads a JSON file of the fixtures.
///
/// # Panics
///
/// If it cannot be read or parsed.
#[must_use]
#[expect(clippy::panic, reason = "a helper of tests")]
pub fn json(path: &Path) -> serde_json::Value {
    let read = || -> Result<_, Box<dyn std::error::Error>> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    read().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An array of numbers of a fixture as `f32`, flattened if it is nested.
#[must_use]
pub fn floats(value: &serde_json::Value) -> Vec<f32> {
    match value {
        serde_json::Value::Array(items) => items.iter().flat_map(floats).collect(),
        // Written as the shortest decimal that reads back as the same f32.
        other => other.as_f64().map(|v| v as f32).into_iter().collect(),
    }
}

/// An array of token ids of a fixture.
#[must_use]
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}
