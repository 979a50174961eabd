//! The one place that maps files into memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, Result};
use memmap2::Mmap;

use crate::WeightBytes;

/// The bytes of a file, mapped or a binary's own.
#[derive(Clone)]
pub(crate) struct MappedBytes {
    bytes: WeightBytes,
    /// The same bytes, where they are a map of a file.
    map: Option<Arc<Mmap>>,
}

impl MappedBytes {
    /// Bytes that are always in memory.
    pub(crate) fn fixed(bytes: WeightBytes) -> Self {
        Self { bytes, map: None }
    }

    pub(crate) fn shared(&self) -> &WeightBytes {
        &self.bytes
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
        #[cfg(unix)]
        if let Some(map) = &self.map {
            const PAGE: usize = 1 << 16;
            let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
            if start < end && end <= map.len() {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the map is of a file, shared and never written, so
                // that a dropped page is read again with the same content.
                let dropped = unsafe { map.unchecked_advise_range(advice, start, end - start) };
                if let Err(error) = dropped {
                    tracing::debug!(%error, "pages stay in memory");
                }
            }
        }
        #[cfg(not(unix))]
        let _ = (range, &self.map);
    }
}

/// Maps a file read-only.
pub(crate) fn map_file(path: &Path) -> Result<MappedBytes> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    // SAFETY: the map is read-only and private to this process. That no other
    // process truncates or rewrites the file meanwhile cannot be ensured here;
    // `ModelFiles::map` documents it as the caller's part, as every mapping reader does.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
    let map = Arc::new(map);
    Ok(MappedBytes { bytes: Arc::clone(&map) as WeightBytes, map: Some(map) })
}
