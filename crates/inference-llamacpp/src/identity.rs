//! What a model is, as a digest that does not read all of its weights.

use std::fs::File;
use std::io;
use std::path::Path;

use inference_core::{Error, Result};
use inference_gguf::{GgufFile, TensorType};
use sha2::{Digest, Sha256};

/// Bytes of a tensor that are looked at in each of three places.
const WINDOW: usize = 4096;

/// SHA-256 over what lies before the weights of a file (its metadata), of each
/// tensor name, type, shape and the bytes at its beginning, in its middle and
/// at its end, and all of an adapter with its scale. Weights that were changed
/// elsewhere on purpose have the same.
///
/// # Errors
///
/// `Io` for the file of the adapter; otherwise as [`GgufFile::data`].
pub(crate) fn identity(file: &GgufFile, adapter: Option<(&Path, f32)>) -> Result<String> {
    let mut hash = Sha256::new();
    let known = || file.tensors().iter().filter(|t| matches!(t.kind(), TensorType::Known(_)));
    let mut header = None;
    for tensor in known().filter(|tensor| tensor.part() == 0) {
        let (bytes, range) = file.data(tensor)?;
        match &mut header {
            Some((_, end)) => *end = range.start.min(*end),
            None => header = Some((bytes, range.start)),
        }
    }
    if let Some((bytes, end)) = header {
        hash.update((*bytes).as_ref().get(..end).unwrap_or_default());
    }
    for tensor in known() {
        hash.update(format!("\n{} {} {:?}", tensor.name(), tensor.kind(), tensor.shape()));
        let bytes = file.bytes(tensor)?;
        let last = bytes.len().saturating_sub(WINDOW);
        for start in [0, last / 2, last] {
            hash.update(&bytes[start..bytes.len().min(start + WINDOW)]);
        }
    }
    if let Some((path, scale)) = adapter {
        hash.update(format!("\nadapter {scale:?}\n"));
        let mut file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        io::copy(&mut file, &mut Writer(&mut hash))
            .map_err(|error| Error::io(path, "read", error))?;
    }
    let digest = hash.finalize();
    Ok(digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(hex).collect())
}

fn hex(digit: u8) -> Option<char> {
    char::from_digit(digit.into(), 16)
}

/// A digest that is written to.
struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, adapter: Option<(&Path, f32)>) -> Option<String> {
        let path = inference_fixtures::dir(&format!("gguf/{name}"))?;
        Some(identity(&GgufFile::open(&path).unwrap(), adapter).unwrap())
    }

    #[test]
    fn models_and_adapters_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("adapter");
        std::fs::write(&adapter, "one").unwrap();
        let with = |scale| of("llama/llama-f32.gguf", Some((&adapter, scale)));
        let Some(plain) = of("llama/llama-f32.gguf", None) else { return };
        assert_eq!(plain.len(), 64);
        assert_eq!(of("llama/llama-f32.gguf", None).unwrap(), plain);
        let mut all = vec![plain, of("qwen3/qwen3-f32.gguf", None).unwrap()];
        all.extend([with(1.0).unwrap(), with(0.5).unwrap()]);
        std::fs::write(&adapter, "two").unwrap();
        all.extend(with(1.0));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn a_changed_weight_changes_it() {
        let Some(path) = inference_fixtures::dir("gguf/llama/llama-f32.gguf") else { return };
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.gguf");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 0x10;
        std::fs::write(&copy, bytes).unwrap();
        let changed = identity(&GgufFile::open(&copy).unwrap(), None).unwrap();
        assert_ne!(Some(changed), of("llama/llama-f32.gguf", None));
    }
}
