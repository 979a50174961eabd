//! One step: the batch of a plan, its forward pass, and its logits handed out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use inference_core::probe::{Phase, ProbeEvent};
use inference_core::{Error, Result};

use crate::adapters::AdapterLease;
use crate::engine_thread::{Engine, Fatal, panic_error};
use crate::generation::output_panic;
use crate::meter::StepTally;
use crate::runner::{StepBatch, StepSequence};
use crate::scheduler::Share;
use crate::sequence::Ending;

impl Engine {
    /// Computes one batch and hands out its logits.
    pub(crate) fn step(&mut self, shares: &[Share]) -> Result<(), Fatal> {
        let mut batch = std::mem::take(&mut self.batch);
        self.fill(&mut batch, shares);
        let outcome = self.compute(&batch, shares);
        self.batch = batch;
        outcome
    }

    fn compute(&mut self, batch: &StepBatch, shares: &[Share]) -> Result<(), Fatal> {
        let began = Instant::now();
        let active = self.active_bytes();
        for share in shares {
            self.running[share.slot].note_step(began, active);
        }
        let span =
            tracing::trace_span!("forward", sequences = shares.len(), tokens = batch.tokens.len());
        let forward =
            span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.runner.forward(batch))));
        let duration = began.elapsed();
        self.exporter.step(duration, batch.tokens.len());
        self.memory = self.runner.memory();
        let prompt: usize =
            shares.iter().map(|share| self.running[share.slot].new_prompt_tokens(share.len)).sum();
        self.update_meter(|metrics| {
            metrics.forward_count += 1;
            metrics.step_tokens += batch.tokens.len() as u64;
            metrics.prompt_tokens += prompt as u64;
        });
        let event = ProbeEvent::Step {
            sequences: shares.len(),
            tokens: batch.tokens.len(),
            queued: self.waiting.len() + self.aside.len(),
            duration,
        };
        let phase = if prompt > 0 { Phase::Prefill } else { Phase::Decode };
        self.emit(None, phase, event);
        let error = match forward {
            Ok(Ok(logits)) => match self.check_logits(batch, &logits) {
                Ok(()) => {
                    let outcome = self.hand_out(shares, &logits);
                    self.report_memory();
                    return outcome;
                }
                Err(error) => error,
            },
            Ok(Err(error)) => error,
            Err(panic) => {
                self.runner_panicked = true;
                panic_error(&*panic)
            }
        };
        let survives = self.survives(&error);
        self.end_slots(shares.iter().map(|s| (s.slot, Ending::Error(error.clone()))).collect());
        if survives { Ok(()) } else { Err(Fatal(error)) }
    }

    /// Whether the engine can go on after a failure of the runner. If not, new
    /// requests are refused from now on: before anybody hears of the failure.
    pub(crate) fn survives(&self, error: &Error) -> bool {
        let asked = || catch_unwind(AssertUnwindSafe(|| self.runner.survives(error)));
        let survives = !self.runner_panicked && asked().unwrap_or(false);
        if !survives {
            self.mailbox.refuse(error);
        }
        survives
    }

    /// Makes `batch` that of a plan, for which every sequence has the blocks.
    /// What it held is overwritten in place: a step allocates nothing per
    /// sequence.
    fn fill(&self, batch: &mut StepBatch, shares: &[Share]) {
        let StepBatch { tokens, sequences, logit_rows } = batch;
        tokens.clear();
        logit_rows.clear();
        sequences.resize_with(shares.len(), || StepSequence {
            start: 0,
            len: 0,
            position: 0,
            prompt_len: 0,
            adapter: None,
            block_table: Vec::new(),
        });
        for (&share, entry) in shares.iter().zip(sequences) {
            let sequence = &self.running[share.slot];
            entry.start = tokens.len();
            entry.len = share.len + share.drafts;
            entry.position = sequence.computed;
            entry.prompt_len = sequence.prompt_len;
            entry.adapter = sequence.adapter.as_ref().map(AdapterLease::id);
            entry.block_table.clear();
            entry.block_table.extend_from_slice(sequence.table.blocks());
            tokens.extend(sequence.tokens(share));
            let rows = sequence.wanted_rows(share);
            logit_rows.extend(rows.map(|position| entry.start + position - sequence.computed));
        }
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

    fn hand_out(&mut self, shares: &[Share], logits: &[f32]) -> Result<(), Fatal> {
        let now = Instant::now();
        let mut rows = logits.chunks_exact(self.spec.vocab_size);
        let mut tally = StepTally::default();
        let mut ended = Vec::new();
        for &share in shares {
            let sequence = &mut self.running[share.slot];
            let wanted = sequence.wanted_rows(share).len();
            let bus = self.options.probe_bus.as_deref();
            // All of them, also where a sequence ends before its last row.
            let mut own = rows.by_ref().take(wanted);
            let take = || sequence.take_rows(share, own.by_ref(), now, bus, &mut tally);
            let ending = catch_unwind(AssertUnwindSafe(take))
                .unwrap_or_else(|panic| Some(Ending::Error(output_panic(&*panic))));
            own.for_each(drop);
            if !matches!(ending, Some(Ending::Error(_))) {
                self.kv.keep(&mut sequence.table, &sequence.ids[..sequence.computed]);
            }
            ended.extend(ending.map(|ending| (share.slot, ending)));
        }
        self.meter.update(|metrics| tally.add_to(metrics));
        self.exporter.tokens(&tally);
        for share in shares {
            self.running[share.slot].wake_reader();
        }
        let outcome = self.collect_kv(&mut ended);
        self.end_slots(ended);
        outcome
    }

    fn end_slots(&mut self, mut ended: Vec<(usize, Ending)>) {
        // From the back, so that the slots in front keep their numbers.
        ended.sort_by_key(|(slot, _)| std::cmp::Reverse(*slot));
        for (slot, ending) in ended {
            self.end_running(slot, ending);
        }
    }
}
