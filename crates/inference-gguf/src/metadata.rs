//! The key/value part of a file.

use inference_core::{Error, Result};

/// A metadata value. Arrays stay in the mapped file and are decoded when read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// Any integer.
    Integer(i128),
    /// Any float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

/// The key/value part of a file. Getters answer `None` for an absent key and
/// an error, naming file and key, for one of another type or out of range.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: String,
}

impl Metadata {
    /// The file's name, for messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let _ = key;
        None
    }

    /// The keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        Err(self.invalid(key, "a text", "nothing"))
    }

    /// A non-negative integer that fits a `usize`.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        Err(self.invalid(key, "an integer", "nothing"))
    }

    /// A finite number; integers count.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        Err(self.invalid(key, "a number", "nothing"))
    }

    /// A truth value.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        Err(self.invalid(key, "true or false", "nothing"))
    }

    /// An array of texts, borrowed from the mapped file.
    ///
    /// # Errors
    ///
    /// As the type says, and where a text is not UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        Err(self.invalid(key, "an array of texts", "nothing"))
    }

    /// An array of numbers (integers, floats or truth values), widened.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        Err(self.invalid(key, "an array of numbers", "nothing"))
    }

    /// The length of an array, without decoding it.
    ///
    /// # Errors
    ///
    /// As the type says.
    pub fn array_len(&self, key: &str) -> Result<Option<usize>> {
        Err(self.invalid(key, "an array", "nothing"))
    }

    /// The error that a key is not what was expected.
    pub fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::invalid_model(&*self.file, key, expected.into(), found.into())
    }
}
