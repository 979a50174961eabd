//! Reading small files of a model: whole, and never more than a bound.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use inference_core::{Error, Result};
use serde_json::Value;

/// The largest JSON document that is read.
const MAX_JSON: u64 = 64 << 20;

/// The content of a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let mut bytes = Vec::new();
    // One more than allowed tells the file that is too large.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() as u64 > limit {
        let expected = format!("at most {limit} bytes");
        return Err(Error::invalid_model(path.display().to_string(), "size", expected, "more"));
    }
    Ok(bytes)
}

/// The first bytes of a file as text; `None` where there is no such file.
pub(crate) fn head(path: &Path, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A JSON document.
pub(crate) fn json(path: &Path) -> Result<Value> {
    let bytes = read(path, MAX_JSON)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let file = path.display().to_string();
        Error::invalid_model(file, "the document", "valid JSON", e.to_string())
    })
}

/// Whether the JSON object in a file has a member of this name that is not
/// null; `false` where there is no such file.
pub(crate) fn has_member(path: &Path, name: &str) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let bytes = read(path, MAX_JSON)?;
    let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
    serde::Deserializer::deserialize_map(&mut deserializer, Member(name)).map_err(|e| {
        let file = path.display().to_string();
        Error::invalid_model(file, "the document", "a JSON object", e.to_string())
    })
}

/// Looks for one member and builds nothing of the others: these documents can
/// hold a whole vocabulary.
struct Member<'a>(&'a str);

impl<'de> serde::de::Visitor<'de> for Member<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let present = map.next_value::<Option<serde::de::IgnoredAny>>()?.is_some();
            found |= present && key == self.0;
        }
        Ok(found)
    }
}
