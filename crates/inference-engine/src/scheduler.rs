//! What the next step computes. Pure planning: no runner, no clock, no lock.

use std::time::{Duration, Instant};

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
    /// Drafted tokens to verify, if there is room.
    pub(crate) drafts: usize,
    /// Its rank; see [`Rank`].
    pub(crate) rank: Rank,
}

/// The order in which requests are served: by virtual arrival, which is the
/// arrival less one [`aging`](crate::EngineOptions::aging) per level of
/// priority, then by arrival.
///
/// The keys never change, so that a queue in their order needs no sorting
/// again, and yet nobody starves: a request whose priority is `n` levels lower
/// than another's is served first if it came more than `n` agings before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Nanoseconds since the engine started.
    virtual_arrival: i128,
    /// How many-th it was.
    arrival: u64,
}

impl Rank {
    /// The rank of the request that came as `arrival`-th, `at` after the engine
    /// started.
    pub(crate) fn new(priority: i32, aging: Duration, at: Duration, arrival: u64) -> Self {
        let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
        let head_start = nanos(aging).saturating_mul(i128::from(priority));
        Self { virtual_arrival: nanos(at).saturating_sub(head_start), arrival }
    }
}

/// How long an engine in which nothing runs waits for company for the
/// `waiting` requests that came, the first of them at `first`; `None` to start.
/// `full` requests are as many as can come.
pub(crate) fn gathering(
    now: Instant,
    first: Option<Instant>,
    waiting: usize,
    full: usize,
    max_wait: Duration,
) -> Option<Duration> {
    let first = first.filter(|_| waiting < full)?;
    let left = max_wait.saturating_sub(now.saturating_duration_since(first));
    (!left.is_zero()).then_some(left)
}

/// A prompt leaves one part in so many of a step's room to those behind it:
/// enough for short prompts, and it is itself not much slower.
const ROOM_BEHIND: usize = 8;

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) slot: usize,
    /// How many of its pending tokens to compute.
    pub(crate) len: usize,
    /// How many of its drafted tokens to verify.
    pub(crate) drafts: usize,
}

