//! The loop that owns the runner.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeBus, ProbeEvent, ProbeKind, RequestId};
use inference_core::{Error, FinishReason, ModelMetrics, Result};
use inference_text::Tokenizer;

use crate::adapters::AdapterLease;
use crate::exporter::Exporter;
use crate::kv_memory::KvMemory;
use crate::mailbox::{Inspection, Mail, Mailbox};
use crate::meter::Meter;
use crate::options::EngineOptions;
use crate::runner::{BlockId, MemoryUsage, ModelRunner, RunnerSpec, StepBatch};
use crate::scheduler::{Rank, plan};
use crate::sequence::{Ending, Sequence};
use crate::submission::Submission;

/// How often an engine without other work looks at cancel tokens, which are
/// plain flags that cannot wake it.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(10);

/// The engine thread's state.
pub(crate) struct Engine {
    pub(crate) runner: Box<dyn ModelRunner>,
    pub(crate) spec: RunnerSpec,
    pub(crate) options: EngineOptions,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) exporter: Exporter,
    /// What the runner held after the last step.
    pub(crate) memory: MemoryUsage,
    pub(crate) waiting: BTreeMap<Rank, Submission>,
    /// Sequences that had a slot and have none now; see [`slots`](crate::slots).
    pub(crate) aside: BTreeMap<Rank, Sequence>,
    pub(crate) running: Vec<Sequence>,
    /// The batch of the last step, whose memory the next one uses.
    pub(crate) batch: StepBatch,
    pub(crate) kv: KvMemory,
    /// Whether somebody lacks blocks.
    pub(crate) short_of_blocks: bool,
    /// The bytes that were last reported.
    pub(crate) reported_bytes: u64,
    /// Nobody knows what a panic left behind.
    pub(crate) runner_panicked: bool,
    /// No more requests come.
    pub(crate) draining: bool,
}

/// A failure after which the runner must not be used.
pub(crate) struct Fatal(pub(crate) Error);

impl Engine {
    pub(crate) fn new(
        mut runner: Box<dyn ModelRunner>,
        options: EngineOptions,
        tokenizer: Option<Arc<Tokenizer>>,
        mailbox: Arc<Mailbox>,
        meter: Arc<Meter>,
        exporter: Exporter,
    ) -> Self {
        let spec = runner.spec().clone();
        let keeps = options.prefix_cache && runner.kv_blocks().is_some();
        // More were refused before.
        let blocks = BlockId::try_from(spec.num_blocks).unwrap_or(BlockId::MAX);
        let kv = KvMemory::new(blocks, spec.block_size, keeps);
        let memory = runner.memory();
        let engine = Self {
            runner,
            spec,
            options,
            tokenizer,
            mailbox,
            meter,
            exporter,
            memory,
            waiting: BTreeMap::new(),
            aside: BTreeMap::new(),
            running: Vec::new(),
            batch: StepBatch::default(),
            kv,
            short_of_blocks: false,
            reported_bytes: 0,
            runner_panicked: false,
            draining: false,
        };
        engine.update_meter(|_| ());
        engine
    }

