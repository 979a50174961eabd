//! The specimen's model: checks requests and hands them to its engine.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use inference_core::{
    Adapters, AttentionInspector, BatchItem, BatchStream, ChatPrompt, Classification,
    ClassifyOptions, Error, GenerateOptions, LabelScore, LogitRows, ModelInfo, ModelMetrics,
    Prompt, PromptLogits, Result, Scorer, SequenceState, TextModel, TokenEvent, TokenId,
    TokenSource, TokenStream, TrainableModel,
};

use crate::adapters::Loaded;
use crate::attention;
use crate::defect::{Defect, Flaw};
use crate::engine::Shared;
use crate::engine_state::Settings;
use crate::language::Kv;
use crate::sampler::{log_softmax, ranked, report};
use crate::sequence::{Sequence, Task};
use crate::training::Training;
use crate::vocabulary::{self, VOCAB_SIZE};

pub(crate) struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) adapters: Mutex<Loaded>,
    pub(crate) training: Mutex<Training>,
}

impl Model {
    pub(crate) fn start(settings: Settings) -> Result<Arc<dyn TextModel>> {
        let mut info = ModelInfo::default();
        info.architecture = "specimen".to_owned();
        let stranger = settings.flaw.is(Defect::InfoNamesAnother);
        info.backend = if stranger { "somebody" } else { "specimen" }.to_owned();
        info.vocab_size = VOCAB_SIZE;
        info.context_len = settings.context_len;
        info.weight_dtype = "none".to_owned();
        info.num_layers = attention::NUM_LAYERS;
        info.hidden_size = attention::NUM_HEADS * attention::HEAD_DIM;
        info.num_heads = attention::NUM_HEADS;
        info.num_kv_heads = attention::NUM_KV_HEADS;
        info.head_dim = attention::HEAD_DIM;
        info.has_tokenizer = settings.has_text;
        info.has_chat_template = settings.has_text;
        let shared = Arc::new(Shared::new(settings));
        let engine = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .spawn(move || engine.run())
            .map_err(|error| Error::engine("the engine thread could not be started", error))?;
        Ok(Arc::new(Self {
            info,
            shared,
            thread: Mutex::new(Some(thread)),
            adapters: Mutex::default(),
            training: Mutex::default(),
        }))
    }

    pub(crate) fn flaw(&self) -> Flaw {
        self.shared.settings.flaw
    }

    pub(crate) fn open(&self) -> Result<()> {
        if self.shared.lock().refusing { Err(Error::Closed) } else { Ok(()) }
    }

    fn text(&self, ability: &str, invented: Defect) -> Result<()> {
        if self.shared.settings.has_text || self.flaw().is(invented) {
            return Ok(());
        }
        Err(Error::unsupported("a specimen without a tokenizer", ability))
    }

    fn join(&self) {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }

    /// The ids of a prompt that leaves room for `output` tokens.
    pub(crate) fn ids(&self, prompt: Prompt, output: usize) -> Result<Vec<TokenId>> {
        let mut ids = match prompt {
            Prompt::Tokens(ids) => ids,
            Prompt::Text(text) => {
                self.text("text prompts", Defect::TokenizerInvented)?;
                let special = !self.flaw().is(Defect::PromptWithoutSpecial);
                vocabulary::encode(&text, special, self.flaw())
            }
            Prompt::Chat(chat) => {
                self.text("chat", Defect::TemplateInvented)?;
                let text = vocabulary::render(&chat, self.flaw())?;
                vocabulary::encode(&text, false, self.flaw())
            }
            _ => return Err(Error::unsupported("the specimen", "this kind of prompt")),
        };
        if ids.is_empty() {
            return Err(Error::invalid_input("prompt", "at least one token", "none"));
        }
        let outside = ids.iter().find(|id| **id as usize >= VOCAB_SIZE);
        if let Some(id) = outside {
            let expected = format!("ids below {VOCAB_SIZE}");
            return Err(Error::invalid_input("prompt", expected, id.to_string()));
        }
        let (needed, available) = (ids.len() + output, self.shared.settings.context_len);
        if self.flaw().is(Defect::PromptTruncated) {
            ids.truncate(available - output);
            return Ok(ids);
        }
        if needed > available && !self.flaw().is(Defect::LimitForgotten) {
            return Err(Error::exhausted("context (tokens)", needed as u64, available as u64));
        }
        Ok(ids)
    }

