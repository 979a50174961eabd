//! Models in folders and stores, whole and broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../support/model_bytes.rs"]
mod model_bytes;

mod damage;
mod fixtures;
mod resolving;
mod stores;
mod walk;

use std::fs;
use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error};
use model_bytes::{gguf, llama_metadata, safetensors};

/// A folder that a test fills.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A safetensors model of 64 parameters.
    fn folder_model(&self, path: &str) {
        self.write(&format!("{path}/config.json"), r#"{"model_type": "llama"}"#);
        self.write(&format!("{path}/model.safetensors"), safetensors(&[("w", &[8, 8])]));
    }

    /// A GGUF model of 64 parameters that calls itself Q4_K_M.
    fn gguf_model(&self, path: &str) -> PathBuf {
        self.write(path, gguf(&llama_metadata(15), &[("w", &[8, 8])]))
    }

    /// What was found, by path from here, and what failed, by message.
    fn sorted_out(
        &self,
        found: impl Iterator<Item = Result<DiscoveredModel, Error>>,
    ) -> (Vec<String>, Vec<String>) {
        let (mut models, mut errors) = (Vec::new(), Vec::new());
        for item in found {
            match item {
                Ok(model) => {
                    let path = model.path.strip_prefix(self.path()).unwrap();
                    models.push(path.to_str().unwrap().to_owned());
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error);
                    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                    errors.push(format!("{error}{cause}"));
                }
            }
        }
        (models, errors)
    }
}
