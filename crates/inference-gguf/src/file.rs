//! A model in one GGUF file, or in the parts of a split one.

use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::{Metadata, TensorInfo};

/// The bytes of a file: a memory map, or a binary's own static data.
pub type FileBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A model in one GGUF file, or in the parts of a split one.
#[derive(Clone)]
pub struct GgufFile {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    parts: Vec<FileBytes>,
}

impl GgufFile {
    /// Maps a file and, where it is the first part of a split model, the
    /// other parts beside it; checks headers, reads no data.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file
    /// and field or tensor, [`Io`](inference_core::ErrorKind::Io).
    pub fn open(path: &Path) -> Result<Self> {
        Err(Error::unsupported(path.display().to_string(), "GGUF"))
    }

    /// The model in the bytes of one file; `name` names it in messages.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(name: &str, bytes: FileBytes) -> Result<Self> {
        let _ = bytes;
        Err(Error::unsupported(name, "GGUF"))
    }

    /// The key/value part (of the first file, where the model is split).
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order of the files.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name() == name)
    }

    /// The file that holds a tensor's data, and where in it.
    ///
    /// # Errors
    ///
    /// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for a
    /// tensor of an unknown type.
    pub fn data(&self, tensor: &TensorInfo) -> Result<(FileBytes, std::ops::Range<usize>)> {
        let part = self.parts.get(tensor.part);
        let part = part.ok_or_else(|| Error::unsupported(&*tensor.name, "read"))?;
        Ok((Arc::clone(part), tensor.range.clone()))
    }
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile").field("file", &self.metadata.file()).finish_non_exhaustive()
    }
}
