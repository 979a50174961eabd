//! JSON of a model's files, within bounds on memory.

use inference_core::{Error, Result};
use serde_json::Value;

/// Values and names that a document may hold: far above real configurations
/// and indices, and some 40 MB once parsed.
pub(crate) const MAX_VALUES: usize = 300_000;

/// Parses a document of at most `max_values`; `file` and `what` name it in
/// errors.
///
/// A value of two bytes takes tens when it is parsed, so a document that fits
/// memory need not do so parsed.
pub(crate) fn parse(file: &str, what: &str, json: &[u8], max_values: usize) -> Result<Value> {
    // Each begins after one of these, or at the beginning; those within texts
    // are counted too.
    let values = json.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    if values > max_values {
        let expected = format!("at most {max_values} values");
        return Err(Error::invalid_model(file, what, expected, format!("up to {values}")));
    }
    serde_json::from_slice(json)
        .map_err(|e| Error::invalid_model(file, what, "valid JSON", e.to_string()))
}
