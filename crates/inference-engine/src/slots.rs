//! Who has a slot, and who had one and waits outside.
//!
//! Slots go to the best ranks among those that can go on. Who waits for its
//! reader can not, and is the first to make place; after that a better rank
//! takes the place of the worst: a request of higher priority, or a sequence
//! that comes back from waiting for its reader. Outside a sequence keeps its
//! blocks, so that to come back costs nothing, until somebody lacks them.
//!
//! Sequences outside count as waiting requests, so there are never more of both
//! kinds than `max_batch` and `max_queue` together.

use inference_core::probe::ProbeEvent;

use crate::engine_thread::Engine;
use crate::scheduler::Rank;
use crate::sequence::Sequence;

impl Engine {
    /// The slot that the one of `rank` may have where none is free: that of the
    /// worst that waits for its reader, or else of the worst of all if it is
    /// worse than `rank`.
    pub(crate) fn displaced_by(&self, rank: Rank) -> Option<usize> {
        let worst = self.running.iter().enumerate().max_by_key(|(_, s)| (s.is_parked(), s.rank));
        worst.filter(|(_, s)| s.is_parked() || s.rank > rank).map(|(slot, _)| slot)
    }

    /// Takes a sequence out of its slot, with what it has.
    pub(crate) fn set_aside(&mut self, slot: usize) {
        let sequence = self.running.swap_remove(slot);
        self.wait_outside(sequence);
    }

    /// Lets a sequence without a slot wait for one.
    pub(crate) fn wait_outside(&mut self, sequence: Sequence) {
        self.mailbox.join_queue();
        self.aside.insert(sequence.rank, sequence);
    }

    /// Gives a sequence that kept its blocks a slot.
    pub(crate) fn resume(&mut self, rank: Rank) {
        let Some(sequence) = self.aside.remove(&rank) else { return };
        self.mailbox.leave_queue();
        self.running.push(sequence);
        self.update_meter(|_| ());
    }

    /// Gives slots that nobody else wants to those that wait for their reader
    /// outside, so that they do not take up places of the queue.
    pub(crate) fn seat_parked(&mut self) {
        while self.running.len() < self.options.max_batch
            && let Some(sequence) = self.aside.values().find(|s| !s.table.blocks().is_empty())
        {
            self.resume(sequence.rank);
        }
    }

    /// Whether a sequence without a slot has blocks.
    pub(crate) fn has_blocks_aside(&self, rank: Rank) -> bool {
        self.aside.get(&rank).is_some_and(|sequence| !sequence.table.blocks().is_empty())
    }

    /// Takes the blocks of the worst sequence without a slot, of those that
    /// wait for their reader if they are `parked`; `false` if none has any.
    pub(crate) fn take_blocks_aside(&mut self, parked: bool) -> bool {
        let holders = self.aside.values().rev().filter(|s| !s.table.blocks().is_empty());
        let mut of_kind = holders.filter(|sequence| sequence.is_parked() == parked);
        let Some(rank) = of_kind.next().map(|sequence| sequence.rank) else { return false };
        let Some(sequence) = self.aside.get_mut(&rank) else { return false };
        let (id, phase, computed) = (sequence.id, sequence.phase(), sequence.computed);
        let table = sequence.preempt();
        self.kv.release(table, &sequence.ids[..computed]);
        self.emit(Some(id), phase, ProbeEvent::Preempted { computed });
        self.update_meter(|metrics| metrics.preemptions += 1);
        self.note_pressure();
        true
    }

    /// Makes others give up blocks for the one of `rank`, which is to enter a
    /// slot and lacks `lacking` of them; `false` if nobody else does.
    ///
    /// First those that wait for their reader, then those without a slot, which
    /// are worse. A `new` request also takes those of worse ranks that run,
    /// where it then has enough; to come back is no reason to.
    pub(crate) fn make_room(&mut self, rank: Rank, lacking: usize, new: bool) -> bool {
        self.take_blocks_aside(true)
            || self.preempt_parked()
            || self.take_blocks_aside(false)
            || (new && self.preempt_worse(rank, lacking))
    }

    /// Preempts the worst of those that run, if those worse than `rank` have
    /// `lacking` blocks to themselves in all.
    fn preempt_worse(&mut self, rank: Rank, lacking: usize) -> bool {
        let worse = || self.running.iter().enumerate().filter(|(_, s)| s.rank > rank);
        // Each leaves its blocks and the one that it was to find next.
        let left = |s: &Sequence| self.kv.exclusive(&s.table) + usize::from(self.will_grow(s));
        let own: usize = worse().map(|(_, s)| left(s)).sum();
        let Some((slot, _)) = worse().max_by_key(|(_, s)| s.rank).filter(|_| own >= lacking) else {
            return false;
        };
        self.preempt_slot(slot);
        true
    }
}
