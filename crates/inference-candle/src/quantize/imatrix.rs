//! Importance matrices: for each matrix, the mean square of the activations
//! that each of its columns multiplies.
//!
//! llama.cpp writes them in two formats: GGUF (`NAME.in_sum2` and
//! `NAME.counts`), and before that a format of its own (`.dat`): the number of
//! entries; per entry the name, the number of calls, and sums over the calls.

use std::collections::HashMap;
use std::path::Path;

use inference_core::{Error, Result};
use inference_gguf::{GgufFile, TensorType, map_file};

/// Bounds of the `.dat` format, far above any real file.
const MAX_ENTRIES: usize = 1 << 17;
const MAX_NAME: usize = 1 << 10;

/// The suffixes of a matrix's two tensors in GGUF.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// An importance matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImportanceMatrix {
    file: String,
    entries: HashMap<String, Vec<f32>>,
}

impl ImportanceMatrix {
    /// Reads a file of either format.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file
    /// and entry, [`Io`](inference_core::ErrorKind::Io).
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = map_file(path)?;
        let file = path.display().to_string();
        let data = (*bytes).as_ref();
        let entries = if data.starts_with(b"GGUF") {
            from_gguf(&GgufFile::from_bytes(&file, bytes)?)?
        } else {
            from_dat(&file, data)?
        };
        if entries.is_empty() {
            return Err(Error::invalid_model(file, "entries", "at least one", "none"));
        }
        Ok(Self { file, entries })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The importance of the columns of each of `matrices` matrices of a
    /// tensor, one after the other; `None` where the file has none.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) where it is
    /// of another length.
    pub(crate) fn get(
        &self,
        name: &str,
        columns: usize,
        matrices: usize,
    ) -> Result<Option<&[f32]>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        if entry.len() != columns.saturating_mul(matrices) {
            let expected = format!("{columns} values for each of {matrices} matrices");
            let what = format!("entry `{name}`");
            return Err(Error::invalid_model(&*self.file, what, expected, entry.len().to_string()));
        }
        Ok(Some(entry))
    }
}

type Entries = HashMap<String, Vec<f32>>;

fn from_gguf(file: &GgufFile) -> Result<Entries> {
    let mut entries = Entries::new();
    for tensor in file.tensors() {
        let Some(name) = tensor.name().strip_suffix(SUMS) else { continue };
        let values = |name: &str| -> Result<Vec<f32>> {
            let invalid = |expected: &str, found: String| {
                let what = format!("tensor `{name}`");
                Err(Error::invalid_model(file.metadata().file(), what, expected, found))
            };
            let Some(tensor) = file.tensor(name) else {
                return invalid("present", "nothing".to_owned());
            };
            let TensorType::Known(kind) = tensor.kind() else {
                return invalid("F32", tensor.kind().to_string());
            };
            let (bytes, range) = file.data(tensor)?;
            let mut values = vec![0.0; tensor.elem_count() as usize];
            kind.decode((*bytes).as_ref().get(range).unwrap_or_default(), &mut values)?;
            Ok(values)
        };
        let counts = values(&format!("{name}{COUNTS}"))?;
        let mut sums = values(tensor.name())?;
        let columns = sums.len().checked_div(counts.len()).unwrap_or(0);
        if columns == 0 || columns * counts.len() != sums.len() {
            let what = format!("tensor `{name}{COUNTS}`");
            let expected = format!("a count for each matrix of {} sums", sums.len());
            let found = counts.len().to_string();
            return Err(Error::invalid_model(file.metadata().file(), what, expected, found));
        }
        for (sums, count) in sums.chunks_mut(columns).zip(counts) {
            average(sums, count);
        }
        check(file.metadata().file(), name, &sums)?;
        entries.insert(name.to_owned(), sums);
    }
    Ok(entries)
}

/// Sums to means. Where nothing was seen (an expert that no token went to),
/// all columns count the same.
fn average(sums: &mut [f32], count: f32) {
    if count > 0.0 {
        sums.iter_mut().for_each(|sum| *sum /= count);
    } else {
        sums.fill(1.0);
    }
}

fn check(file: &str, name: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !value.is_finite() || **value < 0.0) {
        Some(bad) => Err(Error::invalid_model(
            file,
            format!("entry `{name}`"),
            "finite numbers that are not negative",
            bad.to_string(),
        )),
        None => Ok(()),
    }
}

