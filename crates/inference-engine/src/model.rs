//! The model that callers hold.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, mpsc};
use std::task::{Wake, Waker};
use std::time::Instant;

use inference_core::probe::RequestId;
use inference_core::{
    Adapters, AttentionInspector, AttentionSnapshot, BatchItem, BatchStream, Classification,
    ClassifyOptions, Error, GenerateOptions, LogitRows, ModelInfo, ModelMetrics, Prompt,
    PromptLogits, Result, Scorer, SequenceState, TextModel, TokenId, TokenSource, TokenStream,
    TrainableModel,
};

use crate::adapters::AdapterLease;
use crate::channel::channel;
use crate::classify::{classification, label_tokens, validate};
use crate::engine_thread::{CANCEL_POLL, Engine, panic_error, totals};
use crate::exporter::Exporter;
use crate::identity::Identity;
use crate::mailbox::{Inspection, Mailbox};
use crate::meter::Meter;
use crate::options::EngineOptions;
use crate::parts::ModelParts;
use crate::request::Requirements;
use crate::runner::ModelRunner;
use crate::scheduler::Rank;
use crate::stream::{EngineSource, Group, WhenFull};
use crate::submission::{KvBytes, PrefillTask, RowConsumer, Submission, Task, request_span};
use crate::sync::{Mutex, thread};

/// A [`TextModel`] over any [`ModelRunner`]; see the [crate](crate) for how it
/// serves requests.
#[derive(Debug)]
pub struct EngineModel {
    pub(crate) requirements: Arc<Requirements>,
    /// Made when it is first asked for.
    pub(crate) identity: OnceLock<Arc<Identity>>,
    channel_capacity: usize,
    pub(crate) mailbox: Arc<Mailbox>,
    meter: Arc<Meter>,
    next_request: AtomicU64,
    inspects_attention: bool,
    engine: thread::ThreadId,
    /// Taken by whoever closes.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl EngineModel {
    /// Starts an engine thread that owns `runner`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for options
    /// or defaults outside their range,
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for a runner
    /// without vocabulary, context or KV blocks, or an end-of-sequence token
    /// outside the vocabulary,
    /// [`Engine`](inference_core::ErrorKind::Engine) where no thread can be
    /// started.
    pub fn start(
        mut runner: Box<dyn ModelRunner>,
        parts: ModelParts,
        options: EngineOptions,
    ) -> Result<Arc<Self>> {
        options.validate()?;
        let mailbox = Arc::new(Mailbox::new(options.max_queue, options.aging));
        let meter = Arc::new(Meter::default());
        let channel_capacity = options.channel_capacity;
        let (shared_mailbox, shared_meter) = (Arc::clone(&mailbox), Arc::clone(&meter));
        let build = move || {
            let requirements = Arc::new(Requirements::new(&mut *runner, parts)?);
            let inspects_attention = runner.inspects_attention();
            let tokenizer = requirements.parts.tokenizer.clone();
            let exporter = Exporter::new(&requirements.parts.info);
            let engine =
                Engine::new(runner, options, tokenizer, shared_mailbox, shared_meter, exporter);
            Ok((requirements, inspects_attention, engine))
        };
        // The runner is asked for its facts.
        let built = catch_unwind(AssertUnwindSafe(build));
        let (requirements, inspects_attention, engine) =
            built.unwrap_or_else(|panic| Err(panic_error(&*panic)))?;
        let thread = thread::Builder::new()
            .name("inference-engine".into())
            .spawn(move || engine.run())
            .map_err(|error| Error::engine("the engine thread could not be started", error))?;
        Ok(Arc::new(Self {
            requirements,
            identity: OnceLock::new(),
            channel_capacity,
            mailbox,
            meter,
            next_request: AtomicU64::new(0),
            inspects_attention,
            engine: thread.thread().id(),
            thread: Mutex::new(Some(thread)),
        }))
    }

    fn request_id(&self) -> RequestId {
        RequestId(self.next_request.fetch_add(1, Ordering::Relaxed))
    }

    /// A checked request, not yet submitted: it joins `group`. `restored` are
    /// keys and values of the beginning of its prompt.
    pub(crate) fn source(
        &self,
        prompt: &Prompt,
        restored: Option<Arc<KvBytes>>,
        options: GenerateOptions,
        group: &Group,
        when_full: WhenFull,
    ) -> Result<Box<dyn TokenSource>> {
        let (ids, mut plan) = self.requirements.generation(prompt, options)?;
        let adapter = plan.adapter.take();
        let (sender, reader) = channel(self.channel_capacity, Arc::clone(&self.mailbox));
        let id = self.request_id();
        let span = request_span(id, ids.len(), adapter.as_ref());
        group.lock().unwrap_or_else(PoisonError::into_inner).push_back(Submission {
            id,
            restored,
            ids,
            adapter,
            priority: plan.priority,
            rank: Rank::default(),
            deadline: plan.deadline,
            cancel: plan.cancel.clone(),
            submitted: Instant::now(),
            span,
            task: Task::Generate(Box::new(plan), sender),
        });
        let (mailbox, group) = (Arc::clone(&self.mailbox), Arc::clone(group));
        Ok(Box::new(EngineSource::new(id, mailbox, reader, group, when_full)))
    }