    pub(crate) fn sequence(&self, prompt: Prompt, options: GenerateOptions) -> Result<Sequence> {
        self.open()?;
        if !self.flaw().is(Defect::OptionsUnchecked) {
            options.validate()?;
        }
        let adapter = self.adapter(options.adapter.as_deref())?;
        if options.penalty_window.is_some() && self.flaw().is(Defect::OptionUnnamed) {
            return Err(Error::unsupported("the specimen", "an option"));
        }
        if options.min_tokens == Some(0) && self.flaw().is(Defect::NeutralRefused) {
            return Err(Error::unsupported("the specimen", "min_tokens"));
        }
        if !options.stop_strings.is_empty() {
            self.text("stop_strings", Defect::TokenizerInvented)?;
        }
        let biased = options.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = options.stop_tokens.iter().map(|id| ("stop_tokens", *id));
        if let Some((field, id)) = biased.chain(stops).find(|(_, id)| *id as usize >= VOCAB_SIZE) {
            let expected = format!("token ids below {VOCAB_SIZE}");
            return Err(Error::invalid_option(field, format!("token {id}"), expected));
        }
        let ids = self.ids(prompt, 1)?;
        let room = self.shared.settings.context_len.saturating_sub(ids.len());
        if options.max_tokens.is_some_and(|n| n > room) && self.flaw().is(Defect::LongTextRefused) {
            return Err(Error::exhausted("context (tokens)", 0, room as u64));
        }
        let mut sequence = Sequence::new(ids, options, Task::Generate, &self.shared.settings);
        sequence.adapter = adapter;
        Ok(sequence)
    }

    pub(crate) fn source(&self, sequence: Sequence) -> Box<dyn TokenSource> {
        let shared = Arc::clone(&self.shared);
        let eager = match sequence.waits_outside {
            true => Defect::BatchEager,
            false => Defect::StreamEager,
        };
        let mut source = Source::Unsubmitted(Some(Box::new(sequence)), shared);
        if self.flaw().is(eager) {
            source.submit();
        }
        Box::new(source)
    }

    /// Computes prompts together; rows and positions of each.
    pub(crate) fn scores(
        &self,
        prompts: Vec<Vec<TokenId>>,
        all: bool,
        options: &GenerateOptions,
    ) -> Vec<Result<(Vec<f32>, Vec<Kv>)>> {
        let adapter = match self.adapter(options.adapter.as_deref()) {
            Ok(adapter) => adapter,
            Err(error) => return prompts.iter().map(|_| Err(error.clone())).collect(),
        };
        let sequence = |ids: Vec<TokenId>| {
            let (reply, answer) = mpsc::channel();
            let task = Task::Score { all, rows: Vec::new(), reply };
            let mut sequence = Sequence::new(ids, options.clone(), task, &self.shared.settings);
            sequence.waits_outside = true;
            sequence.adapter = adapter;
            (sequence, answer)
        };
        let (sequences, answers): (Vec<_>, Vec<_>) = prompts.into_iter().map(sequence).unzip();
        let receive = |(id, answer): (Result<u64>, mpsc::Receiver<_>)| {
            id?;
            answer.recv().unwrap_or(Err(Error::Closed))
        };
        if self.flaw().is(Defect::ClassifyOneByOne) {
            let one = |(sequence, answer)| receive((self.shared.submit(sequence), answer));
            return sequences.into_iter().zip(answers).map(one).collect();
        }
        let ids = self.shared.submit_all(sequences);
        ids.into_iter().zip(answers).map(receive).collect()
    }
}

impl TextModel for Model {
    fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<TokenStream> {
        Ok(TokenStream::new(self.source(self.sequence(prompt, options)?)))
    }