fn from_dat(file: &str, bytes: &[u8]) -> Result<Entries> {
    let mut reader = Reader { file, bytes, at: 0 };
    // An entry has at least its two lengths and a count.
    let count = reader.count("number of entries", MAX_ENTRIES, 12)?;
    let mut entries = Entries::with_capacity(count);
    for index in 0..count {
        let what = format!("entry {} of {count}", index + 1);
        let len = reader.count(&format!("length of the name of {what}"), MAX_NAME, 1)?;
        let name = reader.take(len, &what)?;
        let name = std::str::from_utf8(name)
            .map_err(|e| Error::invalid_model(file, &*what, "a name in UTF-8", e.to_string()))?;
        let calls = reader.integer(&format!("calls of `{name}`"))?;
        let len = reader.count(&format!("length of `{name}`"), usize::MAX, 4)?;
        let (values, _) = reader.take(len * 4, name)?.as_chunks::<4>();
        let mut values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if calls > 0 {
            average(&mut values, calls as f32);
        }
        check(file, name, &values)?;
        if entries.insert(name.to_owned(), values).is_some() {
            return Err(Error::invalid_model(file, format!("entry `{name}`"), "once", "twice"));
        }
    }
    Ok(entries)
}

/// Reads little-endian integers and bytes, checking that they are there. What
/// follows the entries (the number of calls, the data set's name) is not read.
struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len);
        let Some(bytes) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            let left = self.bytes.len() - self.at;
            let (expected, found) = (format!("{len} bytes"), format!("{left} bytes"));
            return Err(Error::invalid_model(self.file, what, expected, found));
        };
        self.at += len;
        Ok(bytes)
    }

    fn integer(&mut self, what: &str) -> Result<i32> {
        let bytes = self.take(4, what)?.first_chunk().copied().unwrap_or_default();
        Ok(i32::from_le_bytes(bytes))
    }

    /// A length above 0 of elements of at least `size` bytes.
    fn count(&mut self, what: &str, most: usize, size: usize) -> Result<usize> {
        let found = self.integer(what)?;
        let most = most.min((self.bytes.len() - self.at) / size);
        match usize::try_from(found) {
            Ok(count) if (1..=most).contains(&count) => Ok(count),
            _ => {
                let expected = format!("1 to {most}");
                Err(Error::invalid_model(self.file, what, expected, found.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use inference_core::ErrorKind;
    use inference_gguf::{BlockType, GgufWriter};

    use super::*;

    fn dat(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
        let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, calls, values) in entries {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<ImportanceMatrix> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("importance");
        std::fs::write(&path, bytes).unwrap();
        ImportanceMatrix::read(&path)
    }

    #[test]
    fn both_formats_say_the_same() {
        let entries: [(&str, i32, &[f32]); 2] = [("a", 4, &[4.0, 8.0]), ("b", 2, &[2.0, 0.0, 6.0])];
        let old = read(&dat(&entries)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("imatrix.gguf");
        let mut writer = GgufWriter::new();
        for (name, _, values) in entries {
            writer.tensor(&format!("{name}{SUMS}"), &[1, values.len()], BlockType::F32).unwrap();
            writer.tensor(&format!("{name}{COUNTS}"), &[1, 1], BlockType::F32).unwrap();
        }
        let mut file = writer.create(&path).unwrap();
        for (_, calls, values) in entries {
            values.iter().for_each(|value| file.write(&value.to_le_bytes()).unwrap());
            file.write(&(calls as f32).to_le_bytes()).unwrap();
        }
        file.finish().unwrap();
        let new = ImportanceMatrix::read(&path).unwrap();
        for matrix in [old, new] {
            assert_eq!(matrix.len(), 2);
            assert_eq!(matrix.get("a", 2, 1).unwrap().unwrap(), [1.0, 2.0]);
            assert_eq!(matrix.get("b", 3, 1).unwrap().unwrap(), [1.0, 0.0, 3.0]);
            assert!(matrix.get("c", 3, 1).unwrap().is_none());
            let error = matrix.get("b", 4, 1).unwrap_err();
            assert!(error.to_string().contains("`b`"), "{error}");
        }
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let good = dat(&[("a", 1, &[1.0, 2.0]), ("b", 1, &[3.0])]);
        assert!(read(&good).is_ok());
        for len in 0..good.len() {
            let error = read(&good[..len]).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::Io), "{len}");
        }
        for at in 0..good.len() {
            for value in [0, 0x7F, 0x80, 0xFF] {
                let mut bad = good.clone();
                bad[at] = value;
                // An error, or other values; nothing worse.
                let _ = read(&bad);
            }
        }
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let error = read(&dat(&[("a", 1, &[1.0, bad])])).unwrap_err();
            assert!(error.to_string().contains("`a`"), "{error}");
        }
        assert!(read(&dat(&[("a", 1, &[1.0]), ("a", 1, &[1.0])])).is_err());
    }
}
