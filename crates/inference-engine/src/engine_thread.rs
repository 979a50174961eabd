//! The loop that owns the runner.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeBus, ProbeEvent, ProbeKind, RequestId};
use inference_core::{Error, FinishReason, ModelMetrics, Result};
use inference_text::Tokenizer;

use crate::block_pool::BlockPool;
use crate::mailbox::{Inspection, Mail, Mailbox};
use crate::meter::Meter;
use crate::options::EngineOptions;
use crate::runner::{ModelRunner, RunnerSpec, StepBatch, StepSequence};
use crate::scheduler::{Rank, Share, plan};
use crate::sequence::{Ending, Sequence};
use crate::submission::Submission;

/// How often an engine without other work looks at cancel tokens, which are
/// plain flags that cannot wake it.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(10);

/// The engine thread's state.
pub(crate) struct Engine {
    runner: Box<dyn ModelRunner>,
    spec: RunnerSpec,
    options: EngineOptions,
    tokenizer: Option<Arc<Tokenizer>>,
    mailbox: Arc<Mailbox>,
    meter: Arc<Meter>,
    waiting: BTreeMap<Rank, Submission>,
    running: Vec<Sequence>,
    pool: BlockPool,
    /// Whether the first waiting request lacks blocks.
    short_of_blocks: bool,
    /// The bytes that were last reported.
    reported_bytes: u64,
}

/// A failure after which the runner must not be used.
struct Fatal(Error);

impl Engine {
    pub(crate) fn new(
        runner: Box<dyn ModelRunner>,
        options: EngineOptions,
        tokenizer: Option<Arc<Tokenizer>>,
        mailbox: Arc<Mailbox>,
        meter: Arc<Meter>,
    ) -> Self {
        let spec = runner.spec().clone();
        let pool = BlockPool::new(spec.num_blocks);
        let engine = Self {
            runner,
            spec,
            options,
            tokenizer,
            mailbox,
            meter,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            pool,
            short_of_blocks: false,
            reported_bytes: 0,
        };
        engine.update_meter(|_| ());
        engine
    }

    /// Runs until the model is closed or the runner fails for good.
    pub(crate) fn run(mut self) {
        let (mailbox, meter) = (Arc::clone(&self.mailbox), Arc::clone(&self.meter));
        // The sequences are inside: unwinding drops them, which ends their
        // streams with an error.
        let outcome = catch_unwind(AssertUnwindSafe(move || self.serve()));
        if let Err(panic) = outcome {
            let message = format!("the engine thread panicked: {}", panic_message(&*panic));
            let error = Error::engine_message(message);
            let mail = mailbox.fail(&error);
            mail.submissions.into_iter().for_each(|s| s.end(Err(error.clone()), 0));
        }
        // The runner is gone, and its memory with it.
        meter.update(|metrics| {
            metrics.running = 0;
            metrics.kv_blocks_used = 0;
            metrics.active_bytes = 0;
        });
    }

    fn serve(&mut self) {
        loop {
            let mail = self.mailbox.collect();
            let (closing, draining) = (mail.closing, mail.draining);
            let inspections = self.take_in(mail);
            if closing {
                self.end_all(&Ok(FinishReason::Cancelled));
                return;
            }
            let mut outcome = self.inspect(inspections);
            if outcome.is_ok() && draining && self.waiting.is_empty() && self.running.is_empty() {
                return;
            }
            outcome = outcome.and_then(|()| self.turn());
            if let Err(Fatal(error)) = outcome {
                tracing::error!(%error, "the engine stops");
                let mail = self.mailbox.fail(&error);
                for inspection in self.take_in(mail) {
                    let _ = inspection.reply.send(Err(error.clone()));
                }
                self.end_all(&Err(error));
                return;
            }
        }
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
        self.sweep(Instant::now());
        self.admit();
        let candidates: Vec<_> =
            self.running.iter().enumerate().map(|(slot, seq)| seq.candidate(slot)).collect();
        let shares = plan(&candidates, self.options.step_token_budget);
        if shares.is_empty() {
            self.mailbox.wait(self.patience(Instant::now()));
            return Ok(());
        }
        self.step(&shares)
    }

    /// Ends what was cancelled, is late or lags.
    fn sweep(&mut self, now: Instant) {
        let overdue: Vec<(Rank, FinishReason)> = self
            .waiting
            .iter()
            .filter_map(|(rank, submission)| Some((*rank, submission.overdue(now)?)))
            .collect();
        for (rank, reason) in overdue {
            if let Some(submission) = self.waiting.remove(&rank) {
                self.end_waiting(submission, Ok(reason));
            }
        }
        let lag = self.options.lag_timeout;
        for slot in (0..self.running.len()).rev() {
            if let Some(reason) = self.running[slot].check(now, lag) {
                self.end_running(slot, Ending::Reason(reason));
            }
        }
    }