    /// Runs until the model is closed or the runner fails for good.
    pub(crate) fn run(mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            let message = format!("the engine thread panicked: {}", panic_message(&*panic));
            let error = Error::engine_message(message);
            // Should that panic too, dropping the sequences ends their streams.
            let _ = catch_unwind(AssertUnwindSafe(|| self.fail(error)));
        }
        let Self { runner, mut exporter, meter, mailbox, .. } = self;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(runner))) {
            tracing::error!(
                message = panic_message(&*panic),
                "the model runner panicked in the end"
            );
        }
        // The runner is gone, and its memory with it.
        meter.update(|metrics| {
            metrics.running = 0;
            metrics.kv_blocks_used = 0;
            metrics.active_bytes = 0;
        });
        exporter.publish(totals(&meter, &mailbox));
    }

    /// Ends everything with `error`, which every later call gets too.
    fn fail(&mut self, error: Error) {
        tracing::error!(%error, "the engine stops");
        let mail = self.mailbox.fail(&error);
        for inspection in self.take_in(mail) {
            let _ = inspection.reply.send(Err(error.clone()));
        }
        self.end_all(&Err(error));
    }

    fn serve(&mut self) {
        loop {
            let mail = self.mailbox.collect();
            let closing = mail.closing;
            self.draining = mail.draining;
            let inspections = self.take_in(mail);
            if closing {
                self.end_all(&Ok(FinishReason::Cancelled));
                return;
            }
            let mut outcome = self.inspect(inspections);
            if outcome.is_ok() && self.is_drained() {
                return;
            }
            outcome = outcome.and_then(|()| self.turn());
            if let Err(Fatal(error)) = outcome {
                return self.fail(error);
            }
            self.publish();
        }
    }

    /// Whether there is nothing left to do, for good.
    fn is_drained(&self) -> bool {
        self.draining && self.waiting.is_empty() && self.aside.is_empty() && self.running.is_empty()
    }

    fn take_in(&mut self, mail: Mail) -> Vec<Inspection> {
        let arrived = mail.submissions.len() as u64;
        if arrived > 0 {
            self.meter.update(|metrics| metrics.requests += arrived);
        }
        self.waiting.extend(mail.submissions.into_iter().map(|s| (s.rank, s)));
        mail.inspections
    }

    /// One round: whoever must end ends, whoever fits is admitted, and one
    /// step runs, or the thread sleeps.
    fn turn(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        self.sweep(now);
        if let Some(company) = self.gathering(now) {
            let patience = self.patience(now).map_or(company, |patience| patience.min(company));
            self.publish();
            self.mailbox.wait(Some(patience));
            return Ok(());
        }
        self.admit()?;
        let mut candidates: Vec<_> =
            self.running.iter_mut().enumerate().map(|(slot, seq)| seq.candidate(slot)).collect();
        self.follow(&mut candidates);
        let shares = plan(&candidates, self.options.step_token_budget);
        if shares.is_empty() {
            self.publish();
            // The last one may have ended just now: then nobody would wake us.
            if !self.is_drained() {
                self.mailbox.wait(self.patience(Instant::now()));
            }
            return Ok(());
        }
        let shares = self.provide(shares)?;
        if shares.is_empty() { Ok(()) } else { self.step(&shares) }
    }

    /// Frees a slot and its blocks, then tells the reader.
    pub(crate) fn end_running(&mut self, slot: usize, ending: Ending) {
        let sequence = self.running.swap_remove(slot);
        self.end_sequence(sequence, ending);
    }

    /// Frees the blocks of a sequence that is in no slot any more, then tells
    /// the reader.
    pub(crate) fn end_sequence(&mut self, mut sequence: Sequence, ending: Ending) {
        let phase = sequence.phase();
        let table = sequence.take_table();
        // The bytes with which it ended are those with its own blocks.
        let active = self.active_bytes();
        match &ending {
            Ending::Error(_) => self.kv.discard(table),
            _ => self.kv.release(table, &sequence.ids[..sequence.computed]),
        }
        self.count_end(matches!(ending, Ending::Error(_)));
        let id = sequence.id;
        let name = ending.name();
        let end = AssertUnwindSafe(|| sequence.end(ending, active));
        let reason = catch_unwind(end).unwrap_or_else(|panic| {
            tracing::error!(message = panic_message(&*panic), "the end of a request panicked");
            None
        });
        self.exporter.finished(reason.as_ref().map_or(name, FinishReason::name));
        self.emit(Some(id), phase, ProbeEvent::Ended { reason });
    }

    pub(crate) fn end_waiting(&mut self, submission: Submission, outcome: Result<FinishReason>) {
        self.mailbox.leave_queue();
        self.count_end(outcome.is_err());
        let id = submission.id;
        let reason = outcome.as_ref().ok().cloned();
        self.exporter.finished(reason.as_ref().map_or("error", FinishReason::name));
        submission.end(outcome, self.active_bytes());
        self.emit(Some(id), Phase::Queued, ProbeEvent::Ended { reason });
    }

    pub(crate) fn end_aside(&mut self, sequence: Sequence, ending: Ending) {
        self.mailbox.leave_queue();
        self.end_sequence(sequence, ending);
    }

    fn end_all(&mut self, outcome: &Result<FinishReason>) {
        while let Some((_, submission)) = self.waiting.pop_first() {
            self.end_waiting(submission, outcome.clone());
        }
        let ending = match outcome {
            Ok(reason) => Ending::Reason(reason.clone()),
            Err(error) => Ending::Error(error.clone()),
        };
        while let Some((_, sequence)) = self.aside.pop_first() {
            self.end_aside(sequence, ending.clone());
        }
        for slot in (0..self.running.len()).rev() {
            self.end_running(slot, ending.clone());
        }
    }

    fn count_end(&self, failed: bool) {
        self.update_meter(|metrics| {
            metrics.finished += 1;
            metrics.failed += u64::from(failed);
        });
    }

    /// Answers looks at attention, between steps.
    fn inspect(&mut self, inspections: Vec<Inspection>) -> Result<(), Fatal> {
        let mut fatal = Ok(());
        for Inspection { ids, adapter, reply } in inspections {
            if let Err(Fatal(error)) = &fatal {
                let _ = reply.send(Err(error.clone()));
                continue;
            }
            let snapshot = catch_unwind(AssertUnwindSafe(|| {
                let id = adapter.as_ref().map(AdapterLease::id);
                self.runner.inspect_attention(&ids, id)
            }));
            drop(adapter);
            let snapshot = snapshot.unwrap_or_else(|panic| {
                let error = panic_error(&*panic);
                self.mailbox.refuse(&error);
                fatal = Err(Fatal(error.clone()));
                Err(error)
            });
            if let Ok(snapshot) = &snapshot {
                self.emit_attention(snapshot);
            }
            // A caller that went away needs no answer.
            let _ = reply.send(snapshot);
        }
        fatal
    }

    fn emit_attention(&self, snapshot: &inference_core::AttentionSnapshot) {
        if !self.wants(ProbeKind::Attention) {
            return;
        }
        for layer in &snapshot.layers {
            let (queries, keys) = (layer.queries.as_slice().into(), layer.keys.as_slice().into());
            let event = ProbeEvent::Attention { layer: layer.layer, queries, keys };
            self.emit(None, Phase::Prefill, event);
        }
    }

    pub(crate) fn active_bytes(&self) -> u64 {
        let memory = self.memory;
        memory.weights
            + memory.adapters
            + memory.activations
            + memory.kv_block * self.kv.used() as u64
    }

    pub(crate) fn update_meter(&self, change: impl FnOnce(&mut ModelMetrics)) {
        let active = self.active_bytes();
        self.meter.update(|metrics| {
            metrics.running = self.running.len();
            metrics.kv_blocks_used = self.kv.used();
            metrics.kv_blocks_total = self.kv.total();
            metrics.kv_bytes_total = self.kv.total() as u64 * self.memory.kv_block;
            metrics.active_bytes = active;
            metrics.peak_bytes = metrics.peak_bytes.max(active);
            change(metrics);
        });
    }

    /// Tells the recorder of the metrics what is new.
    fn publish(&mut self) {
        self.exporter.publish(totals(&self.meter, &self.mailbox));
    }

    pub(crate) fn report_memory(&mut self) {
        let active_bytes = self.active_bytes();
        if self.reported_bytes != active_bytes && self.wants(ProbeKind::MemoryPressure) {
            self.reported_bytes = active_bytes;
            let peak_bytes = self.meter.read().peak_bytes;
            let event = ProbeEvent::MemoryPressure { active_bytes, peak_bytes };
            self.emit(None, Phase::Idle, event);
        }
    }

    fn bus(&self) -> Option<&ProbeBus> {
        self.options.probe_bus.as_deref()
    }

    pub(crate) fn wants(&self, kind: ProbeKind) -> bool {
        self.bus().is_some_and(|bus| bus.wants(kind))
    }

    pub(crate) fn emit(&self, request: Option<RequestId>, phase: Phase, event: ProbeEvent) {
        if let Some(bus) = self.bus() {
            bus.emit(request, phase, event);
        }
    }
}

/// What callers are told.
pub(crate) fn totals(meter: &Meter, mailbox: &Mailbox) -> ModelMetrics {
    let mut metrics = meter.read();
    metrics.queued = mailbox.queued();
    metrics
}

/// What a panic of the runner is to requests.
pub(crate) fn panic_error(panic: &(dyn Any + Send)) -> Error {
    Error::engine_message(format!("the model runner panicked: {}", panic_message(panic)))
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
