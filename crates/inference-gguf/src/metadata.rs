//! The key/value part of a file.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::cursor::{Cursor, utf8};
use crate::value::{Array, Value, ValueType};
use crate::{FileBytes, limits};

/// The key/value part of a file. Values stay in the file's bytes and are
/// decoded when they are read. Getters answer `None` for an absent key and an
/// error, naming file and key, for one of another type or out of range.
#[derive(Clone)]
pub struct Metadata {
    shared: Arc<Shared>,
}

struct Shared {
    file: String,
    bytes: FileBytes,
    entries: Vec<Entry>,
    by_key: HashMap<Arc<str>, usize>,
}

struct Entry {
    key: Arc<str>,
    kind: ValueType,
    /// Of the value in the file.
    range: Range<usize>,
}

impl Metadata {
    /// Reads `count` pairs and checks that all of every value is there.
    pub(crate) fn read(
        file: &str,
        bytes: &FileBytes,
        cursor: &mut Cursor<'_>,
        count: usize,
        names: &mut limits::Names,
    ) -> Result<Self> {
        let mut entries = Vec::with_capacity(count);
        let mut by_key = HashMap::with_capacity(count);
        for index in 0..count {
            let what = || format!("key {} of {count}", index + 1);
            let key = cursor.text_bytes(what)?;
            names.add(file, key, what)?;
            let key: Arc<str> = utf8(file, key, what)?.into();
            let named = format!("`{key}`");
            let kind = ValueType::read(cursor, &named)?;
            let start = cursor.at;
            kind.skip(cursor, &named, 1)?;
            if by_key.insert(Arc::clone(&key), index).is_some() {
                return Err(Error::invalid_model(file, named, "once", "twice"));
            }
            entries.push(Entry { key, kind, range: start..cursor.at });
        }
        let (file, bytes) = (file.to_owned(), Arc::clone(bytes));
        Ok(Self { shared: Arc::new(Shared { file, bytes, entries, by_key }) })
    }

    /// The file's name, for messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.shared.file
    }

    /// The keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.shared.entries.iter().map(|entry| &*entry.key)
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.shared.by_key.contains_key(key)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for a text
    /// that is not UTF-8 and a truth value that is neither 0 nor 1.
    pub fn get(&self, key: &str) -> Result<Option<Value<'_>>> {
        let Some((kind, bytes)) = self.stored(key) else { return Ok(None) };
        Value::read(&mut Cursor::new(self.file(), bytes, 0), kind, &format!("`{key}`")).map(Some)
    }

    /// The type of a value and its bytes as the file has them (for an array
    /// with element type and length): what a writer may copy.
    #[must_use]
    pub fn stored(&self, key: &str) -> Option<(ValueType, &[u8])> {
        let entry = self.shared.entries.get(*self.shared.by_key.get(key)?)?;
        Some((entry.kind, (*self.shared.bytes).as_ref().get(entry.range.clone())?))
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(key, "a text", other.describe())),
        }
    }

    /// A non-negative integer that fits a `usize`.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        if let Value::Integer(integer) = value
            && let Ok(size) = usize::try_from(integer)
        {
            return Ok(Some(size));
        }
        Err(self.invalid(key, "a non-negative integer", value.describe()))
    }

    /// A finite number; integers count.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(number)),
            Some(Value::Integer(number)) => Ok(Some(number as f64)),
            Some(other) => Err(self.invalid(key, "a finite number", other.describe())),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.invalid(key, "true or false", other.describe())),
        }
    }

    /// An array, not yet decoded.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(self.invalid(key, "an array", other.describe())),
        }
    }

    /// An array of texts, borrowed from the file's bytes.
    ///
    /// # Errors
    ///
    /// As the type says, and where a text is not UTF-8 or there are more than
    /// four million.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(array) = self.decodable(key, "an array of texts")? else { return Ok(None) };
        let named = format!("`{key}`");
        let mut texts = Vec::with_capacity(array.len());
        for value in array.values(&named) {
            match value? {
                Value::Text(text) => texts.push(text),
                other => return Err(self.invalid(key, "an array of texts", other.describe())),
            }
        }
        Ok(Some(texts))
    }

    /// An array of numbers (integers, floats or truth values), widened.
    ///
    /// # Errors
    ///
    /// As the type says, and where there are more than four million.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(array) = self.decodable(key, "an array of numbers")? else { return Ok(None) };
        let named = format!("`{key}`");
        let mut numbers = Vec::with_capacity(array.len());
        for value in array.values(&named) {
            numbers.push(match value? {
                Value::Integer(number) => number as f64,
                Value::Float(number) => number,
                Value::Bool(flag) => f64::from(u8::from(flag)),
                other => return Err(self.invalid(key, "an array of numbers", other.describe())),
            });
        }
        Ok(Some(numbers))
    }

    /// The length of an array, without decoding it.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn array_len(&self, key: &str) -> Result<Option<usize>> {
        let Some((kind, bytes)) = self.stored(key) else { return Ok(None) };
        if kind != ValueType::Array {
            return Err(self.invalid(key, "an array", kind.describe()));
        }
        let mut cursor = Cursor::new(self.file(), bytes, 0);
        crate::value::read_array_head(&mut cursor, key).map(|(_, len)| Some(len))
    }

    /// An array that may be decoded as a whole: not of absurd length.
    fn decodable(&self, key: &str, expected: &str) -> Result<Option<Array<'_>>> {
        let Some(len) = self.array_len(key)? else { return Ok(None) };
        if len > limits::DECODED_ELEMENTS {
            let expected = format!("{expected}, at most {}", limits::DECODED_ELEMENTS);
            return Err(self.invalid(key, expected, len.to_string()));
        }
        self.array(key)
    }

    /// The error that a key is not what was expected.
    pub fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::invalid_model(self.file(), format!("`{key}`"), expected, found)
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metadata({}, {} keys)", self.file(), self.shared.entries.len())
    }
}
