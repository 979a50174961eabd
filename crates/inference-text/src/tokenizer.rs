//! Text to token ids and back.

use std::fmt;
use std::sync::Arc;

use inference_core::{Error, Result, TokenId};
use tokenizers::models::ModelWrapper;

use crate::decode_pipeline::Pipeline;
use crate::model::{Definition, TextModel};
use crate::panic_boundary;
use crate::stream_decoder::StreamDecoder;

/// A tokenizer as `tokenizer.json` or the metadata of a GGUF file defines it.
///
/// Cheap to clone, and shared freely between threads. Truncation, padding and
/// BPE dropout that the file may ask for are switched off: they belong to
/// training, and a prompt must be encoded whole and always the same way.
///
/// The `tokenizers` crate panics on some malformed definitions. Such a panic
/// is caught here and becomes an error (with `panic = "abort"` it cannot be).
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: Definition,
    /// Where the definition comes from, for messages.
    file: String,
    vocab_size: usize,
    /// How to decode as a stream; `None` for decoders of no known kind.
    pipeline: Option<Pipeline>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file", &self.inner.file)
            .field("vocab_size", &self.inner.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a definition, the bytes of a `tokenizer.json`; `file` names it in
    /// messages.
    ///
    /// # Errors
    ///
    /// `InvalidModel` where the bytes are not such a definition, or where an
    /// added token's id leaves a gap after the vocabulary or contradicts it:
    /// the `tokenizers` crate would give it another id than the file says.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self> {
        let invalid = |found: String| {
            Error::invalid_model(file, "tokenizer", "a tokenizer definition", found)
        };
        let build = || -> tokenizers::Result<(Definition, usize)> {
            let mut tokenizer = Definition::from_bytes(json)?;
            tokenizer.with_truncation(None)?;
            tokenizer.with_padding(None);
            if let TextModel::Defined(model) = tokenizer.get_model()
                && let ModelWrapper::BPE(bpe) = model.as_ref()
                && bpe.dropout.is_some()
            {
                let mut bpe = bpe.clone();
                bpe.dropout = None;
                tokenizer.with_model(TextModel::Defined(Box::new(bpe.into())));
            }
            let vocab = tokenizer.get_vocab(true);
            let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
            Ok((tokenizer, vocab_size))
        };
        match panic_boundary::catch(build) {
            Ok(Ok((tokenizer, vocab_size))) => {
                check_added_tokens(json, file, &tokenizer)?;
                Ok(Self::from_definition(tokenizer, file, vocab_size))
            }
            Ok(Err(error)) => Err(invalid(error.to_string())),
            Err(panic) => Err(invalid(format!("one that the parser cannot handle: {panic}"))),
        }
    }

    /// A definition that is already built; `vocab_size` is its largest id
    /// plus one.
    pub(crate) fn from_definition(tokenizer: Definition, file: &str, vocab_size: usize) -> Self {
        let pipeline = Pipeline::new(tokenizer.get_decoder());
        let inner = Inner { tokenizer, file: file.to_owned(), vocab_size, pipeline };
        Self { inner: Arc::new(inner) }
    }

    /// The ids of `text`. With `add_special`, the tokens that the definition
    /// puts around every text (such as BOS) are added. Special tokens that are
    /// written out in the text are recognised either way.
    ///
    /// A text that a chat template rendered holds its special tokens already:
    /// encode it without `add_special`.
    ///
    /// # Errors
    ///
    /// `Engine` where the tokenizer fails on this text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        let encode = || self.inner.tokenizer.encode_fast(text, add_special);
        self.guard("encode", encode).map(|encoding| encoding.get_ids().to_vec())
    }

    /// The text of `ids`; with `skip_special`, without special tokens. Bytes
    /// that are not UTF-8 come out as U+FFFD.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where an id is not in the vocabulary; `Engine` where the
    /// tokenizer's decoder fails.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        let mut any = false;
        for &id in ids {
            let token = self.known_token(id)?;
            any |= !(skip_special && self.is_special_text(&token));
        }
        if !any {
            // Some decoders count on at least one token.
            return Ok(String::new());
        }
        self.guard("decode", || self.inner.tokenizer.decode(ids, skip_special))
    }

    /// The text of one token as it appears inside a text (after other tokens,
    /// so with its leading space); U+FFFD for bytes that are no character of
    /// their own, and for an id that is not in the vocabulary.
    #[must_use]
    pub fn token_text(&self, id: TokenId) -> String {
        match self.token_bytes(id) {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => char::REPLACEMENT_CHARACTER.to_string(),
        }
    }

    /// The bytes that a token contributes inside a text; `None` for an id that
    /// is not in the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        let token = self.known_token(id).ok()?;
        match &self.inner.pipeline {
            Some(pipeline) => self.guard("decode", || pipeline.bytes_of(token)).ok(),
            None => self.decode(&[id], false).ok().map(String::into_bytes),
        }
    }

    /// The id of a token as the definition spells it (`Ġthe`, `▁the`, `</s>`).
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// The largest id plus one, added tokens included. The ids below it need
    /// not all be in use.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Whether this is a special token: one that `skip_special` leaves out.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.inner.tokenizer.id_to_token(id).is_some_and(|token| self.is_special_text(&token))
    }

    /// A decoder for one stream of tokens. It owns all it needs.
    #[must_use]
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder {
        StreamDecoder::new(self.clone(), skip_special)
    }

    pub(crate) fn pipeline(&self) -> Option<&Pipeline> {
        self.inner.pipeline.as_ref()
    }

    pub(crate) fn is_special_text(&self, token: &str) -> bool {
        self.inner.tokenizer.get_added_vocabulary().is_special_token(token)
    }

    pub(crate) fn known_token(&self, id: TokenId) -> Result<String> {
        self.inner.tokenizer.id_to_token(id).ok_or_else(|| {
            let expected =
                format!("an id of the {} (ids below {})", self.inner.file, self.inner.vocab_size);
            Error::invalid_input("token id", expected, id.to_string())
        })
    }

    /// Runs a call of the `tokenizers` crate; its errors and panics come out
    /// as `Engine` errors.
    pub(crate) fn guard<T>(
        &self,
        action: &str,
        call: impl FnOnce() -> tokenizers::Result<T>,
    ) -> Result<T> {
        let fail = |reason: String| {
            Error::engine_message(format!("{}: {action} failed: {reason}", self.inner.file))
        };
        match panic_boundary::catch(call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(fail(error.to_string())),
            Err(panic) => Err(fail(panic)),
        }
    }
}

/// The part of a definition that numbers the added tokens.
#[derive(serde::Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<AddedTokenId>,
}

#[derive(serde::Deserialize)]
struct AddedTokenId {
    id: TokenId,
    content: String,
}

/// Refuses a definition whose added tokens did not get the ids it gives them.
fn check_added_tokens(json: &[u8], file: &str, tokenizer: &Definition) -> Result<()> {
    let parsed: AddedTokens = serde_json::from_slice(json).map_err(|error| {
        Error::invalid_model(file, "added_tokens", "tokens with id and content", error.to_string())
    })?;
    for token in parsed.added_tokens.iter().filter(|token| !token.content.is_empty()) {
        let actual = tokenizer.token_to_id(&token.content);
        if actual != Some(token.id) {
            let what = format!("added_tokens: `{}`", token.content);
            let expected = match actual {
                Some(id) => format!("id {id} (the next free one, or the vocabulary's)"),
                None => "a token that can be added".to_owned(),
            };
            return Err(Error::invalid_model(file, what, expected, format!("id {}", token.id)));
        }
    }
    Ok(())
}
