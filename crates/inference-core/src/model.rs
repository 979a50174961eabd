//! The model trait.

use crate::{
    Adapters, AttentionInspector, BatchItem, BatchStream, ChatPrompt, Classification,
    ClassifyOptions, Error, GenerateOptions, ModelInfo, ModelMetrics, Prompt, Result,
    SequenceState, TokenId, TokenStream, TrainableModel,
};

/// A loaded model.
///
/// Every method takes `&self` and may be called from many threads at once: the
/// calls share one scheduler, and a request's answer does not depend on what
/// else runs. Optional abilities are reached through accessors that return
/// `None` where the model lacks them; a wrapper should forward every accessor.
///
/// Requests are checked when they are made. What can be refused at once
/// (invalid options, a prompt that does not fit, an unknown adapter) is
/// returned by the call itself; what happens later comes through the stream.
pub trait TextModel: Send + Sync {
    /// Streams text that continues `prompt`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) for an option outside
    /// its range, [`InvalidInput`](crate::ErrorKind::InvalidInput) for an empty
    /// prompt or an id outside the vocabulary,
    /// [`Exhausted`](crate::ErrorKind::Exhausted) for one that cannot fit,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for text without a
    /// tokenizer, [`Closed`](crate::ErrorKind::Closed) after
    /// [`close`](Self::close).
    fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<TokenStream>;

    /// Streams the assistant's reply to a conversation, rendered by the
    /// model's chat template.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a chat template;
    /// a template that raises is [`InvalidInput`](crate::ErrorKind::InvalidInput)
    /// with the template's message.
    fn chat(&self, chat: ChatPrompt, options: GenerateOptions) -> Result<TokenStream> {
        self.generate(Prompt::Chat(chat), options)
    }

    /// What would come next after each prompt, without generating: prefill
    /// only, in as few forward passes as fit. One result per prompt, in order.
    ///
    /// # Errors
    ///
    /// The outer result: an invalid option or label. An inner one: as
    /// [`generate`](Self::generate) for that prompt; the others are not
    /// disturbed. [`Cancelled`](crate::ErrorKind::Cancelled) for one that
    /// token or deadline of the options came before.
    fn classify(
        &self,
        prompts: Vec<Prompt>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Result<Classification>>>;

    /// Runs many requests together and yields their events as they come.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed). What is wrong with one item comes
    /// as that item's [`TokenEvent::Failed`](crate::TokenEvent::Failed).
    fn batch_generate(&self, items: Vec<BatchItem>) -> Result<BatchStream>;

    /// Text to ids. `add_special` adds the tokens (such as BOS) that the
    /// tokenizer puts around a text.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a tokenizer.
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>>;

    /// Ids to text. `skip_special` leaves special tokens out. Bytes that are
    /// no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a tokenizer,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown id.
    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String>;

    /// The ids that a prompt stands for: a text with the tokens that the
    /// tokenizer puts around it, a chat as its template renders it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a tokenizer or a
    /// chat template, or where the model does not tell; otherwise as
    /// [`generate`](Self::generate) for a prompt that it refuses, but for its
    /// length.
    fn prompt_tokens(&self, prompt: &Prompt) -> Result<Vec<TokenId>> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids.clone()),
            Prompt::Text(text) => self.encode(text, true),
            Prompt::Chat(_) => {
                let subject = format!("the backend `{}`", self.info().backend);
                Err(Error::unsupported(subject, "the ids of a chat"))
            }
        }
    }

    /// The architecture's name, as in `config.json`'s `model_type`.
    fn model_type(&self) -> &str;

    /// Facts about the model.
    fn info(&self) -> &ModelInfo;

    /// Totals since the model was loaded.
    fn metrics(&self) -> ModelMetrics;

    /// Refuses later calls, waits until every request that was submitted has
    /// ended by itself, and then closes the model. A reader that stays away is
    /// ended as [`Lagging`](crate::FinishReason::Lagging); one on the calling
    /// thread cannot read meanwhile.
    fn drain(&self);

    /// Ends every request with
    /// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled), frees the
    /// model's memory and refuses later calls. Idempotent; dropping the model
    /// does the same.
    fn close(&self);

    /// The logits of a prompt's own positions.
    fn as_scorer(&self) -> Option<&dyn Scorer> {
        None
    }

    /// Training, where the model can be trained.
    fn as_trainable(&self) -> Option<&dyn TrainableModel> {
        None
    }

    /// Looking at attention.
    fn as_attention_inspector(&self) -> Option<&dyn AttentionInspector> {
        None
    }

    /// Adapters chosen per request.
    fn as_adapters(&self) -> Option<&dyn Adapters> {
        None
    }

    /// Snapshots of sequences.
    fn as_state(&self) -> Option<&dyn SequenceState> {
        None
    }
}

/// Which of a prompt's positions to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogitRows {
    /// The last position only.
    Last,
    /// Every position.
    All,
}

/// Logits of a prompt's positions.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PromptLogits {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Row-major `[positions, vocab_size]`.
    pub values: Vec<f32>,
}

impl PromptLogits {
    /// Logits, row-major `[positions, vocab_size]`.
    #[must_use]
    pub fn new(vocab_size: usize, values: Vec<f32>) -> Self {
        Self { vocab_size, values }
    }

    /// One `[vocab_size]` row per position.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab_size.max(1))
    }
}

/// A model that reports the logits of a prompt's own positions, for
/// perplexity and comparison with other implementations.
pub trait Scorer: Send + Sync {
    /// Logits after the last, or after every, token of `prompt`.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`] for its prompt.
    fn prompt_logits(&self, prompt: Prompt, rows: LogitRows) -> Result<PromptLogits>;
}
