//! Prompts that begin alike and come together: one computes, the others wait
//! for its blocks.

use crate::engine_thread::Engine;
use crate::scheduler::Candidate;

/// A prompt waits for no less than so many blocks' worth of tokens: a step more
/// costs something too.
const WORTH_BLOCKS: usize = 4;

impl Engine {
    /// Lets prompts wait for the blocks that a better one is about to compute,
    /// by taking what is pending from their candidates, and gives those that
    /// waited what there is by now.
    ///
    /// A prompt follows another of better rank while more than half of what
    /// each of both still has to compute is the same. The other one goes first
    /// anyway; so the follower loses at most the step in which it would have
    /// begun, and the half or more that it need not compute is not computed
    /// beside the other's either. It waits for nothing that does not advance:
    /// if the other ends or falls behind, it goes on by itself.
    pub(crate) fn follow(&mut self, candidates: &mut [Candidate]) {
        let worth = WORTH_BLOCKS * self.spec.block_size;
        if !self.kv.keeps() || !candidates.iter().any(|c| c.prefill && c.pending > 0) {
            return;
        }
        for candidate in candidates.iter_mut() {
            if std::mem::take(&mut self.running[candidate.slot].follows) {
                self.catch_up(candidate);
            }
        }
        let long = |c: &&mut Candidate| c.prefill && c.pending >= worth;
        let mut prompts: Vec<&mut Candidate> = candidates.iter_mut().filter(long).collect();
        if prompts.len() < 2 {
            return;
        }
        prompts.sort_by_key(|candidate| candidate.rank);
        let mut leaders: Vec<usize> = Vec::new();
        for candidate in prompts {
            let slot = candidate.slot;
            let follows = leaders.iter().any(|leader| {
                let shared = self.shared(*leader, slot);
                let most = self.running[*leader].pending().max(candidate.pending);
                shared >= worth && shared * 2 > most
            });
            if follows {
                self.running[slot].follows = true;
                candidate.pending = 0;
            } else {
                leaders.push(slot);
            }
        }
    }

    /// How many tokens both have still to compute and may share, in whole
    /// blocks.
    fn shared(&self, leader: usize, follower: usize) -> usize {
        let (leader, follower) = (&self.running[leader], &self.running[follower]);
        let begin = leader.computed.max(follower.computed);
        // Another prompt differs at once; what is computed is not looked at yet.
        let (Some(theirs), Some(own)) =
            (leader.ids.get(begin..), follower.ids.get(begin..follower.cache_limit()))
        else {
            return 0;
        };
        let equal = theirs.iter().zip(own).take_while(|(a, b)| a == b).count();
        let end = (begin + equal) / self.spec.block_size * self.spec.block_size;
        let same_past = || {
            leader.ids[..begin] == follower.ids[..begin]
                && leader.table.scope() == follower.table.scope()
        };
        if end > begin && same_past() { end - begin } else { 0 }
    }

    /// Gives a prompt the blocks that the cache has by now.
    fn catch_up(&mut self, candidate: &mut Candidate) {
        let sequence = &mut self.running[candidate.slot];
        let mut prefix =
            self.kv.find(sequence.table.scope(), &sequence.ids, sequence.cache_limit());
        prefix.keep_whole_blocks(self.spec.block_size);
        if prefix.len <= sequence.computed {
            return;
        }
        let table = self.kv.open(sequence.table.scope().clone(), &prefix);
        let (before, spared) = sequence.exchange(table, prefix.len);
        candidate.pending = sequence.pending();
        // What it computed of this itself is in the cache, if anything is.
        self.kv.release(before, &[]);
        self.update_meter(|metrics| metrics.cached_prompt_tokens += spared as u64);
    }
}
