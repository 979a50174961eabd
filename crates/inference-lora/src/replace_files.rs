//! Files that take the place of older ones only when all of them are whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

/// Writes files into a folder, which is created where it is not there. Each is
/// written under a temporary name and flushed to the disk; only when that
/// worked for all of them do they get their names, in their order. Until then
/// older files of those names stay as they are.
///
/// # Errors
///
/// [`ErrorKind::Io`](inference_core::ErrorKind::Io): a disk that is full, for
/// example.
pub fn replace_files(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    replace_files_with(folder, files, &|file, bytes| file.write_all(bytes))
}

/// How bytes are written; tests inject failures here.
type WriteAll<'a> = &'a dyn Fn(&mut File, &[u8]) -> io::Result<()>;

pub(crate) fn replace_files_with(
    folder: &Path,
    files: &[(&str, &[u8])],
    write_all: WriteAll<'_>,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create", error))?;
    let mut temporaries = Temporaries(Vec::new());
    for (name, bytes) in files {
        let temporary = folder.join(format!(".{name}.{}.part", std::process::id()));
        let failed = |error| Error::io(folder.join(name), "write", error);
        let mut file = File::create(&temporary).map_err(failed)?;
        temporaries.0.push((temporary, folder.join(name)));
        write_all(&mut file, bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    for (temporary, path) in &temporaries.0 {
        fs::rename(temporary, path).map_err(|error| Error::io(path, "write", error))?;
    }
    temporaries.0.clear();
    sync_folder(folder)
}

/// Files that are removed unless they got their names.
struct Temporaries(Vec<(PathBuf, PathBuf)>);

impl Drop for Temporaries {
    fn drop(&mut self) {
        for (temporary, _) in &self.0 {
            // Nobody else knows of it; the first failure is the one to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Makes new names in a folder last. Elsewhere than on Unix a folder cannot be
/// opened for that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| Error::io(folder, "write", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_together() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new/adapter");
        replace_files(&folder, &[("a", b"1"), ("b", b"2")]).unwrap();
        replace_files(&folder, &[("a", b"3"), ("c", b"4")]).unwrap();
        assert_eq!(names(&folder), ["a", "b", "c"]);
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"3");
    }

    /// The disk is full after some bytes of the first, or of the second file.
    #[test]
    fn older_files_survive_a_full_disk() {
        for room in [0, 1, 3, 4, 6] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            replace_files(folder, &[("a", b"old"), ("b", b"older")]).unwrap();
            let left = std::cell::Cell::new(room);
            let full = |file: &mut File, bytes: &[u8]| {
                let count = bytes.len().min(left.get());
                file.write_all(&bytes[..count])?;
                left.set(left.get() - count);
                if count < bytes.len() {
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                Ok(())
            };
            let files: [(&str, &[u8]); 2] = [("a", b"newA"), ("b", b"newB")];
            let error = replace_files_with(folder, &files, &full).unwrap_err();
            assert_eq!(error.kind(), inference_core::ErrorKind::Io);
            assert_eq!(names(folder), ["a", "b"], "{room}");
            assert_eq!(fs::read(folder.join("a")).unwrap(), b"old");
            assert_eq!(fs::read(folder.join("b")).unwrap(), b"older");
        }
    }
}
