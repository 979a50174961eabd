//! The bytes of a file, with the means to drop pages that were read.

use std::ops::Range;
use std::sync::Arc;

use inference_core::Result;
use inference_gguf::MappedFile;

use crate::WeightBytes;

/// The bytes of a file, mapped or a binary's own.
#[derive(Clone)]
pub(crate) struct MappedBytes {
    bytes: WeightBytes,
    /// The same bytes, where they are a map of a file.
    map: Option<Arc<MappedFile>>,
}

impl MappedBytes {
    /// Maps a file read-only.
    pub(crate) fn map(path: &std::path::Path) -> Result<Self> {
        let map = Arc::new(MappedFile::open(path)?);
        Ok(Self { bytes: Arc::clone(&map) as WeightBytes, map: Some(map) })
    }

    /// Bytes that are always in memory.
    pub(crate) fn fixed(bytes: WeightBytes) -> Self {
        Self { bytes, map: None }
    }

    pub(crate) fn shared(&self) -> &WeightBytes {
        &self.bytes
    }

    /// The same bytes, where they are a map of a file.
    pub(crate) fn mapped(&self) -> Option<&Arc<MappedFile>> {
        self.map.as_ref()
    }

    pub(crate) fn all(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// The bytes `range`, which was checked against the length.
    pub(crate) fn get(&self, range: Range<usize>) -> &[u8] {
        self.all().get(range).unwrap_or_default()
    }

    /// Drops the pages of `range` from memory; they are read from the file
    /// again when they are used. Only whole pages go.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Some(map) = &self.map {
            map.release_range(range);
        }
    }
}
