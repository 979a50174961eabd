//! llama.cpp's downloads: `ORG_NAME_FILE.gguf`, all in one folder.

use std::path::{Path, PathBuf};

use inference_core::Result;

use super::Models;
use crate::reference::HubRef;
use crate::{Discover, DiscoverOptions, gguf_model};

pub(super) fn models(root: &Path) -> Models {
    let models = Discover::new(root, DiscoverOptions::new().with_max_depth(0));
    Box::new(models.map(|model| {
        let mut model = model?;
        // Where the repository ends in the file's name cannot be told.
        model.name = model.path.display().to_string();
        Ok(model)
    }))
}

/// A repository is found only with its file.
pub(super) fn find(root: &Path, wanted: &HubRef) -> Result<Option<PathBuf>> {
    let (None, Some(file)) = (&wanted.revision, &wanted.file) else { return Ok(None) };
    let name = format!("{}_{}", wanted.repository, file).replace('/', "_");
    let path = root.join(name);
    let complete = path.is_file() && gguf_model::missing_part(&path).is_none();
    Ok(complete.then_some(path))
}
