//! Who gets the KV blocks when there are not enough for all.
//!
//! # Nobody is stuck
//!
//! Consider, among the requests that are there and do not wait for their own
//! reader, the one of best rank.
//!
//! - If it runs, each step computes at least one of its tokens: nobody takes its
//!   slot, the plan has a share for it (decoding goes first, prompts follow by
//!   rank, and the budget is not smaller than the number of slots), and
//!   [`Engine::provide`] serves it first. It may take the blocks of every other
//!   sequence, with or without a slot, and the pool is not smaller than the
//!   longest sequence (else the request was refused). It is never preempted
//!   itself: only who is better, or who is parked by it, takes blocks from
//!   others. So it ends after finitely many steps.
//! - If it waits, it waits for blocks, not for a slot, which it takes from who
//!   is parked or worse. Nobody is admitted before it. Those without slots and
//!   the parked give it their blocks. Those that run are a finite set, of which
//!   the best progresses as above, and so on: each ends, parks or is preempted.
//!   With nobody running there are blocks for it.
//!
//! By induction every request ends, as long as no better ones arrive for ever;
//! that they cannot is what aging is for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use inference_core::probe::{Phase, ProbeEvent};
use inference_core::{Error, Result};

use crate::engine_thread::{Engine, Fatal, panic_error};
use crate::runner::KvBlocks;
use crate::scheduler::Share;
use crate::sequence::{Ending, Sequence};

/// Sequences that leave their slots, by slot.
struct Leaving {
    preempted: Vec<bool>,
    failed: Vec<(usize, Error)>,
}

impl Engine {
    /// Gives the sequences of a plan the blocks for their shares, best rank
    /// first. Who finds no block at all takes those of a parked sequence, of one
    /// without a slot, or else of the worst that is worse than itself, which
    /// then waits outside.
    /// If there is none it keeps what it has and sits out this step; who finds
    /// blocks for a part of its share computes that part. Drafts get what all of
    /// them leave.
    ///
    /// Returns what is left of the plan, with the slots as they are now.
    pub(crate) fn provide(&mut self, shares: Vec<Share>) -> Result<Vec<Share>, Fatal> {
        let size = self.spec.block_size;
        let most = |share: &Share| {
            let Sequence { computed, table, .. } = &self.running[share.slot];
            let end = (computed + share.len + share.drafts).div_ceil(size);
            // And one that may have to be copied.
            end.saturating_sub(table.blocks().len()) + 1
        };
        if shares.iter().map(most).sum::<usize>() <= self.kv.available() {
            return self.provide_all(shares);
        }
        self.provide_by_rank(&shares)
    }

    /// [`provide`](Self::provide) where there are blocks for all of it, whatever
    /// the order.
    fn provide_all(&mut self, shares: Vec<Share>) -> Result<Vec<Share>, Fatal> {
        let mut failed = Vec::new();
        for Share { slot, len, drafts } in &shares {
            let start = self.running[*slot].computed;
            if let Err(error) = self.claim(*slot, start, start + len + drafts) {
                failed.push((*slot, error));
            }
        }
        if failed.is_empty() {
            return Ok(shares);
        }
        let slots = self.vacate(Leaving { preempted: vec![false; self.running.len()], failed })?;
        let moved = |share: Share| Some(Share { slot: slots[share.slot]?, ..share });
        Ok(shares.into_iter().filter_map(moved).collect())
    }

    fn provide_by_rank(&mut self, shares: &[Share]) -> Result<Vec<Share>, Fatal> {
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by_key(|index| self.running[shares[*index].slot].rank);
        let mut lens = vec![0; shares.len()];
        let mut leaving =
            Leaving { preempted: vec![false; self.running.len()], failed: Vec::new() };
        for &index in &order {
            let Share { slot, len, .. } = shares[index];
            if leaving.preempted[slot] {
                continue;
            }
            let start = self.running[slot].computed;
            while self.kv.lacking(&self.running[slot].table, start, start + 1) > 0
                && self.give_way(slot, &mut leaving.preempted)
            {}
            let table = &self.running[slot].table;
            let end = match self.kv.lacking(table, start, start + len) {
                0 => start + len,
                _ => (start + len).min(self.kv.reach(table, start)),
            };
            if end == start {
                continue;
            }
            match self.claim(slot, start, end) {
                Ok(()) => lens[index] = end - start,
                Err(error) => leaving.failed.push((slot, error)),
            }
        }
        let mut drafts = vec![0; shares.len()];
        for index in order {
            let share = shares[index];
            if share.drafts > 0 && lens[index] == share.len && !leaving.preempted[share.slot] {
                match self.provide_drafts(share) {
                    Ok(room) => drafts[index] = room,
                    Err(error) => leaving.failed.push((share.slot, error)),
                }
            }
        }
        let slots = self.vacate(leaving)?;
        let granted = shares.iter().zip(lens).zip(drafts).filter(|((_, len), _)| *len > 0);
        Ok(granted
            .filter_map(|((share, len), drafts)| {
                Some(Share { slot: slots[share.slot]?, len, drafts })
            })
            .collect())
    }

    /// Takes blocks for the drafts of a share, whose other tokens have theirs,
    /// if there are enough. Returns how many drafts have blocks.
    fn provide_drafts(&mut self, share: Share) -> Result<usize> {
        let Sequence { computed, table, .. } = &self.running[share.slot];
        let start = computed + share.len;
        let held = (table.blocks().len() * self.spec.block_size).saturating_sub(start);
        if held >= share.drafts {
            return Ok(share.drafts);
        }
        if self.kv.lacking(table, start, start + share.drafts) > 0 {
            return Ok(held);
        }
        self.claim(share.slot, start, start + share.drafts)?;
        Ok(share.drafts)
    }

