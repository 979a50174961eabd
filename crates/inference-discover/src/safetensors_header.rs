//! The header of a safetensors file.
//!
//! The format: 8 bytes of header length (little-endian), a JSON header of
//! type, shape and byte range per tensor, and the data.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use inference_core::{Error, Result};
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::StoredTensor;

/// The largest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of a file. Only the header is read; that the data is all there
/// is told by the file's length.
pub(crate) fn read(path: &Path) -> Result<Vec<StoredTensor>> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let file_len = file.metadata().map_err(|e| Error::io(path, "open", e))?.len();
    parse(path, file, file_len)
}

/// The tensors of a file of `file_len` bytes; `path` names it in errors.
pub(crate) fn parse(path: &Path, mut file: impl Read, file_len: u64) -> Result<Vec<StoredTensor>> {
    let name = || path.display().to_string();
    let truncated = |what: &str, needed: u64| {
        let (expected, found) = (format!("{needed} bytes"), format!("{file_len} bytes"));
        Error::invalid_model(name(), what, expected, found)
    };
    if file_len < 8 {
        return Err(truncated("the header's length", 8));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| Error::io(path, "read", e))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        let (expected, found) = (format!("at most {MAX_HEADER}"), length.to_string());
        return Err(Error::invalid_model(name(), "the header's length", expected, found));
    }
    let Some(data_len) = (file_len - 8).checked_sub(length) else {
        return Err(truncated("the header", 8 + length));
    };
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json).map_err(|e| Error::io(path, "read", e))?;
    let header: Header<'_> = serde_json::from_slice(&json).map_err(|e| {
        Error::invalid_model(name(), "the header", "tensors as JSON", e.to_string())
    })?;
    let tensor = |(tensor, entry): (String, Entry<'_>)| {
        let [begin, end] = entry.data_offsets;
        let invalid = |expected: String, found: String| {
            let what = format!("data_offsets of tensor `{tensor}`");
            Error::invalid_model(name(), what, expected, found)
        };
        if begin > end || end > data_len {
            let expected = format!("a range within the file's {data_len} bytes of data");
            return Err(invalid(expected, format!("{begin}..{end}")));
        }
        let bytes = end - begin;
        let elements = entry.shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim));
        if let Some(bits) = bits(&entry.dtype) {
            let expected = elements.and_then(|n| n.checked_mul(bits)).map(|n| n.div_ceil(8));
            if expected != Some(bytes) {
                let expected = expected.map_or_else(|| "fewer".to_owned(), |n| n.to_string());
                let expected = format!("{expected} bytes for shape {:?}", entry.shape);
                return Err(invalid(expected, format!("{bytes} bytes")));
            }
        }
        Ok(StoredTensor { name: tensor, dtype: entry.dtype.into(), shape: entry.shape, bytes })
    };
    header.0.into_iter().map(tensor).collect()
}

/// Bits per element; `None` for a type that is not known here.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

struct Header<'a>(Vec<(String, Entry<'a>)>);

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: std::borrow::Cow<'a, str>,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map.next_value::<Entry<'de>>();
            let entry = entry.map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
            tensors.push((name, entry));
        }
        Ok(Header(tensors))
    }
}
