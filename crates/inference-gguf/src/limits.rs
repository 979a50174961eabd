//! What a header may hold. Real models stay far below; a hostile file must not
//! make the reader hold more than a little beside the file itself.

use inference_core::{Error, Result};

/// Key/value pairs.
pub(crate) const KEYS: usize = 1 << 16;

/// Tensors of all parts.
pub(crate) const TENSORS: usize = 1 << 17;

/// Dimensions of a tensor: ggml's `GGML_MAX_DIMS`.
pub(crate) const DIMENSIONS: u32 = 4;

/// Bytes of all keys and tensor names together, which are copied.
const NAME_BYTES: usize = 16 << 20;

/// Elements of an array that is decoded as a whole.
pub(crate) const DECODED_ELEMENTS: usize = 1 << 22;

/// Counts the bytes of names.
#[derive(Default)]
pub(crate) struct Names {
    bytes: usize,
}

impl Names {
    pub(crate) fn add(&mut self, file: &str, name: &[u8], what: impl Fn() -> String) -> Result<()> {
        self.bytes = self.bytes.saturating_add(name.len());
        if self.bytes > NAME_BYTES {
            let expected = format!("names of at most {NAME_BYTES} bytes in all");
            return Err(Error::invalid_model(file, what(), expected, self.bytes.to_string()));
        }
        Ok(())
    }
}