    /// A request for logits of a prompt, without priority, deadline and token.
    pub(crate) fn prefill(
        &self,
        ids: Vec<TokenId>,
        adapter: Option<AdapterLease>,
        task: PrefillTask,
    ) -> Submission {
        let id = self.request_id();
        let span = request_span(id, ids.len(), adapter.as_ref());
        Submission {
            id,
            restored: None,
            ids,
            adapter,
            priority: 0,
            rank: Rank::default(),
            deadline: None,
            cancel: None,
            submitted: Instant::now(),
            span,
            task: Task::Prefill(task),
        }
    }

    /// Whether a call that waits for the engine can be answered. A waker may run
    /// on the engine thread, which would wait for itself.
    ///
    /// # Errors
    ///
    /// `Closed`, the error that stopped the engine, or `Unsupported` on the
    /// engine thread.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        self.mailbox.check_open()?;
        if thread::current().id() == self.engine {
            let subject = "a waker on the engine's own thread";
            return Err(Error::unsupported(subject, "calls that wait for the engine"));
        }
        Ok(())
    }

    /// Queues all of `submissions`, blocking while the queue is full. Those for
    /// which that takes too long end outside of it.
    fn submit_all(&self, mut submissions: VecDeque<Submission>) -> Result<()> {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            self.mailbox.submit_some(&mut submissions, &waker)?;
            let now = Instant::now();
            submissions = submissions
                .into_iter()
                .filter_map(|submission| match submission.overdue(now) {
                    Some(reason) => {
                        submission.end(Ok(reason), 0);
                        None
                    }
                    None => Some(submission),
                })
                .collect();
            // They have one token and one deadline.
            let Some(first) = submissions.front() else { return Ok(()) };
            let polled = first.cancel.is_some().then_some(CANCEL_POLL);
            let late = first.deadline.map(|at| at.saturating_duration_since(now));
            match [polled, late].into_iter().flatten().min() {
                Some(patience) => std::thread::park_timeout(patience),
                None => std::thread::park(),
            }
        }
    }

    /// What the engine thread sent back, or why it did not.
    pub(crate) fn answer<T>(&self, reply: &mpsc::Receiver<T>) -> Result<T> {
        reply.recv().map_err(|_| {
            let stopped = || Error::engine_message("the engine thread stopped");
            self.mailbox.check_open().err().unwrap_or_else(stopped)
        })
    }
}

impl TextModel for EngineModel {
    fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<TokenStream> {
        self.mailbox.check_open()?;
        let group = Group::default();
        Ok(TokenStream::new(self.source(&prompt, None, options, &group, WhenFull::Refuse)?))
    }

