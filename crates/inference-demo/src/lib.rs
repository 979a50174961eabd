//! A small language model trained by this repository and embedded in the binary

/// The model's files: name and content, as they would lie in a folder. Empty
/// until a model has been trained.
pub const FILES: &[(&str, &[u8])] = &[];
