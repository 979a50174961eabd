//! What the next step computes. Pure planning: no runner, no clock, no lock.

use std::cmp::Reverse;

/// What the scheduler knows of a sequence in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its slot.
    pub(crate) slot: usize,
    /// Tokens whose keys and values are not computed yet: one for a sequence
    /// that decodes, the rest of the prompt for one that prefills.
    pub(crate) pending: usize,
    /// Whether it is still computing its prompt.
    pub(crate) prefill: bool,
    /// Its rank; see [`Rank`].
    pub(crate) rank: Rank,
}

/// The order in which requests are served: higher priority first, then the
/// earlier arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: Reverse<i32>,
    arrival: u64,
}

impl Rank {
    pub(crate) fn new(priority: i32, arrival: u64) -> Self {
        Self { priority: Reverse(priority), arrival }
    }

    pub(crate) fn with_arrival(self, arrival: u64) -> Self {
        Self { arrival, ..self }
    }
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) slot: usize,
    /// How many of its pending tokens to compute.
    pub(crate) len: usize,
}

/// Plans one step: the next token of every sequence that decodes, then chunks
/// of prompts, in the order of their rank, until `token_budget` tokens are
/// planned.
///
/// Decoding goes first so that a long prompt does not hold up the tokens of
/// others; it is bounded by the number of slots, which the budget is never
/// smaller than, so at least one prompt advances whenever one waits.
pub(crate) fn plan(candidates: &[Candidate], token_budget: usize) -> Vec<Share> {
    let mut ordered: Vec<&Candidate> = candidates.iter().filter(|c| c.pending > 0).collect();
    ordered.sort_by_key(|c| (c.prefill, c.rank));
    let mut room = token_budget;
    let mut shares = Vec::with_capacity(ordered.len());
    for candidate in ordered {
        let len = candidate.pending.min(room);
        if len == 0 {
            break;
        }
        room -= len;
        shares.push(Share { slot: candidate.slot, len });
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(slot: usize) -> Candidate {
        Candidate { slot, pending: 1, prefill: false, rank: Rank::new(0, slot as u64) }
    }

    fn prefill(slot: usize, pending: usize, priority: i32) -> Candidate {
        Candidate { slot, pending, prefill: true, rank: Rank::new(priority, slot as u64) }
    }

    #[test]
    fn decoding_goes_first_and_prompts_share_what_is_left() {
        let shares = plan(&[prefill(0, 10, 0), decode(1), prefill(2, 3, 0), decode(3)], 14);
        let expected = [(1, 1), (3, 1), (0, 10), (2, 2)];
        assert!(shares.iter().map(|s| (s.slot, s.len)).eq(expected));
    }

    #[test]
    fn the_prompt_of_higher_priority_goes_first() {
        let shares = plan(&[prefill(0, 10, 0), prefill(1, 10, 5)], 12);
        assert!(shares.iter().map(|s| (s.slot, s.len)).eq([(1, 10), (0, 2)]));
    }

    #[test]
    fn a_full_step_still_advances_a_prompt() {
        let candidates = [decode(0), decode(1), decode(2), prefill(3, 100, 0)];
        let shares = plan(&candidates, 4);
        assert_eq!(shares.last(), Some(&Share { slot: 3, len: 1 }));
        assert_eq!(shares.len(), 4);
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        assert!(plan(&[], 8).is_empty());
    }
}
