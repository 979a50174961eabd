//! Fields of a JSON object, typed, with errors that name file and field.

use std::path::Path;

use inference_core::{Error, Result};
use serde_json::{Map, Value};

/// The largest configuration that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The most values of a configuration.
const MAX_VALUES: usize = 300_000;

/// A JSON object of a file.
pub(crate) struct Fields {
    file: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let facts = std::fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
        let file = path.display().to_string();
        if facts.len() > MAX_BYTES {
            let (expected, found) = (format!("at most {MAX_BYTES} bytes"), facts.len());
            return Err(Error::invalid_model(file, "size", expected, format!("{found} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
        Self::parse(file, &bytes)
    }

    pub(crate) fn parse(file: String, json: &[u8]) -> Result<Self> {
        // Each begins after one of these: a small document may be large parsed.
        let values = json.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
        let invalid = |expected: String, found: String| {
            Err(Error::invalid_model(file.clone(), "the document", expected, found))
        };
        if values > MAX_VALUES {
            return invalid(format!("at most {MAX_VALUES} values"), format!("up to {values}"));
        }
        match serde_json::from_slice(json) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(_) => invalid("a JSON object".to_owned(), "another value".to_owned()),
            Err(error) => invalid("valid JSON".to_owned(), error.to_string()),
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The fields' names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The object of a field, as fields of its own.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { file: self.file.clone(), map: map.clone() }))
            }
            Some(_) => Err(self.invalid(name, "an object")),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.typed(name, "a text", Value::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a finite number", finite)
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "a non-negative integer", size)
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.invalid(name, expected))
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        self.typed(name, "a list of texts", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        })
    }

    /// An object of finite numbers, in the file's order.
    pub(crate) fn numbers_by_name(&self, name: &str) -> Result<Vec<(String, f64)>> {
        let pairs = self.typed(name, "an object of numbers", |value| {
            let pairs = value.as_object()?.iter();
            pairs.map(|(name, value)| Some((name.clone(), finite(value)?))).collect()
        })?;
        Ok(pairs.unwrap_or_default())
    }

    /// The error that a field is not what was expected.
    pub(crate) fn invalid(&self, name: &str, expected: impl Into<String>) -> Error {
        let found = self.get(name).map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::invalid_model(&*self.file, name, expected, found)
    }

    /// The error that the value of a field is not implemented.
    pub(crate) fn unsupported(&self, name: &str, supported: &str) -> Error {
        let found = match self.get(name) {
            None => "nothing".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        Error::unsupported_model(&*self.file, name, found, supported)
    }
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

pub(crate) fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}