    /// Moves waiting requests into free slots, in the order of their rank.
    /// One that lacks blocks is not overtaken, so that it cannot starve.
    fn admit(&mut self) {
        while self.running.len() < self.options.max_batch
            && let Some(first) = self.waiting.first_entry()
        {
            let blocks = first.get().positions.div_ceil(self.spec.block_size);
            let Some(table) = self.pool.reserve(blocks) else {
                if !std::mem::replace(&mut self.short_of_blocks, true) {
                    let (used, total) = (self.pool.used(), self.pool.total());
                    let waiting = self.waiting.len();
                    let event = ProbeEvent::CachePressure { used, total, waiting };
                    self.emit(None, Phase::Queued, event);
                }
                return;
            };
            let submission = first.remove();
            let prompt_tokens = submission.ids.len();
            let event = ProbeEvent::Admitted { prompt_tokens, cached_tokens: 0 };
            self.emit(Some(submission.id), Phase::Queued, event);
            self.running.push(Sequence::admit(submission, table, self.tokenizer.clone()));
            self.mailbox.leave_queue();
        }
        self.short_of_blocks = false;
    }

    /// How long there is nothing to do; `None` until somebody wakes the
    /// engine.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let lag = self.options.lag_timeout;
        let waiting = self.waiting.values().map(|s| (s.deadline, s.cancel.is_some()));
        let running = self.running.iter().map(|sequence| sequence.next_check(lag));
        waiting
            .chain(running)
            .flat_map(|(at, polled)| {
                let until = at.map(|at| at.saturating_duration_since(now));
                [until, polled.then_some(CANCEL_POLL)]
            })
            .flatten()
            .min()
    }

    /// Computes one batch and hands out its logits.
    fn step(&mut self, shares: &[Share]) -> Result<(), Fatal> {
        let began = Instant::now();
        let batch = self.batch(shares);
        let active = self.active_bytes();
        for share in shares {
            self.running[share.slot].note_step(began, active);
        }
        let span =
            tracing::trace_span!("forward", sequences = shares.len(), tokens = batch.tokens.len());
        let forward =
            span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.runner.forward(&batch))));
        let duration = began.elapsed();
        let prompt: usize = shares
            .iter()
            .map(|share| {
                let sequence = &self.running[share.slot];
                share.len.min(sequence.prompt_len.saturating_sub(sequence.computed))
            })
            .sum();
        self.update_meter(|metrics| {
            metrics.forward_count += 1;
            metrics.prompt_tokens += prompt as u64;
        });
        let event = ProbeEvent::Step {
            sequences: shares.len(),
            tokens: batch.tokens.len(),
            queued: self.waiting.len(),
            duration,
        };
        let phase = if prompt > 0 { Phase::Prefill } else { Phase::Decode };
        self.emit(None, phase, event);
        let (error, fatal) = match forward {
            Ok(Ok(logits)) => match self.check_logits(&batch, &logits) {
                Ok(()) => {
                    self.hand_out(shares, &logits);
                    self.report_memory();
                    return Ok(());
                }
                Err(error) => (error, false),
            },
            Ok(Err(error)) => (error, false),
            Err(panic) => {
                let message = format!("the model runner panicked: {}", panic_message(&*panic));
                (Error::engine_message(message), true)
            }
        };
        self.end_slots(shares.iter().map(|s| (s.slot, Ending::Error(error.clone()))).collect());
        // Nobody knows what a panic left behind.
        if fatal || !self.survives(&error) { Err(Fatal(error)) } else { Ok(()) }
    }

    fn survives(&self, error: &Error) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.runner.survives(error))).unwrap_or(false)
    }

    /// The batch of a plan; takes the blocks it needs.
    fn batch(&mut self, shares: &[Share]) -> StepBatch {
        let mut batch = StepBatch::default();
        for share in shares {
            let sequence = &mut self.running[share.slot];
            let start = batch.tokens.len();
            let end = sequence.computed + share.len;
            let grown = self.pool.grow(&mut sequence.table, end.div_ceil(self.spec.block_size));
            debug_assert!(grown, "a sequence outgrew its reservation");
            batch.tokens.extend_from_slice(&sequence.ids[sequence.computed..end]);
            let rows = sequence.wanted_rows(share.len);
            batch.logit_rows.extend(rows.map(|position| start + position - sequence.computed));
            batch.sequences.push(StepSequence {
                start,
                len: share.len,
                position: sequence.computed,
                prompt_len: sequence.prompt_len,
                block_table: sequence.table.blocks().to_vec(),
            });
        }
        batch
    }

    fn check_logits(&self, batch: &StepBatch, logits: &[f32]) -> Result<()> {
        let expected = batch.logit_rows.len() * self.spec.vocab_size;
        if logits.len() == expected {
            return Ok(());
        }
        let rows = batch.logit_rows.len();
        Err(Error::engine_message(format!(
            "the model runner returned {} logits, expected {rows} rows of {}",
            logits.len(),
            self.spec.vocab_size
        )))
    }

    fn hand_out(&mut self, shares: &[Share], logits: &[f32]) {
        let now = Instant::now();
        let mut rows = logits.chunks_exact(self.spec.vocab_size);
        let mut generated = 0;
        let mut ended = Vec::new();
        for share in shares {
            let sequence = &mut self.running[share.slot];
            let wanted = sequence.wanted_rows(share.len).len();
            generated += sequence.generates(wanted);
            let bus = self.options.probe_bus.as_deref();
            let ending = sequence.take_rows(share.len, rows.by_ref().take(wanted), now, bus);
            ended.extend(ending.map(|ending| (share.slot, ending)));
        }
        self.meter.update(|metrics| metrics.generated_tokens += generated);
        self.end_slots(ended);
    }

    fn end_slots(&mut self, mut ended: Vec<(usize, Ending)>) {
        // From the back, so that the slots in front keep their numbers.
        ended.sort_by_key(|(slot, _)| std::cmp::Reverse(*slot));
        for (slot, ending) in ended {
            self.end_running(slot, ending);
        }
    }

    /// Frees a slot and its blocks, then tells the reader.
    fn end_running(&mut self, slot: usize, ending: Ending) {
        let active = self.active_bytes();
        let mut sequence = self.running.swap_remove(slot);
        let phase = sequence.phase();
        self.pool.release(sequence.take_table());
        self.count_end(matches!(ending, Ending::Error(_)));
        let id = sequence.id;
        let reason = sequence.end(ending, active);
        self.emit(Some(id), phase, ProbeEvent::Ended { reason });
    }

    fn end_waiting(&mut self, submission: Submission, outcome: Result<FinishReason>) {
        self.mailbox.leave_queue();
        self.count_end(outcome.is_err());
        let id = submission.id;
        let reason = outcome.as_ref().ok().cloned();
        submission.end(outcome, self.active_bytes());
        self.emit(Some(id), Phase::Queued, ProbeEvent::Ended { reason });
    }

    fn end_all(&mut self, outcome: &Result<FinishReason>) {
        while let Some((_, submission)) = self.waiting.pop_first() {
            self.end_waiting(submission, outcome.clone());
        }
        let ending = match outcome {
            Ok(reason) => Ending::Reason(reason.clone()),
            Err(error) => Ending::Error(error.clone()),
        };
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
        for Inspection { ids, reply } in inspections {
            if let Err(Fatal(error)) = &fatal {
                let _ = reply.send(Err(error.clone()));
                continue;
            }
            let snapshot = catch_unwind(AssertUnwindSafe(|| self.runner.inspect_attention(&ids)));
            let snapshot = snapshot.unwrap_or_else(|panic| {
                let message = format!("the model runner panicked: {}", panic_message(&*panic));
                let error = Error::engine_message(message);
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

    fn active_bytes(&self) -> u64 {
        let memory = self.runner.memory();
        memory.weights + memory.activations + memory.kv_block * self.pool.used() as u64
    }

    fn update_meter(&self, change: impl FnOnce(&mut ModelMetrics)) {
        let active = self.active_bytes();
        self.meter.update(|metrics| {
            metrics.running = self.running.len();
            metrics.kv_blocks_used = self.pool.used();
            metrics.kv_blocks_total = self.pool.total();
            metrics.active_bytes = active;
            metrics.peak_bytes = metrics.peak_bytes.max(active);
            change(metrics);
        });
    }

    fn report_memory(&mut self) {
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

    fn wants(&self, kind: ProbeKind) -> bool {
        self.bus().is_some_and(|bus| bus.wants(kind))
    }

    fn emit(&self, request: Option<RequestId>, phase: Phase, event: ProbeEvent) {
        if let Some(bus) = self.bus() {
            bus.emit(request, phase, event);
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
