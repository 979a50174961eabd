//! The tokens that may still be drawn.

use std::cell::Cell;
use std::cmp::Ordering;

use inference_core::TokenId;

/// A token and its logit after temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) logit: f64,
    pub(crate) id: TokenId,
}

impl Candidate {
    /// Descending logit, ties by ascending id: a total order without equals.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// How many candidates are sorted first; most distributions need no more.
const FIRST_SORT: usize = 64;

/// The tokens that may still be drawn, likeliest first as far as anybody
/// looked: a vocabulary is large, and sorting all of it is rarely needed.
///
/// Tokens with a logit of negative infinity are not candidates.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    /// In order up to `sorted`; what follows is less likely.
    items: Vec<Candidate>,
    sorted: usize,
    /// The largest logit.
    max: f64,
}

thread_local! {
    /// The memory of the last candidates: megabytes for a large vocabulary.
    static SPARE: Cell<Vec<Candidate>> = const { Cell::new(Vec::new()) };
}

impl Drop for Candidates {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.items));
    }
}

impl Candidates {
    /// All tokens, with `temperature` (greater than 0) applied.
    pub(crate) fn new(logits: &[f32], temperature: f32) -> Self {
        let temperature = f64::from(temperature);
        let scale = |logit: f32| f64::from(logit) / temperature;
        let mut items = SPARE.take();
        items.clear();
        let tokens = (0..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        items.extend(tokens.map(|(id, &logit)| Candidate { logit: scale(logit), id }));
        let max = items.iter().fold(f64::NEG_INFINITY, |max, c| max.max(c.logit));
        Self { items, sorted: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The probability of a candidate, times an unknown factor: `exp(logit -
    /// max)`.
    pub(super) fn weight(&self, candidate: &Candidate) -> f64 {
        (candidate.logit - self.max).exp()
    }

    /// The sum of all weights. The order of summation depends on the logits
    /// alone: it is by id until somebody truncates, then by rank.
    pub(super) fn total_weight(&self) -> f64 {
        self.items.iter().map(|c| self.weight(c)).sum()
    }

    /// `ln(sum(exp(logit)))`. Call it before anything sorts.
    pub(crate) fn log_sum(&self) -> f64 {
        self.max + self.total_weight().ln()
    }

    /// The candidate of a rank, 0 the likeliest.
    pub(super) fn ranked(&mut self, rank: usize) -> Option<Candidate> {
        self.sort_to(rank + 1);
        self.items.get(rank).copied()
    }

    /// The `count` likeliest, or all there are.
    pub(crate) fn likeliest(&mut self, count: usize) -> &[Candidate] {
        self.sort_to(count);
        &self.items[..count.min(self.items.len())]
    }

    /// Keeps the `count` likeliest.
    pub(super) fn truncate(&mut self, count: usize) {
        self.sort_to(count);
        self.items.truncate(count);
    }

    /// Keeps what `keep` accepts; at least one candidate must pass.
    pub(super) fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.sort_to(self.items.len());
        self.items.retain(keep);
        self.sorted = self.items.len();
        // The likeliest may be gone.
        self.max = self.items.first().map_or(f64::NEG_INFINITY, |c| c.logit);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.items.iter()
    }

    /// Inverse CDF: the first candidate, likeliest first, at which the
    /// cumulative probability exceeds `target` in `[0, 1)`.
    pub(super) fn pick(mut self, target: f64) -> Option<TokenId> {
        let target = target * self.total_weight();
        let mut cumulative = 0.0;
        let mut rank = 0;
        while let Some(candidate) = self.ranked(rank) {
            cumulative += self.weight(&candidate);
            if cumulative > target {
                return Some(candidate.id);
            }
            rank += 1;
        }
        // Rounding kept the sum below a target just under the total.
        self.items.iter().rev().find(|c| self.weight(c) > 0.0).map(|c| c.id)
    }

    /// Puts at least the `count` likeliest in order.
    fn sort_to(&mut self, count: usize) {
        let count = count.min(self.items.len());
        if count <= self.sorted {
            return;
        }
        // Grow geometrically, so that a walk down the ranks stays linearithmic.
        let wanted = count.max(self.sorted * 4).max(FIRST_SORT).min(self.items.len());
        let rest = &mut self.items[self.sorted..];
        let chunk = wanted - self.sorted;
        if chunk < rest.len() {
            rest.select_nth_unstable_by(chunk - 1, Candidate::order);
        }
        rest[..chunk].sort_unstable_by(Candidate::order);
        self.sorted = wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lazy_order_is_the_full_sort(
            logits in prop::collection::vec((-20_i8..20).prop_map(f32::from), 1..600),
            ranks in prop::collection::vec(0_usize..600, 0..8),
        ) {
            let mut lazy = Candidates::new(&logits, 0.5);
            let mut expected: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for rank in ranks {
                let found = lazy.ranked(rank).map(|c| c.id);
                prop_assert_eq!(found, expected.get(rank).map(|e| e.1));
            }
        }

        #[test]
        fn pick_inverts_the_cdf(
            logits in prop::collection::vec(-8_f32..8.0, 1..300),
            target in 0.0_f64..1.0,
        ) {
            let candidates = Candidates::new(&logits, 1.0);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let weights: Vec<f64> = order.iter().map(|&i| f64::from(logits[i]).exp()).collect();
            let total: f64 = weights.iter().sum();
            let picked = candidates.pick(target).unwrap() as usize;
            let rank = order.iter().position(|&i| i == picked).unwrap();
            let before: f64 = weights[..rank].iter().sum::<f64>() / total;
            let after: f64 = weights[..=rank].iter().sum::<f64>() / total;
            prop_assert!(before <= target + 1e-9 && target <= after + 1e-9);
        }
    }

    #[test]
    fn forbidden_tokens_are_no_candidates() {
        let candidates = Candidates::new(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 1.0);
        assert_eq!(candidates.len(), 1);
        assert_eq!(candidates.pick(0.999), Some(1));
    }
}