    fn chat(&self, mut chat: ChatPrompt, options: GenerateOptions) -> Result<TokenStream> {
        if self.flaw().is(Defect::ChatLosesOpening) {
            chat.add_generation_prompt = false;
        }
        self.generate(Prompt::Chat(chat), options)
    }

    fn classify(
        &self,
        prompts: Vec<Prompt>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Result<Classification>>> {
        if !self.flaw().is(Defect::ClosedClassifies) {
            self.open()?;
        }
        options.validate()?;
        if !options.labels.is_empty() {
            self.text("labels", Defect::TokenizerInvented)?;
        }
        let mut labels: Vec<(&String, TokenId)> = Vec::new();
        for label in &options.labels {
            let id = vocabulary::encode(label, false, self.flaw())[0];
            if labels.iter().any(|(_, earlier)| *earlier == id) {
                let expected = "another first token than the others";
                return Err(Error::invalid_option("labels", label, expected));
            }
            labels.push((label, id));
        }
        let ids: Vec<_> = prompts.into_iter().map(|prompt| self.ids(prompt, 0)).collect();
        if let Some(Err(error)) =
            ids.iter().find(|ids| ids.is_err() && self.flaw().is(Defect::ClassifyFailsWhole))
        {
            return Err(error.clone());
        }
        let valid = ids.iter().filter_map(|ids| ids.as_ref().ok().cloned()).collect();
        let mut ends = GenerateOptions::new();
        ends.adapter.clone_from(&options.adapter);
        self.adapter(options.adapter.as_deref())?;
        if !self.flaw().is(Defect::ClassifyUncancelled) {
            ends.cancel.clone_from(&options.cancel);
            ends.deadline = options.deadline;
        }
        let mut scores = self.scores(valid, false, &ends).into_iter();
        let one = |ids: Result<Vec<TokenId>>| {
            let prompt_tokens = ids?.len();
            let (row, _) = scores.next().unwrap_or(Err(Error::Closed))?;
            let logits = options.logits || self.flaw().is(Defect::ClassifyAlwaysLogits);
            let mut report_options = GenerateOptions::new().with_logits(logits);
            report_options.logprobs = Some(options.top.unwrap_or(5));
            let rank = usize::from(self.flaw().is(Defect::ClassifySecondBest));
            let mut token = report(ranked(&row)[rank], &row, &row, &report_options, self.flaw());
            if let Some(logits) =
                token.logits.as_mut().filter(|_| self.flaw().is(Defect::ClassifyLogprobs))
            {
                *logits = log_softmax(logits);
            }
            if self.info.has_tokenizer {
                token.text = self.decode(&[token.id], false)?;
            }
            let logprobs = log_softmax(&row);
            let sum: f32 = labels.iter().map(|(_, id)| logprobs[*id as usize].exp()).sum();
            let sum = if self.flaw().is(Defect::LabelsUnnormalized) { 1.0 } else { sum };
            let score = |(label, id): &(&String, TokenId)| {
                let logprob = logprobs[*id as usize];
                LabelScore::new(*label, *id, logprob.exp() / sum, logprob)
            };
            let mut scored: Vec<_> = labels.iter().map(score).collect();
            scored.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            Ok(Classification::new(token, scored, prompt_tokens))
        };
        Ok(ids.into_iter().map(one).collect())
    }

    fn batch_generate(&self, items: Vec<BatchItem>) -> Result<BatchStream> {
        self.open()?;
        let source = |item: BatchItem| {
            let mut sequence = self.sequence(item.prompt, item.options)?;
            sequence.waits_outside = true;
            Ok(self.source(sequence))
        };
        let (count, slots) = (items.len(), self.shared.settings.slots);
        if count > slots && self.flaw().is(Defect::LargeBatchRefused) {
            return Err(Error::exhausted("slots", count as u64, slots as u64));
        }
        let mut sources: Vec<_> = items.into_iter().map(source).collect();
        if self.flaw().is(Defect::RefusedItemsDropped) {
            sources.retain(Result::is_ok);
        }
        if let Some(index) =
            sources.iter().position(|s| s.is_err() && self.flaw().is(Defect::BatchFailsWhole))
        {
            return Err(sources.swap_remove(index).err().unwrap_or(Error::Closed));
        }
        Ok(BatchStream::new(sources))
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        self.open()?;
        self.text("encode", Defect::TokenizerInvented)?;
        Ok(vocabulary::encode(text, add_special, self.flaw()))
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        self.open()?;
        self.text("decode", Defect::TokenizerInvented)?;
        vocabulary::decode(ids, skip_special, self.flaw())
    }

    fn model_type(&self) -> &str {
        &self.info.architecture
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn metrics(&self) -> ModelMetrics {
        let state = self.shared.lock();
        if state.closed && self.flaw().is(Defect::MetricsForgotten) {
            return ModelMetrics::default();
        }
        state.metrics.clone()
    }

    fn drain(&self) {
        self.shared.drain();
        self.join();
    }

    fn close(&self) {
        self.shared.close();
        self.join();
    }

    fn as_scorer(&self) -> Option<&dyn Scorer> {
        Some(self)
    }

    fn as_attention_inspector(&self) -> Option<&dyn AttentionInspector> {
        Some(self.inspector())
    }

    fn as_trainable(&self) -> Option<&dyn TrainableModel> {
        Some(self)
    }

    fn as_adapters(&self) -> Option<&dyn Adapters> {
        Some(self)
    }

    fn as_state(&self) -> Option<&dyn SequenceState> {
        (!self.flaw().is(Defect::StateMissing)).then_some(self)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if !self.flaw().is(Defect::DropLeavesRunning) {
            self.close();
        }
    }
}

impl Scorer for Model {
    fn prompt_logits(&self, prompt: Prompt, rows: LogitRows) -> Result<PromptLogits> {
        self.open()?;
        let ids = self.ids(prompt, 0)?;
        let mut scores = self.scores(vec![ids], rows == LogitRows::All, &GenerateOptions::new());
        let (rows, _) = scores.pop().unwrap_or(Err(Error::Closed))?;
        Ok(PromptLogits::new(VOCAB_SIZE, rows))
    }
}

/// A stream's source: a request that is submitted when it is first read.
enum Source {
    Unsubmitted(Option<Box<Sequence>>, Arc<Shared>),
    Submitted(u64, Arc<Shared>),
}

impl Source {
    /// Submits the request, once; what came of it where that is its end.
    fn submit(&mut self) -> Option<TokenEvent> {
        let Self::Unsubmitted(sequence, shared) = self else { return None };
        let refused = |error| Some(TokenEvent::Failed(error));
        let Some(sequence) = sequence.take() else { return refused(Error::Closed) };
        match shared.submit(*sequence) {
            Err(error) => refused(error),
            Ok(id) => {
                *self = Self::Submitted(id, Arc::clone(shared));
                None
            }
        }
    }
}

impl TokenSource for Source {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        if let Self::Unsubmitted(Some(sequence), shared) = self
            && shared.settings.flaw.is(Defect::StartIgnored)
            && !std::mem::replace(&mut sequence.polled, true)
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(event) = self.submit() {
            return Poll::Ready(event);
        }
        let Self::Submitted(id, shared) = self else { return Poll::Pending };
        let mut state = shared.lock();
        let Some(output) = state.outputs.get_mut(id) else {
            return Poll::Ready(TokenEvent::Failed(Error::Closed));
        };
        let full = output.events.len() >= shared.settings.capacity();
        output.last_read = std::time::Instant::now();
        let Some(event) = output.events.pop_front() else {
            output.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        if full {
            shared.notify();
        }
        Poll::Ready(event)
    }

    fn cancel(&mut self) {
        match self {
            Self::Unsubmitted(sequence, _) => {
                if let Some(sequence) = sequence {
                    sequence.cancelled = true;
                }
            }
            Self::Submitted(id, shared) => {
                if let Some(output) = shared.lock().outputs.get_mut(id) {
                    output.cancelled = true;
                }
                shared.notify();
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Submitted(id, shared) = self {
            if !shared.settings.flaw.is(Defect::DropForgotten) {
                shared.lock().outputs.remove(id);
            }
            shared.notify();
        }
    }
}
