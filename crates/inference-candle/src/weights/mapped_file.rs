//! The one place that maps files into memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::WeightBytes;

/// Maps a file, read-only.
pub(crate) fn map_file(path: &Path) -> Result<WeightBytes> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    // SAFETY: the map is read-only and private to this process. That no other
    // process truncates or rewrites the file meanwhile cannot be ensured here;
    // `ModelFiles::map` documents it as the caller's part, as every mapping reader does.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
    Ok(Arc::new(map))
}
