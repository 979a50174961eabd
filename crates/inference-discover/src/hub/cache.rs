//! Writing into the cache of the hub, as its own tools do.
//!
//! `blobs/CHECKSUM` holds a file's content, `blobs/CHECKSUM.incomplete` what
//! came of it so far, `.locks/REPOSITORY/CHECKSUM.lock` is held while it is
//! written; `snapshots/COMMIT/NAME` is a link to the blob and `refs/BRANCH`
//! the commit. hf-hub locks elsewhere and names unfinished files differently;
//! here it is Python's `huggingface_hub`, with which far more caches are filled.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inference_core::{Error, ProgressEvent, Result};

use super::checksum::Checksum;
use super::client::cancelled;
use super::options::HubOptions;
use crate::reference::HubRef;

/// How long to wait between two looks at a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The folder of a repository in the cache.
#[derive(Debug)]
pub(super) struct CacheRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CacheRepository {
    pub(super) fn new(cache: &Path, wanted: &HubRef) -> Self {
        let name = wanted.folder();
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    pub(super) fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join("blobs").join(checksum.digits())
    }

    pub(super) fn incomplete(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", checksum.digits()))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Waits until no other process writes this blob; the lock lasts as long
    /// as the file that is returned.
    pub(super) fn lock(&self, checksum: &Checksum, options: &HubOptions) -> Result<File> {
        create_folder(&self.locks)?;
        create_folder(&self.folder.join("blobs"))?;
        let path = self.locks.join(format!("{}.lock", checksum.digits()));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "create", e))?;
        let start = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::io(&path, "lock", e)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= options.lock_timeout => {
                    let waited = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Err(Error::io(&path, "wait for another process's lock", waited));
                }
                Err(TryLockError::WouldBlock) => {
                    if options.is_cancelled() {
                        return Err(cancelled(&path.display().to_string()));
                    }
                    if let Some(progress) = options.progress.as_ref().filter(|_| !told) {
                        let message =
                            "another process downloads the same file; waiting for it".to_owned();
                        progress.report(&ProgressEvent::Note { message });
                    }
                    told = true;
                    std::thread::sleep(LOCK_PAUSE);
                }
            }
        }
    }

    /// Makes a blob visible under its name in a snapshot.
    pub(super) fn link(&self, checksum: &Checksum, commit: &str, name: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(name);
        let blob = self.blob(checksum);
        let is_there = |path: &Path| fs::canonicalize(path).ok();
        if is_there(&pointer).is_some_and(|there| Some(there) == is_there(&blob)) {
            return Ok(());
        }
        if let Some(parent) = pointer.parent() {
            create_folder(parent)?;
        }
        // Over the snapshot and its folder, and over each folder in the name.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{}", checksum.digits());
        let mut fresh = pointer.clone().into_os_string();
        fresh.push(format!(".{}.link", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        link(Path::new(&target), &blob, &fresh).map_err(|e| Error::io(&fresh, "link", e))?;
        fs::rename(&fresh, &pointer).map_err(|e| Error::io(&pointer, "link", e))
    }

    /// Has a branch or tag stand for a commit.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if let Some(parent) = path.parent() {
            create_folder(parent)?;
        }
        let mut fresh = path.clone().into_os_string();
        fresh.push(format!(".{}.new", std::process::id()));
        fs::write(&fresh, commit).map_err(|e| Error::io(&fresh, "write", e))?;
        fs::rename(&fresh, &path).map_err(|e| Error::io(&path, "write", e))
    }
}

fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "create", e))
}

/// A symbolic link, or a copy where the system has none.
#[cfg(unix)]
fn link(target: &Path, _blob: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, at: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, at).or_else(|_| fs::copy(blob, at).map(drop))
}
