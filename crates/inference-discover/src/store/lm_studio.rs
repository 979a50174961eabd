//! LM Studio: `ORG/NAME/FILE.gguf`, or a safetensors model in `ORG/NAME`.

use std::path::{Path, PathBuf};

use inference_core::Result;

use super::Models;
use crate::reference::HubRef;
use crate::{Discover, names, repository_files};

pub(super) fn models(root: &Path) -> Models {
    let root = root.to_owned();
    Box::new(Discover::new(&root, Default::default()).map(move |model| {
        let mut model = model?;
        model.name = names::resolvable(name(&root, &model.path).unwrap_or_default(), &model.path);
        Ok(model)
    }))
}

/// `ORG/NAME` or `ORG/NAME:FILE`; `None` for a path that is laid out otherwise.
fn name(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> =
        path.strip_prefix(root).ok()?.components().map(|part| part.as_os_str().to_str()).collect();
    match parts?.as_slice() {
        [organisation, name] => Some(format!("{organisation}/{name}")),
        [organisation, name, file @ ..] if !file.is_empty() => {
            Some(format!("{organisation}/{name}:{}", file.join("/")))
        }
        _ => None,
    }
}

pub(super) fn find(root: &Path, wanted: &HubRef) -> Result<Option<PathBuf>> {
    let folder = root.join(&wanted.repository);
    // It does not know revisions.
    if wanted.revision.is_some() || !folder.is_dir() {
        return Ok(None);
    }
    repository_files::find(&folder, wanted)
}
