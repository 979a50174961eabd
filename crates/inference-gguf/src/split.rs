//! Models in several files: `NAME-00001-of-00003.gguf` and so on.
//!
//! Every part has a header of its own with `split.no` (from 0 on) and
//! `split.count`; the first has the model's metadata too.

use std::path::{Path, PathBuf};

use inference_core::{Error, Result};

use crate::Metadata;

pub(crate) const COUNT: &str = "split.count";
const INDEX: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// More parts than file names can number.
const MAX_PARTS: usize = 99_999;

/// What a part says about the whole.
pub(crate) struct Split {
    /// The part's file.
    file: String,
    /// From 0 on.
    pub(crate) index: usize,
    pub(crate) count: usize,
    tensors: Option<usize>,
}

impl Split {
    /// `None` where the file is the whole model.
    pub(crate) fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let count = match metadata.size(COUNT)? {
            None | Some(0 | 1) => return Ok(None),
            Some(count) if count <= MAX_PARTS => count,
            Some(count) => {
                let expected = format!("at most {MAX_PARTS}");
                return Err(metadata.invalid(COUNT, expected, count.to_string()));
            }
        };
        let missing = || metadata.invalid(INDEX, "an integer", "nothing");
        let index = metadata.size(INDEX)?.ok_or_else(missing)?;
        if index >= count {
            let expected = format!("less than {COUNT}, {count}");
            return Err(metadata.invalid(INDEX, expected, index.to_string()));
        }
        let tensors = metadata.size(TENSORS)?;
        Ok(Some(Self { file: metadata.file().to_owned(), index, count, tensors }))
    }

    /// Checks that a part is the one that its name says, of the same model.
    pub(crate) fn check_part(&self, part: &Metadata, index: usize) -> Result<()> {
        for (key, expected) in [(COUNT, self.count), (INDEX, index)] {
            let found = part.size(key)?;
            if found != Some(expected) {
                let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
                return Err(part.invalid(key, expected.to_string(), found));
            }
        }
        Ok(())
    }

    /// Checks the number of tensors in all parts.
    pub(crate) fn check_tensors(&self, found: usize) -> Result<()> {
        match self.tensors {
            Some(expected) if expected != found => Err(Error::invalid_model(
                &*self.file,
                format!("`{TENSORS}`"),
                format!("{found}, as many as in all parts"),
                expected.to_string(),
            )),
            _ => Ok(()),
        }
    }
}

/// The paths of all parts, given that of one; all are there.
pub(crate) fn part_paths(path: &Path, split: &Split) -> Result<Vec<PathBuf>> {
    let (index, count) = (split.index, split.count);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(stem) = name.strip_suffix(&part_suffix(index, count)) else {
        let expected = format!("one that ends with `{}`", part_suffix(index, count));
        return Err(Error::invalid_model(&*split.file, "file name", expected, name));
    };
    let mut paths = Vec::new();
    for other in 0..count {
        let name = format!("{stem}{}", part_suffix(other, count));
        let path = path.with_file_name(&name);
        if !path.is_file() {
            let what = format!("part {} of {count}", other + 1);
            let expected = format!("{name} beside it");
            return Err(Error::invalid_model(&*split.file, what, expected, "nothing"));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// How the name of a part ends; `index` is from 0 on.
pub(crate) fn part_suffix(index: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}
