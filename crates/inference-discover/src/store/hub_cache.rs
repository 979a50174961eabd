//! The cache of the Hugging Face hub.
//!
//! `models--ORG--NAME/refs/BRANCH` holds a commit, `snapshots/COMMIT` the
//! files as links into `blobs`. Names that end in `.incomplete` are downloads
//! that have not ended.

use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Error, Result};

use super::{Models, failed, sorted_names};
use crate::names::{self, HUB_PREFIX, repository_of_folder};
use crate::reference::{HubRef, ModelRef};
use crate::{Discover, bounded_file, repository_files};

pub(super) fn models(root: &Path) -> Models {
    let names = match sorted_names(root, true) {
        Ok(names) => names,
        Err(error) => return failed(error),
    };
    let root = root.to_owned();
    let repositories = names.into_iter().filter(|name| name.starts_with(HUB_PREFIX));
    Box::new(repositories.flat_map(move |name| repository(&root.join(name))))
}

/// The models of all snapshots of a repository.
fn repository(folder: &Path) -> Models {
    let main = commit(folder, "main");
    let snapshots = folder.join("snapshots");
    let commits = match sorted_names(&snapshots, true) {
        Ok(commits) => commits,
        Err(_) if !snapshots.exists() => Vec::new(),
        Err(error) => return failed(error),
    };
    if commits.is_empty() {
        return match has_incomplete_download(folder) {
            true => failed(incomplete(folder)),
            false => Box::new(std::iter::empty()),
        };
    }
    let alone = commits.len() == 1 && main.is_none();
    Box::new(commits.into_iter().flat_map(move |commit| {
        let is_main = alone || main.as_ref() == Some(&commit);
        Discover::new(snapshots.join(&commit), Default::default()).map(move |model| {
            let mut model = model?;
            model.name = names::resolvable(model.name, &model.path);
            if !is_main {
                at_commit(&mut model, &commit);
            }
            Ok(model)
        })
    }))
}

/// Puts the commit behind the repository's name.
fn at_commit(model: &mut DiscoveredModel, commit: &str) {
    if let Ok(ModelRef::Hub(mut name)) = model.name.parse() {
        name.revision = Some(commit.to_owned());
        model.name = name.to_string();
    }
}

fn has_incomplete_download(folder: &Path) -> bool {
    let Ok(blobs) = sorted_names(&folder.join("blobs"), false) else { return false };
    blobs.iter().any(|name| name.ends_with(".incomplete") || name.ends_with(".part"))
}

fn incomplete(folder: &Path) -> Error {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let repository = repository_of_folder(&name).unwrap_or_default();
    let id = HubRef { repository, revision: None, file: None };
    let found = format!("an unfinished one; `inference pull {id}` resumes it");
    Error::invalid_model(folder.display().to_string(), "snapshots", "a download", found)
}

/// The commit that a branch or tag stands for, or the commit itself.
fn commit(folder: &Path, revision: &str) -> Option<String> {
    let file = folder.join("refs").join(revision);
    if let Some(commit) = bounded_file::head(&file, 256) {
        let commit = commit.trim();
        // It becomes part of a path.
        let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
        return plain.then(|| commit.to_owned());
    }
    let is_commit = revision.bytes().all(|b| b.is_ascii_hexdigit())
        && folder.join("snapshots").join(revision).is_dir();
    is_commit.then(|| revision.to_owned())
}

pub(super) fn find(root: &Path, wanted: &HubRef) -> Result<Option<PathBuf>> {
    let folder = root.join(wanted.folder());
    let snapshots = folder.join("snapshots");
    let commit = commit(&folder, wanted.revision()).or_else(|| {
        // Some tools write no refs: then the only snapshot is meant.
        let only = sorted_names(&snapshots, true).unwrap_or_default();
        match <[String; 1]>::try_from(only) {
            Ok([commit]) if wanted.revision.is_none() => Some(commit),
            _ => None,
        }
    });
    let Some(commit) = commit else { return Ok(None) };
    let snapshot = snapshots.join(commit);
    if !snapshot.is_dir() {
        return Ok(None);
    }
    repository_files::find(&snapshot, wanted)
}
