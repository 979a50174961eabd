//! The tokens of a file, with their kinds and scores.

use inference_core::{Result, TokenId};
use inference_gguf::Metadata;

use crate::vocabulary::Vocabulary;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text; also undefined and unused tokens, which differ in nothing here.
    Plain,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Structure, such as an end of turn; recognised in a text, and left out
    /// of the decoded text on request.
    Control,
    /// Text that is found before a text is split into words.
    UserDefined,
}

impl TokenKind {
    fn from_number(number: f64) -> Option<Self> {
        Some(match number {
            // Undefined, normal, unused, byte.
            0.0 | 1.0 | 5.0 | 6.0 => Self::Plain,
            2.0 => Self::Unknown,
            3.0 => Self::Control,
            4.0 => Self::UserDefined,
            _ => return None,
        })
    }

    /// Whether decoding leaves it out on request.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }
}

/// The tokens by id.
#[derive(Debug)]
pub(super) struct TokenTable {
    pub(super) vocabulary: Vocabulary,
    pub(super) kinds: Vec<TokenKind>,
}

impl TokenTable {
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        let Some(texts) = metadata.texts(TOKENS)? else {
            return Err(metadata.invalid(TOKENS, "the tokens of the vocabulary", "nothing"));
        };
        if texts.is_empty() || TokenId::try_from(texts.len()).is_err() {
            let expected = "from 1 to 4294967295 tokens";
            return Err(metadata.invalid(TOKENS, expected, texts.len().to_string()));
        }
        let count = texts.len();
        let kinds = match per_token(metadata, TYPES, count)? {
            None => vec![TokenKind::Plain; count],
            Some(numbers) => numbers
                .iter()
                .enumerate()
                .map(|(id, &number)| {
                    TokenKind::from_number(number).ok_or_else(|| {
                        let found = format!("{number} for token {id}");
                        metadata.invalid(TYPES, "token types from 0 to 6", found)
                    })
                })
                .collect::<Result<_>>()?,
        };
        let mut vocabulary = Vocabulary::with_capacity(count);
        for (id, text) in texts.into_iter().enumerate() {
            // A place in the vocabulary without a text of its own.
            let name = text.is_empty().then(|| format!("[EMPTY_{id}]"));
            let text = name.as_deref().unwrap_or(text);
            vocabulary.push(text).map_err(|first| {
                let found = format!("`{text}` as {first} and as {id}");
                metadata.invalid(TOKENS, "every token once", found)
            })?;
        }
        Ok(Self { vocabulary, kinds })
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The scores, finite.
    pub(super) fn scores(&self, metadata: &Metadata) -> Result<Vec<f32>> {
        let Some(numbers) = per_token(metadata, SCORES, self.len())? else {
            return Err(metadata.invalid(SCORES, "a score for each token", "nothing"));
        };
        let finite = |(id, number): (usize, f64)| {
            // The file holds f32 or small integers.
            let score = number as f32;
            if score.is_finite() {
                Ok(score)
            } else {
                Err(metadata.invalid(SCORES, "finite scores", format!("{number:e} for token {id}")))
            }
        };
        numbers.into_iter().enumerate().map(finite).collect()
    }

    pub(super) fn text(&self, id: TokenId) -> &str {
        self.vocabulary.text(id).unwrap_or_default()
    }

    pub(super) fn set_kind(&mut self, id: TokenId, kind: TokenKind) {
        if let Some(place) = usize::try_from(id).ok().and_then(|id| self.kinds.get_mut(id)) {
            *place = kind;
        }
    }

    /// Ids with text and kind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TokenId, &str, TokenKind)> {
        self.vocabulary.iter().zip(&self.kinds).map(|((id, text), &kind)| (id, text, kind))
    }
}

/// An array with a number for each token.
fn per_token(metadata: &Metadata, key: &str, count: usize) -> Result<Option<Vec<f64>>> {
    match metadata.array_len(key)? {
        None => Ok(None),
        Some(len) if len == count => metadata.numbers(key),
        Some(len) => {
            let expected = format!("{count} values, one for each token");
            Err(metadata.invalid(key, expected, len.to_string()))
        }
    }
}
