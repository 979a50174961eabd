//! Which GGUF model a path means.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

/// Whether a file begins as GGUF does, whatever it is called.
///
/// # Errors
///
/// [`Io`](inference_core::ErrorKind::Io).
pub fn is_gguf(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return Ok(true);
    }
    let facts = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_file() {
        return Ok(false);
    }
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    match file.read_exact(&mut magic) {
        Ok(()) => Ok(magic == *b"GGUF"),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(Error::io(path, "read", e)),
    }
}

/// The one model among the names of `place`'s files: the first part of a split
/// one, and not a projector of images, which llama.cpp keeps beside its model.
/// `None` where there is no GGUF file.
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) where there are
/// several, naming them.
pub fn only_model(place: &str, mut names: Vec<String>) -> Result<Option<String>> {
    names.retain(|name| name.ends_with(".gguf") && !name.contains("mmproj"));
    names.sort_unstable();
    names.dedup_by(|later, first| match (split_stem(later), split_stem(first)) {
        (Some(later), Some(first)) => later == first,
        _ => false,
    });
    if names.len() > 1 {
        let found = names.join(", ");
        return Err(Error::invalid_model(
            place,
            "GGUF files",
            "one GGUF model; name the file",
            found,
        ));
    }
    Ok(names.pop())
}

/// The [one model](only_model) of a folder.
///
/// # Errors
///
/// As [`only_model`], and [`Io`](inference_core::ErrorKind::Io).
pub fn model_in_folder(folder: &Path) -> Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))? {
        let entry = entry.map_err(|e| Error::io(folder, "read", e))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(only_model(&folder.display().to_string(), names)?.map(|name| folder.join(name)))
}

/// `model` and `00003` of `model-00001-of-00003.gguf`.
fn split_stem(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (number(part) && number(count)).then_some((stem, count))
}