/// Plans one step: the next token of every sequence that decodes, then chunks
/// of prompts, then drafts, each in the order of their rank, until
/// `token_budget` tokens are planned.
///
/// Decoding goes first so that a long prompt does not hold up the tokens of
/// others; it is bounded by the number of slots, which the budget is never
/// smaller than, so at least one prompt advances whenever one waits. A prompt
/// leaves a part of the room to those behind it, so that a short one need not
/// wait for the whole of a long one. Drafts
/// come last: they may be for nothing, so they never take the place of what is
/// not.
pub(crate) fn plan(candidates: &[Candidate], token_budget: usize) -> Vec<Share> {
    let mut ordered: Vec<&Candidate> = candidates.iter().filter(|c| c.pending > 0).collect();
    ordered.sort_by_key(|c| (c.prefill, c.rank));
    let mut room = token_budget;
    let mut shares = Vec::with_capacity(ordered.len());
    let last = ordered.len().saturating_sub(1);
    for (index, candidate) in ordered.iter().enumerate() {
        let left = if candidate.prefill && index < last { room / ROOM_BEHIND } else { 0 };
        let len = candidate.pending.min(room - left);
        if len == 0 {
            break;
        }
        room -= len;
        shares.push(Share { slot: candidate.slot, len, drafts: 0 });
    }
    // What those behind did not need.
    for (share, candidate) in shares.iter_mut().zip(&ordered) {
        let more = (candidate.pending - share.len).min(room);
        share.len += more;
        room -= more;
    }
    for (share, candidate) in shares.iter_mut().zip(&ordered) {
        if share.len == candidate.pending {
            share.drafts = candidate.drafts.min(room);
            room -= share.drafts;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const AGING: Duration = Duration::from_secs(5);

    fn rank(priority: i32, slot: usize) -> Rank {
        Rank::new(priority, AGING, Duration::ZERO, slot as u64)
    }

    fn decode(slot: usize) -> Candidate {
        Candidate { slot, pending: 1, prefill: false, drafts: 0, rank: rank(0, slot) }
    }

    fn prefill(slot: usize, pending: usize, priority: i32) -> Candidate {
        Candidate { slot, pending, prefill: true, drafts: 0, rank: rank(priority, slot) }
    }

    #[test]
    fn decoding_goes_first_and_prompts_share_what_is_left() {
        let shares = plan(&[prefill(0, 10, 0), decode(1), prefill(2, 3, 0), decode(3)], 14);
        let expected = [(1, 1), (3, 1), (0, 10), (2, 2)];
        assert!(shares.iter().map(|s| (s.slot, s.len)).eq(expected));
    }

    #[test]
    fn the_prompt_of_higher_priority_has_the_most() {
        let shares = plan(&[prefill(0, 10, 0), prefill(1, 10, 5)], 12);
        assert!(shares.iter().map(|s| (s.slot, s.len)).eq([(1, 10), (0, 2)]));
    }

    #[test]
    fn a_short_prompt_does_not_wait_for_a_long_one() {
        let shares = plan(&[prefill(0, 4_000, 0), prefill(1, 4_000, 0), prefill(2, 8, 0)], 512);
        let found: Vec<_> = shares.iter().map(|s| (s.slot, s.len)).collect();
        // The short one is done at once, and nothing of the room is wasted.
        assert_eq!(found, [(0, 448), (1, 56), (2, 8)]);
    }

    #[test]
    fn a_full_step_still_advances_a_prompt() {
        let candidates = [decode(0), decode(1), decode(2), prefill(3, 100, 0)];
        let shares = plan(&candidates, 4);
        assert_eq!(shares.last(), Some(&Share { slot: 3, len: 1, drafts: 0 }));
        assert_eq!(shares.len(), 4);
    }

    #[test]
    fn drafts_get_what_prompts_leave() {
        let drafting = |slot, drafts| Candidate { drafts, ..decode(slot) };
        let planned = |prompt, budget| -> Vec<_> {
            let candidates = [drafting(0, 5), prefill(1, prompt, 9), drafting(2, 5)];
            let shares = plan(&candidates, budget);
            shares.iter().map(|s| (s.slot, s.len, s.drafts)).collect()
        };
        assert_eq!(planned(10, 20), [(0, 1, 5), (2, 1, 3), (1, 10, 0)]);
        assert_eq!(planned(10, 12), [(0, 1, 0), (2, 1, 0), (1, 10, 0)]);
        assert_eq!(planned(100, 50), [(0, 1, 0), (2, 1, 0), (1, 48, 0)]);
        assert_eq!(planned(10, 1000), [(0, 1, 5), (2, 1, 5), (1, 10, 0)]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        assert!(plan(&[], 8).is_empty());
    }

    #[test]
    fn equal_priorities_are_served_in_order_of_arrival() {
        let at = |millis, arrival| Rank::new(3, AGING, Duration::from_millis(millis), arrival);
        assert!(at(1, 0) < at(1, 1), "the clock may stand still");
        assert!(at(1, 1) < at(2, 2));
    }

    #[test]
    fn waiting_makes_up_for_priority() {
        let rank = |priority, secs| Rank::new(priority, AGING, Duration::from_secs(secs), secs);
        assert!(rank(2, 9) < rank(0, 0));
        assert!(rank(0, 0) < rank(2, 11));
        assert!(rank(-1, 0) < rank(0, 6));
        let longest = Rank::new(i32::MAX, Duration::MAX, Duration::MAX, 0);
        assert!(longest < Rank::new(i32::MIN, Duration::MAX, Duration::ZERO, 1), "no overflow");
    }

    /// One server, a virtual clock, and urgent requests that come faster than
    /// they can be served.
    #[test]
    fn urgent_requests_cannot_hold_up_another_beyond_the_bound() {
        for (levels, aging_ms, every_ms, service_ms) in
            [(1, 50, 2, 3), (4, 20, 1, 1), (7, 100, 3, 10), (1000, 1, 5, 5)]
        {
            let aging = Duration::from_millis(aging_ms);
            let bound = aging_ms * levels as u64;
            let mut queue = BTreeMap::new();
            let (mut now, mut arrivals, mut served_before) = (0, 0_u64, 0);
            let patient = Rank::new(0, aging, Duration::from_millis(every_ms), u64::MAX);
            loop {
                while arrivals * every_ms <= now {
                    let at = Duration::from_millis(arrivals * every_ms);
                    queue.insert(Rank::new(levels, aging, at, arrivals), arrivals * every_ms);
                    if arrivals == 1 {
                        queue.insert(patient, every_ms);
                    }
                    arrivals += 1;
                }
                let Some((rank, came)) = queue.pop_first() else {
                    now = arrivals * every_ms;
                    continue;
                };
                if rank == patient {
                    break;
                }
                assert!(came <= every_ms + bound, "{came} was served although it came too late");
                served_before += 1;
                now += service_ms;
                assert!(served_before < 100_000, "it starves");
            }
            // Only those that came within the bound can be served before.
            assert!(served_before > 1, "priority counts for something");
            assert!(served_before <= bound / every_ms + 2, "{served_before}");
            if service_ms <= every_ms {
                assert!(now <= every_ms + bound + service_ms, "waited until {now} ms");
            }
        }
    }

    #[test]
    fn an_idle_engine_waits_for_company_until_it_is_late_or_full() {
        let came = Instant::now();
        let wait = Duration::from_millis(10);
        let after = |millis| came + Duration::from_millis(millis);
        let left = gathering(after(4), Some(came), 1, 3, wait);
        assert_eq!(left, Some(Duration::from_millis(6)));
        assert_eq!(gathering(after(10), Some(came), 1, 3, wait), None);
        assert_eq!(gathering(after(4), Some(came), 3, 3, wait), None);
        assert_eq!(gathering(after(4), None, 0, 3, wait), None);
        assert_eq!(gathering(after(0), Some(came), 1, 3, Duration::ZERO), None);
    }
}
