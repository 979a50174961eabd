//! The echo model.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::source::{EchoSource, Request};
use super::{EOS, refuse};
use crate::{
    BatchItem, BatchStream, CancelToken, Classification, ClassifyOptions, Error, FinishReason,
    GenerateOptions, LabelScore, ModelInfo, ModelMetrics, ProbeBus, Prompt, Result, TextModel,
    Token, TokenId, TokenLogprob, TokenSource, TokenStream,
};

/// Every Unicode scalar value and, unused, the surrogates between them.
pub(super) const VOCAB_SIZE: usize = 0x11_0000;

/// Probability of the token that is expected next.
const EXPECTED: f32 = 0.99;

#[derive(Debug)]
pub(super) struct EchoModel {
    info: ModelInfo,
    shared: Arc<Shared>,
}

/// What the model shares with its running requests.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) context_len: usize,
    /// New requests are refused.
    refusing: AtomicBool,
    /// Running ones end.
    pub(super) closed: AtomicBool,
    /// A request ended.
    ended: Condvar,
    pub(super) probe_bus: Option<Arc<ProbeBus>>,
    metrics: Mutex<ModelMetrics>,
}

impl Shared {
    pub(super) fn metrics(&self) -> MutexGuard<'_, ModelMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the end of a request that held so many bytes.
    pub(super) fn release(&self, bytes: u64, failed: bool) {
        let mut metrics = self.metrics();
        metrics.running -= 1;
        metrics.finished += 1;
        metrics.failed += u64::from(failed);
        metrics.active_bytes -= bytes;
        self.ended.notify_all();
    }

    fn drain(&self) {
        self.refusing.store(true, Ordering::Release);
        let running = |metrics: &mut ModelMetrics| metrics.running > 0;
        let waited = self.ended.wait_while(self.metrics(), running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.close();
    }

    fn close(&self) {
        self.refusing.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
    }
}

impl EchoModel {
    pub(super) fn new(context_len: usize, probe_bus: Option<Arc<ProbeBus>>) -> Self {
        // Outside of this crate: `ModelInfo::default()`, then assignments.
        let info = ModelInfo {
            architecture: "echo".to_owned(),
            backend: "echo".to_owned(),
            vocab_size: VOCAB_SIZE,
            context_len,
            weight_dtype: "none".to_owned(),
            has_chat_template: true,
            has_tokenizer: true,
            ..ModelInfo::default()
        };
        let shared = Shared {
            context_len,
            refusing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: Condvar::new(),
            probe_bus,
            metrics: Mutex::default(),
        };
        Self { info, shared: Arc::new(shared) }
    }

    fn open(&self) -> Result<()> {
        if self.shared.refusing.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    fn ids(&self, prompt: Prompt) -> Result<Vec<TokenId>> {
        let ids = match prompt {
            Prompt::Text(text) => self.encode(&text, true)?,
            Prompt::Tokens(ids) => {
                self.decode(&ids, false)?;
                ids
            }
            Prompt::Chat(chat) => {
                let Some(last) = chat.messages.last() else {
                    return Err(Error::invalid_input("messages", "at least one", "none"));
                };
                let Some(text) = &last.content else {
                    return Err(Error::invalid_input("message content", "text", "null"));
                };
                self.encode(text, true)?
            }
        };
        if ids.is_empty() {
            return Err(Error::invalid_input("prompt", "at least one token", "none"));
        }
        let (needed, available) = (ids.len() as u64, self.shared.context_len as u64);
        if needed > available {
            return Err(Error::exhausted("context (tokens)", needed, available));
        }
        Ok(ids)
    }

    fn source(&self, prompt: Prompt, options: GenerateOptions) -> Result<Box<dyn TokenSource>> {
        self.open()?;
        options.validate()?;
        refuse(&[
            // Greedy: what only shapes sampling has nothing to act on.
            ("temperature", options.temperature.is_some_and(|t| t != 0.0)),
            ("top_k", options.top_k.is_some()),
            ("top_p", options.top_p.is_some()),
            ("min_p", options.min_p.is_some()),
            ("typical_p", options.typical_p.is_some()),
            ("repeat_penalty", options.repeat_penalty.is_some()),
            ("frequency_penalty", options.frequency_penalty.is_some()),
            ("presence_penalty", options.presence_penalty.is_some()),
            ("penalty_window", options.penalty_window.is_some()),
            ("logit_bias", !options.logit_bias.is_empty()),
            ("stop_strings", !options.stop_strings.is_empty()),
            ("min_tokens", options.min_tokens.is_some_and(|n| n != 0)),
            ("ignore_eos", options.ignore_eos == Some(true)),
            ("logits", options.logits == Some(true)),
            ("priority", options.priority.is_some_and(|p| p != 0)),
            ("prompt_lookup", options.prompt_lookup.is_some_and(|n| n != 0)),
            ("adapter", options.adapter.is_some()),
        ])?;
        let request = Request::new(self.ids(prompt)?, options);
        Ok(Box::new(EchoSource::new(request, Arc::clone(&self.shared))))
    }

    fn classify_one(&self, prompt: Prompt, options: &ClassifyOptions) -> Result<Classification> {
        let ids = self.ids(prompt)?;
        let late = options.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if options.cancel.as_ref().is_some_and(CancelToken::is_cancelled) || late {
            let reason = if late { FinishReason::Deadline } else { FinishReason::Cancelled };
            return Err(Error::Cancelled { reason });
        }
        let expected = ids.first().copied().unwrap_or(EOS);
        let token = scored(expected, Some(options.top.unwrap_or(5)))?;
        let mut labels = Vec::with_capacity(options.labels.len());
        for label in &options.labels {
            let id = first_id(label);
            labels.push(LabelScore::new(label, id, 0.0, logprob(id, expected)));
        }
        let total: f32 = labels.iter().map(|label| label.logprob.exp()).sum();
        for label in &mut labels {
            label.probability = label.logprob.exp() / total;
        }
        labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let mut metrics = self.shared.metrics();
        metrics.forward_count += 1;
        metrics.prompt_tokens += ids.len() as u64;
        Ok(Classification::new(token, labels, ids.len()))
    }
}

impl TextModel for EchoModel {
    fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<TokenStream> {
        Ok(TokenStream::new(self.source(prompt, options)?))
    }

