//! Reading fields of a JSON object, each with an error that names it.

use inference_core::{Error, Result};
use serde_json::{Map, Value};

/// The largest size that a field may hold: above every real model, and small
/// enough that products of three of them fit in 64 bits.
const MAX_SIZE: u64 = 1 << 21;

/// The largest context length that is accepted; positions are exact in f32.
const MAX_CONTEXT: u64 = 1 << 24;

/// Parses a model's JSON file; `file` names it in errors.
pub(crate) fn parse(file: &str, json: &[u8]) -> Result<Value> {
    crate::json::parse(file, "the document", json, crate::json::MAX_VALUES)
}

/// A JSON object of a model's file.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// The path of the object in the file, with a final dot.
    prefix: String,
    map: &'a Map<String, Value>,
    /// What errors call a path instead.
    labels: &'a [(String, String)],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a str, value: &'a Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::invalid_model(file, "the document", "a JSON object", kind(value)));
        };
        Ok(Self { file, prefix: String::new(), map, labels: &[] })
    }

    /// Fields that were written from something else: `labels` are pairs of a
    /// field's path and what it is called there.
    pub(crate) fn with_labels(
        file: &'a str,
        map: &'a Map<String, Value>,
        labels: &'a [(String, String)],
    ) -> Self {
        Self { file, prefix: String::new(), map, labels }
    }

    /// What errors call a field.
    pub(crate) fn label(&self, name: &str) -> String {
        let path = format!("{}{name}", self.prefix);
        let label = self.labels.iter().find(|(known, _)| *known == path);
        label.map_or(path, |(_, label)| label.clone())
    }

    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// The value of a field that is present and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is present, if only as null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// All fields.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The error that the field does not hold what it should.
    pub(crate) fn invalid(&self, name: &str, expected: impl Into<String>) -> Error {
        let found = self.map.get(name).map_or_else(|| "nothing".to_owned(), shorten);
        Error::invalid_model(self.file, self.label(name), expected, found)
    }

    /// The error that the field holds something that is not implemented.
    pub(crate) fn unsupported(&self, name: &str, supported: impl Into<String>) -> Error {
        let found = self.map.get(name).map_or_else(|| "nothing".to_owned(), shorten);
        Error::unsupported_model(self.file, self.label(name), found, supported)
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.invalid(name, expected))
    }

    fn required<T>(&self, name: &str, expected: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.invalid(name, expected))
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<usize>> {
        let expected = format!("an integer from 1 to {MAX_SIZE}");
        self.read(name, &expected, |value| bounded(value, MAX_SIZE))
    }

    pub(crate) fn required_size(&self, name: &str) -> Result<usize> {
        let value = self.size(name)?;
        self.required(name, &format!("an integer from 1 to {MAX_SIZE}"), value)
    }

    /// A length in tokens.
    pub(crate) fn length(&self, name: &str) -> Result<Option<usize>> {
        let expected = format!("an integer from 1 to {MAX_CONTEXT}");
        self.read(name, &expected, |value| bounded(value, MAX_CONTEXT))
    }

    /// A window in tokens, which may be larger than any context: then it is
    /// no window at all. `absent` is what a missing field means, `null` is none.
    pub(crate) fn window(&self, name: &str, absent: Option<usize>) -> Result<Option<usize>> {
        if !self.has(name) {
            return Ok(absent);
        }
        let convert =
            |value: &Value| value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
        self.read(name, "an integer of at least 1, or null", convert)
    }

    /// A finite number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a finite number", finite)
    }

    /// A number above 0 that f32 can hold.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number above 0", positive)
    }

    pub(crate) fn required_positive(&self, name: &str) -> Result<f64> {
        let value = self.positive(name)?;
        self.required(name, "a number above 0", value)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.read(name, "a string", Value::as_str)
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.read(name, "an array of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// An integer of at least 0.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<u64>> {
        self.read(name, "an integer of at least 0", Value::as_u64)
    }

    /// One token id or an array of them.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.read(name, "a token id or an array of them", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// An array of integers of at least 0.
    pub(crate) fn integers(&self, name: &str) -> Result<Option<Vec<u64>>> {
        self.read(name, "an array of integers of at least 0", |value| {
            value.as_array()?.iter().map(Value::as_u64).collect()
        })
    }

    /// An array of numbers above 0.
    pub(crate) fn required_positives(&self, name: &str) -> Result<Vec<f64>> {
        let expected = "an array of numbers above 0";
        let value =
            self.read(name, expected, |value| value.as_array()?.iter().map(positive).collect())?;
        self.required(name, expected, value)
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>> {
        let map = self.read(name, "an object", Value::as_object)?;
        let prefix = format!("{}{name}.", self.prefix);
        Ok(map.map(|map| Self { file: self.file, prefix, map, labels: self.labels }))
    }
}

fn bounded(value: &Value, max: u64) -> Option<usize> {
    value.as_u64().filter(|n| (1..=max).contains(n)).and_then(|n| usize::try_from(n).ok())
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| (*n as f32).is_finite())
}

fn positive(value: &Value) -> Option<f64> {
    finite(value).filter(|n| *n as f32 > 0.0)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The value for an error message, cut where it is long.
fn shorten(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
