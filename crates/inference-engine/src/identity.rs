//! What decides whether keys and values of one model are of use to another.

use inference_text::Tokenizer;
use sha2::{Digest, Sha256};

use crate::request::Requirements;

/// The format of keys and values outside of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvFormat {
    /// [`KvBlocks::format`](crate::KvBlocks::format).
    pub(crate) name: String,
    /// [`KvBlocks::position_bytes`](crate::KvBlocks::position_bytes).
    pub(crate) position_bytes: u64,
}

/// A model as snapshots know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) architecture: String,
    /// [`ModelParts::identity`](crate::ModelParts::identity).
    pub(crate) model: Option<String>,
    /// The [digest](tokenizer_digest) of the tokenizer, or `none`.
    pub(crate) tokenizer: String,
    pub(crate) kv: KvFormat,
}

impl Identity {
    pub(crate) fn new(requirements: &Requirements, kv: KvFormat) -> Self {
        let parts = &requirements.parts;
        let tokenizer = parts.tokenizer.as_deref();
        Self {
            architecture: parts.info.architecture.clone(),
            model: parts.identity.clone(),
            tokenizer: tokenizer.map_or_else(|| "none".to_owned(), tokenizer_digest),
            kv,
        }
    }

    /// What decides, by name.
    pub(crate) fn fields(&self) -> [(&'static str, String); 5] {
        [
            ("architecture", self.architecture.clone()),
            ("model", self.model.clone().unwrap_or_default()),
            ("tokenizer", self.tokenizer.clone()),
            ("kv_format", self.kv.name.clone()),
            ("position_bytes", self.kv.position_bytes.to_string()),
        ]
    }
}

/// A digest of what ids mean: SHA-256 over the number of tokens and the bytes
/// of each. How texts are cut into tokens is no part of it, since keys and
/// values do not depend on it.
fn tokenizer_digest(tokenizer: &Tokenizer) -> String {
    let mut hash = Sha256::new();
    let size = tokenizer.vocab_size();
    hash.update((size as u64).to_le_bytes());
    for id in (0..size).filter_map(|id| u32::try_from(id).ok()) {
        match tokenizer.token_bytes(id) {
            Some(bytes) => {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
            None => hash.update(u64::MAX.to_le_bytes()),
        }
        hash.update([u8::from(tokenizer.is_special(id))]);
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect()
}
