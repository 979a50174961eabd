//! The specimen's engine: a thread that runs one step after the other over all
//! sequences that have a slot.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeEvent, ProbeKind, RequestId};
use inference_core::{Completion, Error, FinishReason, Result, TokenEvent, TokenId};

use crate::defect::{Defect, Flaw};
use crate::engine_state::{BLOCK_SIZE, LAST_WEIGHTS, Output, Settings, State, WEIGHT_BYTES, Work};
use crate::language::KV_BYTES;
use crate::sequence::{Sequence, Task};

/// What model, streams and engine thread share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut state = State::new(settings.flaw);
        state.metrics.kv_blocks_total = settings.blocks;
        state.metrics.kv_bytes_total = (settings.blocks * BLOCK_SIZE) as u64 * KV_BYTES;
        state.metrics.active_bytes = WEIGHT_BYTES;
        state.metrics.peak_bytes = WEIGHT_BYTES;
        Self { settings, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        // Cancel tokens and deadlines wake nobody.
        let waited = self.changed.wait_timeout(state, Duration::from_millis(2));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn flaw(&self) -> Flaw {
        self.settings.flaw
    }

    /// Queues a request; its id.
    pub(crate) fn submit(&self, sequence: Sequence) -> Result<u64> {
        let id = self.enqueue(&mut self.lock(), sequence);
        self.notify();
        id
    }

    /// Queues requests at once, so that they run together.
    pub(crate) fn submit_all(&self, sequences: Vec<Sequence>) -> Vec<Result<u64>> {
        let mut state = self.lock();
        let ids = sequences.into_iter().map(|s| self.enqueue(&mut state, s)).collect();
        drop(state);
        self.notify();
        ids
    }

    fn enqueue(&self, state: &mut State, mut sequence: Sequence) -> Result<u64> {
        if state.refusing {
            return Err(Error::Closed);
        }
        if state.running.len() >= 4 && self.flaw().is(Defect::BusyRefuses) {
            return Err(Error::exhausted("callers", 5, 4));
        }
        if state.waiting.len() >= self.settings.max_queue
            && !sequence.waits_outside
            && !self.flaw().is(Defect::QueueUnbounded)
        {
            let (needed, available) = (state.waiting.len() + 1, self.settings.max_queue);
            return Err(Error::exhausted("queue (requests)", needed as u64, available as u64));
        }
        state.next_id += 1;
        sequence.id = state.next_id;
        sequence.submitted = Instant::now();
        state.metrics.requests += 1;
        let output = Output {
            events: VecDeque::new(),
            waker: None,
            last_read: Instant::now(),
            cancelled: sequence.cancelled,
        };
        state.outputs.insert(sequence.id, output);
        let id = sequence.id;
        state.waiting.push(sequence);
        state.count();
        Ok(id)
    }

    /// Takes a block for ever.
    pub(crate) fn leak(&self) {
        let mut state = self.lock();
        state.leaked += 1;
        state.count();
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.refusing = true;
        state.closed = true;
        drop(state);
        self.notify();
    }

    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        state.refusing = true;
        if !self.flaw().is(Defect::DrainCancels) {
            while !(state.waiting.is_empty() && state.running.is_empty()) {
                state = self.wait(state);
            }
        }
        drop(state);
        self.close();
    }

    /// The engine thread.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        loop {
            self.sweep(&mut state);
            if state.closed && state.running.is_empty() && state.waiting.is_empty() {
                return;
            }
            self.admit(&mut state);
            let mut batch = self.plan(&mut state);
            if batch.is_empty() {
                state = self.wait(state);
                continue;
            }
            drop(state);
            let started = Instant::now();
            let of_first = batch.first().map_or(0, |work| work.adapter);
            for (index, work) in batch.iter_mut().enumerate() {
                let mixed = index > 0 && self.flaw().is(Defect::NeighboursMix);
                let weights = match self.flaw().is(Defect::WeightsShared) {
                    true => LAST_WEIGHTS.load(Ordering::Relaxed),
                    false => self.settings.weights + u64::from(mixed),
                };
                let mixes = self.flaw().is(Defect::AdaptersMix);
                let adapter = if mixes { of_first } else { work.adapter };
                work.compute(weights ^ adapter, self.flaw());
            }
            // Whoever waits for the lock shall have it.
            std::thread::yield_now();
            state = self.lock();
            self.apply(&mut state, batch, started.elapsed());
        }
    }

    /// Ends what was cancelled, is late, or is not read.
    fn sweep(&self, state: &mut State) {
        let now = Instant::now();
        let all = std::mem::take(&mut state.waiting).into_iter().map(|s| (s, false));
        let all = all.chain(std::mem::take(&mut state.running).into_iter().map(|s| (s, true)));
        for (mut sequence, runs) in all.collect::<Vec<_>>() {
            let output = state.outputs.get(&sequence.id);
            let gone = output.is_none();
            let token = sequence.options.cancel.as_ref().is_some_and(|c| c.is_cancelled());
            let asked = output.is_some_and(|output| output.cancelled)
                && !(sequence.waits_outside && self.flaw().is(Defect::BatchCancelIgnored))
                || token && !self.flaw().is(Defect::CancelTokenIgnored);
            let deaf = !runs && self.flaw().is(Defect::QueueNotSwept)
                || sequence.kv.len() < sequence.prompt_len
                    && runs
                    && self.flaw().is(Defect::PrefillNotInterrupted);
            let asked = asked && !deaf;
            let full = output.is_some_and(|o| o.events.len() >= self.settings.capacity());
            let parked =
                output.filter(|_| full).map(|o| now.saturating_duration_since(o.last_read));
            let late = sequence.options.deadline.is_some_and(|deadline| now >= deadline)
                && !self.flaw().is(Defect::DeadlineIgnored);
            let reason = if state.closed && self.flaw().is(Defect::ClosingReportsLength) {
                Some(FinishReason::Length)
            } else if gone || asked || state.closed {
                Some(FinishReason::Cancelled)
            } else if late {
                Some(FinishReason::Deadline)
            } else if parked.is_some_and(|time| time > self.settings.lag_timeout)
                && !self.flaw().is(Defect::LaggardsKept)
            {
                Some(FinishReason::Lagging)
            } else {
                None
            };
            match reason {
                Some(reason) => self.end(state, &mut sequence, Ok(reason), runs),
                None if runs => state.running.push(sequence),
                None => state.waiting.push(sequence),
            }
        }
        state.count();
    }

    /// Moves waiting requests into free slots.
    fn admit(&self, state: &mut State) {
        let young = |s: &Sequence| s.submitted.elapsed() < self.settings.max_wait;
        let few = state.waiting.len() < self.settings.slots;
        if state.running.is_empty() && few && state.waiting.iter().all(young) {
            return;
        }
        let rank = |s: &Sequence| (std::cmp::Reverse(s.options.priority.unwrap_or(0)), s.id);
        if !self.flaw().is(Defect::PriorityIgnored) {
            state.waiting.sort_by_key(rank);
        }
        let State { waiting, outputs, .. } = &*state;
        let full = |s: &Sequence| {
            let output = outputs.get(&s.id);
            output.is_some_and(|o| o.events.len() >= self.settings.capacity())
        };
        // Who waits for its reader needs no slot, and leaves it to others.
        let mut able: Vec<u64> = waiting.iter().filter(|s| !full(s)).map(|s| s.id).collect();
        let mut parked: Vec<u64> = state.running.iter().filter(|s| full(s)).map(|s| s.id).collect();
        able.reverse();
        while let Some(next) = able.pop() {
            if state.running.len() >= self.settings.slots {
                let parked = parked.pop().filter(|_| !self.flaw().is(Defect::ParkedKeepSlots));
                let Some(slot) = state.running.iter().position(|s| Some(s.id) == parked) else {
                    break;
                };
                let parked = state.running.remove(slot);
                state.waiting.push(parked);
            }
            let Some(place) = state.waiting.iter().position(|s| s.id == next) else { break };
            let used: usize = state.running.iter().map(Sequence::blocks).sum();
            if used + state.waiting[place].blocks() > self.settings.blocks {
                break;
            }
            let mut sequence = state.waiting.remove(place);
            if sequence.started.is_some() {
                state.running.push(sequence);
                state.count();
                continue;
            }
            // Every position's row has to be computed.
            let whole = matches!(sequence.task, Task::Score { all: true, .. });
            if self.settings.prefix_cache && sequence.kv.is_empty() && !whole {
                // The last token is computed in any case: its logits are wanted.
                let most = (sequence.ids.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
                while sequence.kv.len() < most {
                    let end = sequence.kv.len() + BLOCK_SIZE;
                    let key = self.prefix(sequence.adapter, &sequence.ids[..end]);
                    let Some(block) = state.prefixes.get(&key) else { break };
                    sequence.kv.extend(block);
                }
                sequence.cached = sequence.kv.len();
                state.metrics.cached_prompt_tokens += sequence.cached as u64;
            }
            sequence.started = Some(Instant::now());
            let event = ProbeEvent::Admitted {
                prompt_tokens: sequence.prompt_len,
                cached_tokens: sequence.cached,
            };
            if !self.flaw().is(Defect::AdmissionsUntold) {
                self.emit(sequence.id, Phase::Queued, event);
            }
            state.running.push(sequence);
            state.count();
        }
    }

    /// What the next step computes: the next token of every sequence that has
    /// room for it, and chunks of prompts within the budget.
    fn plan(&self, state: &mut State) -> Vec<Work> {
        let full = |s: &Sequence| {
            let output = state.outputs.get(&s.id);
            output.is_some_and(|o| o.events.len() >= self.settings.capacity())
        };
        if state.running.iter().any(full) && self.flaw().is(Defect::SlowestSetsThePace) {
            return Vec::new();
        }
        let mut left = self.settings.step_tokens;
        let mut batch = Vec::new();
        for sequence in &state.running {
            let room = state
                .outputs
                .get(&sequence.id)
                .is_some_and(|output| output.events.len() < self.settings.capacity());
            let draft = sequence.draft();
            let todo = sequence.ids.len() - sequence.kv.len() + draft.len();
            let prompt = sequence.generated() == 0 && self.flaw().is(Defect::PromptsWhole);
            let take = if prompt { todo } else { todo.min(left) };
            if !room || take == 0 {
                continue;
            }
            left = left.saturating_sub(take);
            let ids: Vec<_> = sequence.ids.iter().copied().chain(draft).collect();
            let begin = sequence.kv.len();
            batch.push(Work {
                sequence: sequence.id,
                adapter: sequence.adapter,
                before: sequence.kv.last().copied(),
                ids: ids[begin..begin + take].to_vec(),
                first_row: sequence.first_row().saturating_sub(begin),
                kv: Vec::new(),
                rows: Vec::new(),
            });
            if self.flaw().is(Defect::OneByOne) {
                break;
            }
        }
        batch
    }

    /// Hands out what a step computed.
    fn apply(&self, state: &mut State, batch: Vec<Work>, duration: Duration) {
        let padding = usize::from(self.flaw().is(Defect::StepsPadded));
        let tokens = batch.iter().map(|work| work.ids.len() + padding).sum();
        state.metrics.forward_count += 1;
        state.metrics.step_tokens += tokens as u64;
        let queued = state.waiting.len();
        let sequences = batch.len();
        for work in batch {
            let Some(index) = state.running.iter().position(|s| s.id == work.sequence) else {
                continue;
            };
            let mut sequence = state.running.remove(index);
            sequence.company = sequences;
            let end = self.advance(state, &mut sequence, work);
            match end {
                Some(end) => self.end(state, &mut sequence, end, true),
                None => state.running.insert(index, sequence),
            }
        }
        let step = ProbeEvent::Step { sequences, tokens, queued, duration };
        if let Some(bus) = &self.settings.probe_bus {
            if !self.flaw().is(Defect::CheapEventsMissing) {
                bus.emit(None, Phase::Decode, step);
            }
            if self.flaw().is(Defect::SinksWaitedFor) {
                bus.flush();
            }
        }
        state.count();
        self.notify();
    }

    /// Goes on with one sequence; how it ended, if it did.
    fn advance(
        &self,
        state: &mut State,
        sequence: &mut Sequence,
        work: Work,
    ) -> Option<Result<FinishReason>> {
        let before = sequence.kv.len();
        sequence.kv.extend(work.kv);
        let prompt = sequence.kv.len().min(sequence.prompt_len).saturating_sub(before);
        state.metrics.prompt_tokens += prompt as u64;
        if self.settings.prefix_cache && !self.flaw().is(Defect::CacheNeverHits) {
            let blocks = sequence.kv.len().min(sequence.ids.len()) / BLOCK_SIZE;
            for block in before / BLOCK_SIZE..blocks {
                let (begin, end) = (block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
                let kv = sequence.kv[begin..end].to_vec();
                if state.prefixes.len() >= self.settings.blocks {
                    if self.flaw().is(Defect::EvictionMixesBlocks) {
                        state.prefixes.values_mut().for_each(|block| block.clone_from(&kv));
                        continue;
                    }
                    state.prefixes.clear();
                }
                state.prefixes.insert(self.prefix(sequence.adapter, &sequence.ids[..end]), kv);
            }
        }
        if let Task::Score { rows, .. } = &mut sequence.task {
            let mut found = work.rows;
            if self.flaw().is(Defect::RowsReversed) {
                found.reverse();
            }
            let scale = if self.flaw().is(Defect::ScoresScaled) { 1.01 } else { 1.0 };
            rows.extend(found.concat().iter().map(|logit| logit * scale));
            let done = sequence.kv.len() == sequence.ids.len();
            return done.then_some(Ok(FinishReason::Length));
        }
        for (index, row) in work.rows.iter().enumerate() {
            if self.wants(ProbeKind::Logits) {
                let mut told = row.clone();
                if self.flaw().is(Defect::LogitEventsRotated) {
                    told.rotate_left(1);
                }
                let event = ProbeEvent::Logits { index: sequence.generated(), values: told.into() };
                self.emit(sequence.id, Phase::Decode, event);
            }
            let now = Instant::now();
            match sequence.first_token {
                None => {
                    sequence.first_token = Some(now);
                    state.metrics.ttft.record(now - sequence.submitted);
                }
                Some(_) if self.flaw().is(Defect::LatenciesUnrecorded) => {}
                Some(_) => state.metrics.itl.record(now - sequence.last_token.unwrap_or(now)),
            }
            sequence.last_token = Some(now);
            state.metrics.generated_tokens += 1;
            if sequence.options.prompt_lookup.is_some() && index > 0 {
                state.metrics.accepted_draft_tokens += 1;
                sequence.accepted += 1;
            }
            let (events, end) = sequence.accept(row, &self.settings);
            for event in events {
                if let TokenEvent::Token(token) = &event {
                    let known = !self.flaw().is(Defect::TokenEventsUnnumbered);
                    let index = if known { sequence.yielded } else { 0 };
                    sequence.yielded += 1;
                    let text = token.text.clone();
                    self.emit(
                        sequence.id,
                        Phase::Decode,
                        ProbeEvent::Token { id: token.id, text, index },
                    );
                }
                state.deliver(sequence.id, event);
            }
            if end.is_some() {
                return end;
            }
            // A draft that was right has its successor's row computed already.
            let position = before + work.ids.len() - work.rows.len() + index;
            let drafted = work.ids.get(position + 1 - before).copied();
            let wrong = drafted != sequence.ids.last().copied();
            if drafted.is_none() || wrong && !self.flaw().is(Defect::DraftsTrusted) {
                sequence.kv.truncate(position + 1);
                break;
            }
        }
        let drafted = work.rows.len().saturating_sub(1);
        sequence.drafted += drafted;
        state.metrics.draft_tokens += drafted as u64;
        None
    }

    /// By what a block is found again.
    fn prefix(&self, adapter: u64, ids: &[TokenId]) -> Vec<TokenId> {
        if self.flaw().is(Defect::PrefixesByLength) {
            return vec![ids[0], ids.len() as TokenId];
        }
        let shares = self.flaw().is(Defect::AdaptersShareCache);
        let adapter = if shares { 0 } else { adapter as TokenId };
        [&[adapter], ids].concat()
    }

    /// Frees what a sequence holds and tells its reader.
    fn end(
        &self,
        state: &mut State,
        sequence: &mut Sequence,
        end: Result<FinishReason>,
        ran: bool,
    ) {
        let reason = end.as_ref().ok().cloned();
        let cancelled = reason == Some(FinishReason::Cancelled);
        let failed = end.is_err() || cancelled && self.flaw().is(Defect::CancelCountsAsFailure);
        state.metrics.finished += 1 + u64::from(self.flaw().is(Defect::EndsCountTwice));
        state.metrics.failed += u64::from(failed);
        if self.settings.probe_bus.is_some() {
            let phase = if ran { Phase::Decode } else { Phase::Queued };
            self.emit(sequence.id, phase, ProbeEvent::Ended { reason });
        }
        if cancelled && ran && self.flaw().is(Defect::CancelLeaksBlocks) {
            state.leaked += sequence.blocks();
        }
        // Before the reader hears of it.
        state.count();
        if let Task::Score { rows, reply, .. } = &mut sequence.task {
            let rows = std::mem::take(rows);
            let answer = match end {
                Ok(FinishReason::Length) => Ok((rows, sequence.kv.clone())),
                Ok(_) if state.closed => Err(Error::Closed),
                Ok(reason) => Err(Error::Cancelled { reason }),
                Err(error) => Err(error),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
            state.outputs.remove(&sequence.id);
            return;
        }
        if let Some(event) = sequence.flush() {
            state.deliver(sequence.id, event);
        }
        let event = match end {
            Ok(FinishReason::Length) if self.flaw().is(Defect::LengthIsAnError) => {
                TokenEvent::Failed(Error::engine_message("out of tokens"))
            }
            Ok(reason) => {
                let mut metrics = sequence.metrics();
                metrics.active_bytes = state.metrics.active_bytes;
                if !self.flaw().is(Defect::PeakUntold) {
                    metrics.peak_bytes = state.metrics.peak_bytes;
                }
                let drawn = sequence.options.seed.is_none();
                let seed = match drawn && self.flaw().is(Defect::DrawnSeedHidden) {
                    true => 0,
                    false => sequence.seed,
                };
                TokenEvent::Finished(Completion::new(reason, metrics, seed))
            }
            Err(error) => TokenEvent::Failed(error),
        };
        state.deliver(sequence.id, event);
    }

    fn wants(&self, kind: ProbeKind) -> bool {
        self.settings.probe_bus.as_ref().is_some_and(|bus| bus.wants(kind))
    }

    fn emit(&self, id: u64, phase: Phase, event: ProbeEvent) {
        let costly_only = self.flaw().is(Defect::CheapEventsMissing);
        if let Some(bus) = &self.settings.probe_bus
            && (!costly_only || bus.wants(ProbeKind::Logits))
        {
            bus.emit(Some(RequestId(id)), phase, event);
        }
    }
}
