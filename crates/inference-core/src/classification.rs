//! Classification: the distribution of the token that would come next.

use std::time::{Duration, Instant};

use crate::{CancelToken, Error, Result, Token, TokenId};

/// Options of [`TextModel::classify`](crate::TextModel::classify).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClassifyOptions {
    /// Candidate answers. Each is scored by the first token that continues
    /// the prompt with it; two labels that begin with the same token are
    /// refused, and so is an empty one. No labels: none are scored.
    pub labels: Vec<String>,
    /// How many of the likeliest tokens to report (0 to 100). Default: 5.
    pub top: Option<usize>,
    /// Whether to report the full logits. Default: false.
    pub logits: bool,
    /// Name of the loaded adapter to use.
    pub adapter: Option<String>,
    /// When to give up; checked at every step. Prompts without an answer then
    /// end with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    /// Default: never.
    pub deadline: Option<Instant>,
    /// Ends the prompts that have no answer yet with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) when cancelled.
    pub cancel: Option<CancelToken>,
}

impl ClassifyOptions {
    /// Options without labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the candidate answers.
    #[must_use]
    pub fn with_labels<I: IntoIterator<Item: Into<String>>>(mut self, labels: I) -> Self {
        self.labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how many of the likeliest tokens to report.
    #[must_use]
    pub fn with_top(mut self, top: usize) -> Self {
        self.top = Some(top);
        self
    }

    /// Asks for the full logits.
    #[must_use]
    pub fn with_logits(mut self, logits: bool) -> Self {
        self.logits = logits;
        self
    }

    /// Chooses a loaded adapter by name.
    #[must_use]
    pub fn with_adapter(mut self, name: impl Into<String>) -> Self {
        self.adapter = Some(name.into());
        self
    }

    /// Sets when to give up.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets when to give up, counted from now. A time beyond what the clock
    /// can hold is no deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// Sets the token that can cancel it.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Checks every field, as far as no tokenizer is needed for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for the
    /// first value outside its range.
    pub fn validate(&self) -> Result<()> {
        if let Some(top) = self.top.filter(|top| *top > 100) {
            return Err(Error::invalid_option("top", top, "0 to 100"));
        }
        for (index, label) in self.labels.iter().enumerate() {
            if label.is_empty() {
                return Err(Error::invalid_option("labels", "\"\"", "no empty label"));
            }
            if self.labels.iter().take(index).any(|earlier| earlier == label) {
                return Err(Error::invalid_option("labels", label, "each label once"));
            }
        }
        Ok(())
    }
}

/// One label's share.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// The token that stands for it.
    pub token_id: TokenId,
    /// Probability among the labels; the scores of one item sum to 1.
    pub probability: f32,
    /// Natural-log probability of the token in the whole vocabulary.
    pub logprob: f32,
}

impl LabelScore {
    /// A label's score.
    pub fn new(
        label: impl Into<String>,
        token_id: TokenId,
        probability: f32,
        logprob: f32,
    ) -> Self {
        Self { label: label.into(), token_id, probability, logprob }
    }
}

/// What the model would say next, after one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Classification {
    /// The likeliest token, with its log-probability, the likeliest
    /// alternatives and, where asked for, the full logits.
    pub token: Token,
    /// The labels, most likely first.
    pub labels: Vec<LabelScore>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl Classification {
    /// A classification.
    #[must_use]
    pub fn new(token: Token, labels: Vec<LabelScore>, prompt_tokens: usize) -> Self {
        Self { token, labels, prompt_tokens }
    }

    /// The most likely label, where labels were given.
    #[must_use]
    pub fn best(&self) -> Option<&LabelScore> {
        self.labels.first()
    }
}
