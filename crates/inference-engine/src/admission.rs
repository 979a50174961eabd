//! Who enters a slot, and who leaves before the next step.

use std::time::{Duration, Instant};

use inference_core::probe::{Phase, ProbeEvent};
use inference_core::{Error, FinishReason, Result, TokenId};

use crate::adapters::AdapterLease;
use crate::engine_thread::{CANCEL_POLL, Engine, Fatal};
use crate::kv_memory::BlockTable;
use crate::prefix_cache::{Prefix, Scope};
use crate::runner::KvBlocks;
use crate::scheduler::{Rank, gathering};
use crate::sequence::{Ending, Sequence};
use crate::submission::KvBytes;

/// What is there for a request that is to enter a slot.
struct Room {
    scope: Scope,
    /// What the cache has.
    prefix: Prefix,
    /// Up to which position blocks are taken at once.
    end: usize,
}

impl Engine {
    /// Ends what was cancelled, is late or lags.
    pub(crate) fn sweep(&mut self, now: Instant) {
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
        let overdue: Vec<(Rank, FinishReason)> = self
            .aside
            .iter_mut()
            .filter_map(|(rank, sequence)| Some((*rank, sequence.check(now, lag)?)))
            .collect();
        for (rank, reason) in overdue {
            if let Some(sequence) = self.aside.remove(&rank) {
                self.end_aside(sequence, Ending::Reason(reason));
            }
        }
        for slot in (0..self.running.len()).rev() {
            if let Some(reason) = self.running[slot].check(now, lag) {
                self.end_running(slot, Ending::Reason(reason));
            }
        }
    }

    /// How long to wait for more requests before any runs.
    pub(crate) fn gathering(&self, now: Instant) -> Option<Duration> {
        let busy = !self.running.is_empty() || !self.aside.is_empty();
        if self.options.max_wait.is_zero() || busy || self.draining {
            return None;
        }
        let first = self.waiting.values().map(|submission| submission.submitted).min();
        let full = self.options.max_batch.min(self.options.max_queue);
        gathering(now, first, self.waiting.len(), full, self.options.max_wait)
    }

    /// Moves waiting requests, and sequences that had to leave their slots, into
    /// slots, in the order of their rank. One that lacks blocks is not
    /// overtaken, so that it cannot starve.
    ///
    /// A request is admitted when there are blocks for its first chunk, which
    /// it takes, and one more for each sequence that runs and has not all that
    /// the context can need, so that those can go on for a block at least
    /// before anyone is preempted. Its later chunks
    /// must find their blocks then: to ask for them now would leave blocks
    /// unused for as long as the prompt is computed. A preempted sequence,
    /// whose first steps only repeat what was done, must find, and takes,
    /// blocks for all of its tokens. One that kept its blocks needs no more.
    ///
    /// Whose slot and blocks can be had, see [`slots`](crate::slots).
    pub(crate) fn admit(&mut self) -> Result<(), Fatal> {
        while let Some((rank, again)) = self.first_waiting() {
            let full = self.running.len() >= self.options.max_batch;
            let displaced = if full { self.displaced_by(rank) } else { None };
            if full && displaced.is_none() {
                break;
            }
            if again && self.has_blocks_aside(rank) {
                displaced.into_iter().for_each(|slot| self.set_aside(slot));
                self.resume(rank);
                continue;
            }
            match self.room_for(rank, again, displaced) {
                Ok(room) => {
                    displaced.into_iter().for_each(|slot| self.set_aside(slot));
                    self.enter(rank, again, room)?;
                }
                Err(lacking) => {
                    if !self.make_room(rank, lacking, !again) {
                        self.note_pressure();
                        return Ok(());
                    }
                }
            }
        }
        self.short_of_blocks = false;
        self.seat_parked();
        Ok(())
    }

    /// Whose turn it is, and whether it had a slot before. Who waits for the
    /// reader anyway needs none.
    fn first_waiting(&self) -> Option<(Rank, bool)> {
        let new = self.waiting.keys().next().map(|rank| (*rank, false));
        let ready = self.aside.iter().find(|(_, sequence)| !sequence.is_parked());
        let again = ready.map(|(rank, _)| (*rank, true));
        [new, again].into_iter().flatten().min()
    }

