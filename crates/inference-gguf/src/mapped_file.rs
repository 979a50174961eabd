//! The one place that maps files into memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::FileBytes;

/// Maps a file, read-only.
///
/// # Errors
///
/// As [`MappedFile::open`].
pub fn map_file(path: &Path) -> Result<FileBytes> {
    Ok(Arc::new(MappedFile::open(path)?))
}

/// A file mapped into memory, read-only.
///
/// The file must not be changed or truncated while it is mapped: the operating
/// system ends a process that reads beyond the new end.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps a regular file.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io) where it cannot be opened or
    /// mapped, [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for a
    /// folder, pipe or device.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: to open a pipe is to wait for its writer.
        let facts = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
        if !facts.is_file() {
            let found = if facts.is_dir() { "a folder" } else { "a special file" };
            let path = path.display().to_string();
            return Err(Error::invalid_model(path, "file", "a regular file", found));
        }
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        // SAFETY: the map is read-only and private to this process. That no other
        // process truncates or rewrites the file meanwhile cannot be ensured here;
        // the type documents it as the caller's part, as every mapping reader does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        Ok(Self { map })
    }

    /// Gives the resident pages back to the operating system. What is read
    /// later is read from the file again.
    ///
    /// Does nothing on systems that cannot, or where the system declines: it
    /// is advice.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file, shared and read-only, so its pages hold
            // nothing that the file does not; dropped ones are read from it again.
            let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl MappedFile {
    /// As [`release_pages`](Self::release_pages), for the pages that `range`
    /// lies in: of its neighbours up to 64 KiB go too.
    pub fn release_range(&self, range: Range<usize>) {
        /// A multiple of every system's page size.
        const PAGE: usize = 1 << 16;
        let start = range.start / PAGE * PAGE;
        let end = range.end.saturating_add(PAGE - 1) / PAGE * PAGE;
        let end = end.min(self.map.len());
        if start >= end {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: as in `release_pages`; the range lies in the map.
            let _ = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
        }
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