    fn classify(
        &self,
        prompts: Vec<Prompt>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Result<Classification>>> {
        self.check_may_wait()?;
        validate(&self.requirements, options)?;
        // Also where there is no prompt; until all of them have it.
        let adapter = self.requirements.adapter(options.adapter.as_deref())?;
        let options = Arc::new(options.clone());
        let (reply, replies) = mpsc::channel();
        let mut results: Vec<Option<Result<Classification>>> = Vec::new();
        let mut submissions = VecDeque::new();
        for (index, prompt) in prompts.iter().enumerate() {
            match self.requirements.prompt_ids(prompt, self.requirements.context_len()) {
                Err(error) => results.push(Some(Err(error))),
                Ok(ids) => {
                    let tokens = label_tokens(&self.requirements, prompt, &options.labels)?;
                    let consumer = Box::new(Classifier {
                        index,
                        requirements: Arc::clone(&self.requirements),
                        options: Arc::clone(&options),
                        label_tokens: tokens,
                        prompt_tokens: ids.len(),
                        result: None,
                        reply: reply.clone(),
                    });
                    let task = PrefillTask { all_rows: false, consumer };
                    let adapter = self.requirements.adapter(options.adapter.as_deref())?;
                    let mut submission = self.prefill(ids, adapter, task);
                    submission.deadline = options.deadline;
                    submission.cancel.clone_from(&options.cancel);
                    submissions.push_back(submission);
                    results.push(None);
                }
            }
        }
        drop((reply, adapter));
        let expected = submissions.len();
        self.submit_all(submissions)?;
        for _ in 0..expected {
            let (index, result) = self.answer(&replies)?;
            if let Some(slot) = results.get_mut(index) {
                *slot = Some(result);
            }
        }
        let missing = || Err(Error::engine_message("the item ended without an outcome"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    fn batch_generate(&self, items: Vec<BatchItem>) -> Result<BatchStream> {
        self.mailbox.check_open()?;
        let group = Group::default();
        let source =
            |item: BatchItem| self.source(&item.prompt, None, item.options, &group, WhenFull::Wait);
        Ok(BatchStream::new(items.into_iter().map(source).collect()))
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        self.mailbox.check_open()?;
        self.requirements.tokenizer("encode")?.encode(text, add_special)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        self.mailbox.check_open()?;
        self.requirements.tokenizer("decode")?.decode(ids, skip_special)
    }

    fn prompt_tokens(&self, prompt: &Prompt) -> Result<Vec<TokenId>> {
        self.mailbox.check_open()?;
        self.requirements.prompt_ids(prompt, usize::MAX)
    }

    fn model_type(&self) -> &str {
        &self.requirements.parts.info.architecture
    }

    fn info(&self) -> &ModelInfo {
        &self.requirements.parts.info
    }

    fn metrics(&self) -> ModelMetrics {
        totals(&self.meter, &self.mailbox)
    }

    fn drain(&self) {
        self.mailbox.drain();
        self.join();
    }

    fn close(&self) {
        self.mailbox.close();
        self.join();
    }

    fn as_scorer(&self) -> Option<&dyn Scorer> {
        Some(self)
    }

    fn as_trainable(&self) -> Option<&dyn TrainableModel> {
        self.requirements.parts.trainable.as_deref()
    }

    fn as_attention_inspector(&self) -> Option<&dyn AttentionInspector> {
        self.inspects_attention.then_some(self)
    }

    fn as_adapters(&self) -> Option<&dyn Adapters> {
        self.requirements.parts.adapters.as_ref().map(|_| self as &dyn Adapters)
    }

    fn as_state(&self) -> Option<&dyn SequenceState> {
        self.requirements.kv_format.as_ref().map(|_| self as &dyn SequenceState)
    }
}

impl EngineModel {
    /// Waits for the engine thread to end.
    fn join(&self) {
        // A waker or sink may drop the model on the engine thread itself,
        // which then ends without being waited for.
        if thread::current().id() == self.engine {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // The engine catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for EngineModel {
    fn drop(&mut self) {
        self.close();
    }
}

impl Scorer for EngineModel {
    fn prompt_logits(&self, prompt: Prompt, rows: LogitRows) -> Result<PromptLogits> {
        self.check_may_wait()?;
        let all_rows = match rows {
            LogitRows::All => true,
            LogitRows::Last => false,
            _ => return Err(Error::unsupported("the engine", format!("{rows:?} logit rows"))),
        };
        let ids = self.requirements.prompt_ids(&prompt, self.requirements.context_len())?;
        let mut values = Vec::new();
        let vocab_size = self.requirements.spec.vocab_size;
        let count = vocab_size.saturating_mul(if all_rows { ids.len() } else { 1 });
        values.try_reserve_exact(count).map_err(|_| {
            let needed = (count as u64).saturating_mul(size_of::<f32>() as u64);
            Error::exhausted("memory for logits, in bytes", needed, 0)
        })?;
        let (reply, replies) = mpsc::channel();
        let consumer = Box::new(Collector { values, reply });
        let adapter = self.requirements.adapter(None)?;
        let submission = self.prefill(ids, adapter, PrefillTask { all_rows, consumer });
        self.mailbox.submit(submission)?;
        let values = self.answer(&replies)??;
        Ok(PromptLogits::new(vocab_size, values))
    }
}

impl AttentionInspector for EngineModel {
    fn inspect_attention(&self, prompt: Prompt) -> Result<AttentionSnapshot> {
        self.check_may_wait()?;
        let ids = self.requirements.prompt_ids(&prompt, self.requirements.context_len())?;
        let (reply, replies) = mpsc::channel();
        let adapter = self.requirements.adapter(None)?;
        self.mailbox.inspect(Inspection { ids, adapter, reply })?;
        self.answer(&replies)?
    }
}

/// Collects rows for [`Scorer`].
struct Collector {
    values: Vec<f32>,
    reply: mpsc::Sender<Result<Vec<f32>>>,
}

impl RowConsumer for Collector {
    fn row(&mut self, logits: &[f32]) {
        self.values.extend_from_slice(logits);
    }

    fn end(self: Box<Self>, end: Result<()>) {
        let Self { values, reply } = *self;
        // A caller that went away needs no answer.
        let _ = reply.send(end.map(|()| values));
    }
}

/// Turns the last row into a classification, on the engine thread, so that no
/// row is copied.
struct Classifier {
    index: usize,
    requirements: Arc<Requirements>,
    options: Arc<ClassifyOptions>,
    label_tokens: Vec<TokenId>,
    prompt_tokens: usize,
    result: Option<Result<Classification>>,
    reply: mpsc::Sender<(usize, Result<Classification>)>,
}

impl RowConsumer for Classifier {
    fn row(&mut self, logits: &[f32]) {
        self.result = Some(classification(
            self.requirements.parts.tokenizer.as_deref(),
            &self.options,
            &self.label_tokens,
            self.prompt_tokens,
            logits,
        ));
    }

    fn end(self: Box<Self>, end: Result<()>) {
        let missing = || Err(Error::engine_message("a prefill ended without logits"));
        let Self { index, result, reply, .. } = *self;
        let _ = reply.send((index, end.and_then(|()| result.unwrap_or_else(missing))));
    }
}