    fn classify(
        &self,
        prompts: Vec<Prompt>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Result<Classification>>> {
        self.open()?;
        options.validate()?;
        refuse(&[("logits", options.logits), ("adapter", options.adapter.is_some())])?;
        for (index, label) in options.labels.iter().enumerate() {
            let same = |earlier: &&String| first_id(earlier) == first_id(label);
            if let Some(earlier) = options.labels.iter().take(index).find(same) {
                let expected = format!("another first token than that of {earlier:?}");
                return Err(Error::invalid_option("labels", format!("{label:?}"), expected));
            }
        }
        Ok(prompts.into_iter().map(|prompt| self.classify_one(prompt, options)).collect())
    }

    fn batch_generate(&self, items: Vec<BatchItem>) -> Result<BatchStream> {
        self.open()?;
        let source = |item: BatchItem| self.source(item.prompt, item.options);
        Ok(BatchStream::new(items.into_iter().map(source).collect()))
    }

    /// There are no special tokens to add.
    fn encode(&self, text: &str, _add_special: bool) -> Result<Vec<TokenId>> {
        Ok(text.chars().map(TokenId::from).collect())
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        ids.iter().filter(|id| !(skip_special && **id == EOS)).map(|id| character(*id)).collect()
    }

    fn model_type(&self) -> &str {
        &self.info.architecture
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn metrics(&self) -> ModelMetrics {
        self.shared.metrics().clone()
    }

    fn drain(&self) {
        // Requests are computed as they are read, on their readers' threads.
        self.shared.drain();
    }

    fn close(&self) {
        self.shared.close();
    }
}

impl Drop for EchoModel {
    fn drop(&mut self) {
        self.close();
    }
}

fn character(id: TokenId) -> Result<char> {
    char::from_u32(id).ok_or_else(|| {
        Error::invalid_input("token id", "a Unicode scalar value", format!("{id} (U+{id:04X})"))
    })
}

/// The token that begins a text that is not empty.
fn first_id(text: &str) -> TokenId {
    text.chars().next().map_or(EOS, TokenId::from)
}

/// Natural-log probability of `id` where `expected` comes next; what is left
/// is shared evenly by the rest of the vocabulary.
fn logprob(id: TokenId, expected: TokenId) -> f32 {
    if id == expected { EXPECTED.ln() } else { ((1.0 - EXPECTED) / (VOCAB_SIZE - 1) as f32).ln() }
}

/// The expected token, with as many of the likeliest as asked for; among equals
/// the lower id comes first.
pub(super) fn scored(expected: TokenId, top: Option<usize>) -> Result<Token> {
    let mut token = Token::new(expected, character(expected)?);
    let Some(top) = top else { return Ok(token) };
    token.logprob = Some(logprob(expected, expected));
    let others = (0..).filter(|id| *id != expected);
    for id in std::iter::once(expected).chain(others).take(top) {
        let text = character(id)?;
        token.top_logprobs.push(TokenLogprob::new(id, text, logprob(id, expected)));
    }
    Ok(token)
}
