//! Generated tokens.

/// The id of a token in a model's vocabulary.
pub type TokenId = u32;

/// One generated token.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Token {
    /// The token's id.
    pub id: TokenId,
    /// The text that became complete with this token; often empty, because a
    /// character may span tokens, or the tail may be the start of a stop
    /// string. The texts of a stream, concatenated, are its whole text.
    pub text: String,
    /// Natural-log probability of this token under the model (before
    /// temperature and truncation, after penalties and bias), when
    /// [`GenerateOptions::logprobs`](crate::GenerateOptions::logprobs) asked for it.
    pub logprob: Option<f32>,
    /// The most likely alternatives, best first, as many as were asked for.
    pub top_logprobs: Vec<TokenLogprob>,
    /// The model's logits for this position (`[vocab]`, unprocessed), when
    /// [`GenerateOptions::logits`](crate::GenerateOptions::logits) asked for them.
    pub logits: Option<Vec<f32>>,
}

impl Token {
    /// A token with its text and nothing else.
    pub fn new(id: TokenId, text: impl Into<String>) -> Self {
        Self { id, text: text.into(), ..Self::default() }
    }
}

/// A token and its log-probability.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token's id.
    pub id: TokenId,
    /// The token's own text, decoded alone: broken UTF-8 shows as U+FFFD.
    pub text: String,
    /// Natural-log probability.
    pub logprob: f32,
}

impl TokenLogprob {
    /// An alternative token.
    pub fn new(id: TokenId, text: impl Into<String>, logprob: f32) -> Self {
        Self { id, text: text.into(), logprob }
    }
}