    /// Makes another sequence give its blocks to the one in `slot`; `false` if
    /// nobody does.
    fn give_way(&mut self, slot: usize, preempted: &mut [bool]) -> bool {
        if self.take_blocks_aside(true) {
            return true;
        }
        let own = self.running[slot].rank;
        let holders = self.running.iter().enumerate().filter(|(other, sequence)| {
            *other != slot && !preempted[*other] && !sequence.table.blocks().is_empty()
        });
        let victim = holders
            .filter(|(_, sequence)| sequence.is_parked() || sequence.rank > own)
            .max_by_key(|(_, sequence)| (sequence.is_parked(), sequence.rank))
            .map(|(other, sequence)| (other, sequence.is_parked()));
        if !victim.is_some_and(|(_, parked)| parked) && self.take_blocks_aside(false) {
            return true;
        }
        let Some((victim, _)) = victim else { return false };
        preempted[victim] = true;
        self.take_blocks(victim);
        true
    }

    /// Takes the blocks of a sequence; what they hold is kept until they are
    /// needed.
    fn take_blocks(&mut self, slot: usize) {
        let sequence = &mut self.running[slot];
        let (id, phase, computed) = (sequence.id, sequence.phase(), sequence.computed);
        let table = sequence.preempt();
        self.kv.release(table, &self.running[slot].ids[..computed]);
        self.emit(Some(id), phase, ProbeEvent::Preempted { computed });
    }

    /// Takes the blocks for positions `start..end`, which are there.
    ///
    /// # Errors
    ///
    /// What the runner says where a block must be copied.
    pub(crate) fn claim(&mut self, slot: usize, start: usize, end: usize) -> Result<()> {
        let size = self.spec.block_size;
        let table = &mut self.running[slot].table;
        if !self.kv.grow(table, end.div_ceil(size)) {
            return Err(Error::engine_message("the KV pool is empty"));
        }
        let Some((from, to)) = self.kv.make_writable(table, start / size) else { return Ok(()) };
        self.with_blocks("prefix_cache", |blocks| blocks.copy_block(from, to, start % size))
    }

    /// Calls the runner's blocks; `ability` is what cannot be done without.
    pub(crate) fn with_blocks(
        &mut self,
        ability: &str,
        call: impl FnOnce(&mut dyn KvBlocks) -> Result<()>,
    ) -> Result<()> {
        let runner = &mut self.runner;
        let outcome = catch_unwind(AssertUnwindSafe(|| match runner.kv_blocks() {
            Some(blocks) => call(blocks),
            None => Err(Error::unsupported("this model runner", ability)),
        }));
        outcome.unwrap_or_else(|panic| {
            self.runner_panicked = true;
            Err(panic_error(&*panic))
        })
    }

    /// Moves the preempted out of their slots and ends the failed. Returns
    /// where the sequence of each slot is now.
    fn vacate(&mut self, leaving: Leaving) -> Result<Vec<Option<usize>>, Fatal> {
        let Leaving { preempted, failed } = leaving;
        let victims = preempted.iter().filter(|preempted| **preempted).count();
        if victims == 0 && failed.is_empty() {
            return Ok((0..preempted.len()).map(Some).collect());
        }
        let mut slots = vec![None; preempted.len()];
        let mut ended = Vec::new();
        for (slot, sequence) in std::mem::take(&mut self.running).into_iter().enumerate() {
            if preempted[slot] {
                self.wait_outside(sequence);
            } else if let Some((_, error)) = failed.iter().find(|(failed, _)| *failed == slot) {
                ended.push((sequence, error.clone()));
            } else {
                slots[slot] = Some(self.running.len());
                self.running.push(sequence);
            }
        }
        self.update_meter(|metrics| metrics.preemptions += victims as u64);
        if victims > 0 {
            self.note_pressure();
        }
        let mut fatal = None;
        for (sequence, error) in ended {
            if !self.survives(&error) {
                fatal.get_or_insert(error.clone());
            }
            self.end_sequence(sequence, Ending::Error(error));
        }
        fatal.map_or(Ok(slots), |error| Err(Fatal(error)))
    }

    /// Preempts the worst of the sequences that wait for their reader, if there
    /// is one.
    pub(crate) fn preempt_parked(&mut self) -> bool {
        let parked =
            self.running.iter().enumerate().filter(|(_, sequence)| {
                sequence.is_parked() && !sequence.table.blocks().is_empty()
            });
        let Some((slot, _)) = parked.max_by_key(|(_, sequence)| sequence.rank) else {
            return false;
        };
        self.preempt_slot(slot);
        true
    }

    /// Takes slot and blocks of a sequence.
    pub(crate) fn preempt_slot(&mut self, slot: usize) {
        self.take_blocks(slot);
        self.set_aside(slot);
        self.update_meter(|metrics| metrics.preemptions += 1);
        self.note_pressure();
    }

    /// Tells that blocks are short, once until they are not any more.
    pub(crate) fn note_pressure(&mut self) {
        if std::mem::replace(&mut self.short_of_blocks, true) {
            return;
        }
        let (used, total) = (self.kv.used(), self.kv.total());
        let waiting = self.waiting.len() + self.aside.len();
        let event = ProbeEvent::CachePressure { used, total, waiting };
        self.emit(None, Phase::Queued, event);
    }
}