    /// What there is for a request, if it is enough.
    ///
    /// # Errors
    ///
    /// How many blocks are lacking.
    fn room_for(
        &mut self,
        rank: Rank,
        again: bool,
        displaced: Option<usize>,
    ) -> std::result::Result<Room, usize> {
        const GONE: usize = usize::MAX;
        let others = self.running.iter().enumerate().filter(|(slot, _)| Some(*slot) != displaced);
        let active = others.filter(|(_, sequence)| self.will_grow(sequence)).count();
        let best = self.running.iter().all(|sequence| sequence.rank < rank);
        if self.kv.available() <= active && (again || best) {
            return Err(GONE);
        }
        let prompt_len = match again {
            true => self.aside.get(&rank).ok_or(GONE)?.prompt_len,
            false => self.waiting.get(&rank).ok_or(GONE)?.ids.len(),
        };
        let class = self.sharing_class(prompt_len);
        if let Some(submission) = self.waiting.get_mut(&rank).filter(|_| !again) {
            // Other frequencies, or weights: the prompt is computed as if there
            // were none.
            let adapter = submission.adapter.as_ref().map(AdapterLease::id);
            let fits = |bytes: &KvBytes| bytes.class == class && bytes.adapter == adapter;
            submission.restored.take_if(|bytes| !fits(bytes));
        }
        let (ids, adapter, limit, restored) = if again {
            let sequence = self.aside.get(&rank).ok_or(GONE)?;
            (&sequence.ids, &sequence.adapter, sequence.cache_limit(), 0)
        } else {
            let submission = self.waiting.get(&rank).ok_or(GONE)?;
            let restored = submission.restored.as_ref().map_or(0, |bytes| bytes.positions);
            (&submission.ids, &submission.adapter, submission.cache_limit(), restored)
        };
        let scope = Scope { adapter: adapter.as_ref().map(AdapterLease::id), class };
        let chunk = if again { ids.len() } else { self.options.step_token_budget };
        let mut prefix = self.kv.find(&scope, ids, limit);
        if prefix.len < restored.min(limit) {
            prefix.keep_whole_blocks(self.spec.block_size);
        }
        loop {
            let begin = prefix.len.max(restored.min(limit));
            let end = begin.saturating_add(chunk).min(ids.len());
            let (needed, there) = self.kv.demand(&prefix, end);
            if needed + active <= there {
                return Ok(Room { scope, prefix, end });
            }
            // A block that must be copied takes up one more for the moment.
            if !prefix.keep_whole_blocks(self.spec.block_size) {
                return Err(needed + active - there);
            }
        }
    }

    /// Whether a sequence that runs may need one more block soon.
    pub(crate) fn will_grow(&self, sequence: &Sequence) -> bool {
        let whole = self.spec.context_len.div_ceil(self.spec.block_size);
        !sequence.is_parked() && sequence.table.blocks().len() < whole
    }

    /// See [`KvBlocks::sharing_class`].
    pub(crate) fn sharing_class(&mut self, prompt_len: usize) -> u64 {
        self.runner.kv_blocks().map_or(0, |blocks| blocks.sharing_class(prompt_len))
    }

    /// Gives the first one that waits a slot and what the cache has for it.
    fn enter(&mut self, rank: Rank, again: bool, room: Room) -> Result<(), Fatal> {
        let (mut sequence, restored) = if again {
            let Some(sequence) = self.aside.remove(&rank) else { return Ok(()) };
            (sequence, None)
        } else {
            let Some(mut submission) = self.waiting.remove(&rank) else { return Ok(()) };
            let restored = submission.restored.take();
            (Sequence::admit(submission, self.tokenizer.clone()), restored)
        };
        self.mailbox.leave_queue();
        let mut table = self.kv.open(room.scope, &room.prefix);
        let mut computed = room.prefix.len;
        let mut outcome = Ok(());
        if let Some(bytes) = &restored {
            let limit = sequence.cache_limit();
            match self.restore(&mut table, &sequence.ids, bytes, computed, limit) {
                Ok(positions) => computed = positions,
                Err(error) => outcome = Err(error),
            }
        }
        let cached = sequence.begin(table, computed) as u64;
        let event =
            ProbeEvent::Admitted { prompt_tokens: sequence.prompt_len, cached_tokens: computed };
        self.emit(Some(sequence.id), Phase::Queued, event);
        self.running.push(sequence);
        self.update_meter(|metrics| metrics.cached_prompt_tokens += cached);
        let slot = self.running.len() - 1;
        if let Err(error) = outcome.and_then(|()| self.claim(slot, computed, room.end)) {
            let survives = self.survives(&error);
            self.end_running(slot, Ending::Error(error.clone()));
            if !survives {
                return Err(Fatal(error));
            }
        }
        Ok(())
    }

    /// Fills the blocks of `table` after position `have`, which ends a block
    /// or is at least as much as there are bytes for, from bytes: up to
    /// `limit`. Returns how many positions are then filled. They are kept for
    /// others as if they had been computed.
    ///
    /// # Errors
    ///
    /// As [`KvBlocks::write_block`](crate::KvBlocks::write_block);
    /// `Unsupported` for a runner without [`KvBlocks`](crate::KvBlocks).
    fn restore(
        &mut self,
        table: &mut BlockTable,
        ids: &[TokenId],
        bytes: &KvBytes,
        have: usize,
        limit: usize,
    ) -> Result<usize> {
        let filled = bytes.positions.min(limit);
        if filled <= have {
            return Ok(have);
        }
        let size = self.spec.block_size;
        for index in have / size..filled.div_ceil(size) {
            let lost = || Error::engine_message("a snapshot was admitted without room for it");
            if !self.kv.grow(table, index + 1) {
                return Err(lost());
            }
            let len = size.min(bytes.positions - index * size);
            let (block, bytes_of_block) = table
                .blocks()
                .get(index)
                .zip(bytes.range(index * size..index * size + len))
                .ok_or_else(lost)?;
            let write = |blocks: &mut dyn KvBlocks| blocks.write_block(*block, len, bytes_of_block);
            self.with_blocks("sequence_state", write)?;
        }
        self.kv.keep(table, &ids[..filled]);
        Ok(filled)
    }

    /// How long there is nothing to do; `None` until somebody wakes the
    /// engine.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let lag = self.options.lag_timeout;
        let waiting = self.waiting.values().map(|s| (s.deadline, s.cancel.is_some()));
        let sequences = self.running.iter().chain(self.aside.values());
        waiting
            .chain(sequences.map(|sequence| sequence.next_check(lag)))
            .flat_map(|(at, polled)| {
                let until = at.map(|at| at.saturating_duration_since(now));
                [until, polled.then_some(CANCEL_POLL)]
            })
            .flatten()
            .min()
    }
}
