//! The file that all engines load.

use std::fs::File;
use std::path::{Path, PathBuf};

use inference_gguf::GgufFile;

use crate::Result;

/// A GGUF file whose pages are in memory.
#[derive(Debug)]
pub(super) struct ModelFile {
    path: PathBuf,
    bytes: u64,
    bytes_per_token: u64,
}

impl ModelFile {
    /// Reads its header, and all of it once.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let gguf = GgufFile::open(path)?;
        let all: u64 = gguf.tensors().iter().map(|tensor| tensor.byte_len()).sum();
        // Of an embedding that is not the head as well, a token reads one row.
        let unread = match (gguf.tensor("output.weight"), gguf.tensor("token_embd.weight")) {
            (Some(_), Some(embedding)) => embedding.byte_len(),
            _ => 0,
        };
        let bytes = gguf.file_bytes();
        drop(gguf);
        let mut file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(Self { path: path.to_owned(), bytes, bytes_per_token: all - unread })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of weights that one token needs, if every one of them is used
    /// (not so in mixtures of experts).
    pub(super) fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }

    /// Folder and file, which is how test models are told apart.
    pub(super) fn name(&self) -> String {
        let part = |path: Option<&std::ffi::OsStr>| {
            path.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let folder = part(self.path.parent().and_then(Path::file_name));
        let file = part(self.path.file_stem());
        if folder.is_empty() { file } else { format!("{folder}/{file}") }
    }
}
