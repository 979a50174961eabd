//! The tokens that may still be drawn.

use std::cell::Cell;
use std::cmp::Ordering;
use std::ops::Range;

use inference_core::TokenId;

use super::exponential::{POWERS, exp};

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

/// Candidates from which on they are counted by logit before they are sorted.
const MANY: usize = 2048;

/// Ranges of logits that are told apart then, and what they cover at most:
/// e^-64 is nothing beside 1.
const BUCKETS: usize = 1024;
const COVERED: f64 = 64.0;

/// Ranges of logits as the model computed them, per unit.
const TOP_PER_UNIT: f32 = 16.0;

/// Independent sums, so that exponentials are computed side by side.
const LANES: usize = 8;

/// The tokens that may still be drawn, in order as far as anybody looked: a
/// vocabulary is large, and sorting all of it is rarely needed.
///
/// Tokens with a logit of negative infinity are not candidates.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    /// In order within `sorted`; what precedes is likelier, what follows is
    /// less likely.
    items: Vec<Candidate>,
    sorted: Range<usize>,
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
        let tokens = (0..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        Self::of(tokens.map(|(id, &logit)| Candidate { logit: scale(logit), id }))
    }

    /// The `count` likeliest tokens, or all, and those as likely as the last.
    pub(crate) fn top(logits: &[f32], temperature: f32, count: usize) -> Self {
        if count == 0 || logits.len() <= MANY || count >= logits.len() {
            return Self::new(logits, temperature).keep_top(count);
        }
        // Count by logit, and make candidates of the few near the top alone.
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
        let bucket = |logit: f32| (((max - logit) * TOP_PER_UNIT) as usize).min(BUCKETS - 1);
        let mut counts = [0; BUCKETS];
        for logit in logits {
            if let Some(count) = counts.get_mut(bucket(*logit)) {
                *count += 1;
            }
        }
        let mut sum = 0;
        let enough = |n: &usize| {
            sum += n;
            sum >= count
        };
        let last = counts.iter().position(enough).unwrap_or(BUCKETS);
        let temperature = f64::from(temperature);
        let near = (0..).zip(logits).filter(|(_, logit)| bucket(**logit) <= last);
        let near = near.filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        Self::of(near.map(|(id, &logit)| Candidate { logit: f64::from(logit) / temperature, id }))
            .keep_top(count)
    }

    fn of(candidates: impl Iterator<Item = Candidate>) -> Self {
        let mut items = SPARE.take();
        items.clear();
        items.extend(candidates);
        let max = items.iter().fold(f64::NEG_INFINITY, |max, c: &Candidate| max.max(c.logit));
        Self { items, sorted: 0..0, max }
    }

    /// Keeps the `k` likeliest, and those as likely as the last of them; 0
    /// keeps all.
    fn keep_top(mut self, k: usize) -> Self {
        if k == 0 || k >= self.len() {
            return self;
        }
        let Some(last) = self.ranked(k - 1) else { return self };
        let mut count = k;
        while self.ranked(count).is_some_and(|next| next.logit >= last.logit) {
            count += 1;
        }
        self.truncate(count);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The probability of a candidate, times an unknown factor: `exp(logit -
    /// max)`.
    pub(super) fn weight(&self, candidate: &Candidate) -> f64 {
        exp(candidate.logit - self.max, &POWERS)
    }

    /// The sum of all weights. The order of summation depends on the logits
    /// and on what was asked before, on nothing else.
    pub(super) fn total_weight(&self) -> f64 {
        let mut sums = [0.0; LANES];
        let (lanes, rest) = self.items.as_chunks::<LANES>();
        for weights in lanes.iter().map(|lanes| self.weights(lanes)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += weight;
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|c| self.weight(c)).sum::<f64>()
    }

    fn weights(&self, lanes: &[Candidate; LANES]) -> [f64; LANES] {
        let powers = &*POWERS;
        lanes.map(|candidate| exp(candidate.logit - self.max, powers))
    }

    /// `ln(sum(exp(logit)))`.
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
        self.cut(count);
    }

    /// Keeps the smallest set, likeliest first, whose weight reaches `target`;
    /// at least one candidate.
    pub(super) fn keep_weight(&mut self, target: f64) {
        if let Some((rank, _)) = self.rank_where(|cumulative| cumulative >= target) {
            self.cut(rank + 1);
        }
    }

    /// Keeps candidates of at least this weight, and the likeliest.
    pub(super) fn keep_weights(&mut self, least: f64) {
        if least > 1.0 {
            return self.truncate(1);
        }
        // Exponentials are only needed near the limit.
        let (max, limit) = (self.max, least.ln());
        self.retain(|c| {
            let log = c.logit - max;
            log > limit + 1e-9 || log > limit - 1e-9 && exp(log, &POWERS) >= least
        });
    }

    /// Keeps what `keep` accepts; at least one candidate must pass.
    pub(super) fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.items.retain(keep);
        self.sorted = 0..0;
        // The likeliest may be gone.
        self.max = self.items.iter().fold(f64::NEG_INFINITY, |max, c| max.max(c.logit));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.items.iter()
    }

    /// Inverse CDF: the first candidate, likeliest first, at which the
    /// cumulative probability exceeds `target` in `[0, 1)`.
    pub(super) fn pick(mut self, target: f64) -> Option<TokenId> {
        if self.items.len() > MANY {
            return self.pick_of_many(target);
        }
        let target = target * self.total_weight();
        if let Some((_, candidate)) = self.rank_where(|cumulative| cumulative > target) {
            return Some(candidate.id);
        }
        self.least_likely()
    }

    /// Where rounding kept the sum below a target just under the total.
    fn least_likely(&self) -> Option<TokenId> {
        let possible = self.items.iter().filter(|c| self.weight(c) > 0.0);
        possible.max_by(|a, b| a.order(b)).map(|c| c.id)
    }

    /// The same by ranges of logits, of which only one is put in order.
    fn pick_of_many(&self, target: f64) -> Option<TokenId> {
        let buckets = Buckets::new(&self.items, self.max);
        let (weights, _) = self.by_bucket(buckets);
        let target = target * weights.iter().sum::<f64>();
        let mut cumulative = 0.0;
        for (bucket, weight) in weights.into_iter().enumerate() {
            if cumulative + weight <= target {
                cumulative += weight;
                continue;
            }
            let items = self.items.iter().filter(|c| buckets.of(c) == bucket);
            let mut items: Vec<Candidate> = items.copied().collect();
            items.sort_unstable_by(Candidate::order);
            for candidate in items {
                cumulative += self.weight(&candidate);
                if cumulative > target {
                    return Some(candidate.id);
                }
            }
        }
        self.least_likely()
    }

    /// Weights and numbers of candidates by range.
    fn by_bucket(&self, buckets: Buckets) -> ([f64; BUCKETS], [usize; BUCKETS]) {
        let (mut weights, mut counts) = ([0.0; BUCKETS], [0; BUCKETS]);
        let mut add = |candidate: &Candidate, weight: f64| {
            let bucket = buckets.of(candidate);
            // In range: a bucket is below `BUCKETS`.
            if let (Some(sum), Some(count)) = (weights.get_mut(bucket), counts.get_mut(bucket)) {
                *sum += weight;
                *count += 1;
            }
        };
        let (lanes, rest) = self.items.as_chunks::<LANES>();
        for lanes in lanes {
            for (candidate, weight) in lanes.iter().zip(self.weights(lanes)) {
                add(candidate, weight);
            }
        }
        rest.iter().for_each(|candidate| add(candidate, self.weight(candidate)));
        (weights, counts)
    }

    /// The first rank at which the cumulative weight, likeliest first, is what
    /// `reached` wants. Ranks before may be left in any order.
    fn rank_where(&mut self, reached: impl Fn(f64) -> bool) -> Option<(usize, Candidate)> {
        let mut cumulative = 0.0;
        if self.items.len() > MANY {
            cumulative = self.skip(&reached);
        } else {
            self.sort_to(1);
        }
        let mut rank = self.sorted.start;
        loop {
            self.sort_on(rank + 1);
            let candidate = self.items.get(rank).copied()?;
            cumulative += self.weight(&candidate);
            if reached(cumulative) {
                return Some((rank, candidate));
            }
            rank += 1;
        }
    }

    /// Brings the candidates to the front whose weights together are not yet
    /// what `reached` wants, range of logits by range, and the next range
    /// behind them in order. Returns the weight of those in front.
    fn skip(&mut self, reached: &impl Fn(f64) -> bool) -> f64 {
        let buckets = Buckets::new(&self.items, self.max);
        let (weights, counts) = self.by_bucket(buckets);
        let (mut cumulative, mut bucket, mut skipped, mut next) = (0.0, 0, 0, 0);
        for (weight, count) in weights.into_iter().zip(counts) {
            next = count;
            if reached(cumulative + weight) {
                break;
            }
            (cumulative, skipped, bucket) = (cumulative + weight, skipped + count, bucket + 1);
        }
        let end = (skipped + next).min(self.items.len());
        partition(&mut self.items, |c| buckets.of(c) <= bucket);
        let front = self.items.get_mut(..end).unwrap_or_default();
        partition(front, |c| buckets.of(c) < bucket);
        front.get_mut(skipped..).unwrap_or_default().sort_unstable_by(Candidate::order);
        self.sorted = skipped..end;
        cumulative
    }

    /// Forgets the ranks from `count` on, which are known to be last.
    fn cut(&mut self, count: usize) {
        self.items.truncate(count);
        let end = self.sorted.end.min(self.items.len());
        self.sorted = self.sorted.start.min(end)..end;
    }

    /// Puts at least the `count` likeliest in order.
    fn sort_to(&mut self, count: usize) {
        if self.sorted.start > 0 {
            self.sorted = 0..0;
        }
        self.sort_on(count);
    }

    /// Continues the order up to rank `count`.
    fn sort_on(&mut self, count: usize) {
        let (end, count) = (self.sorted.end, count.min(self.items.len()));
        if count <= end {
            return;
        }
        // Grow geometrically, so that a walk down the ranks stays linearithmic.
        let wanted = count.max(end * 4).max(FIRST_SORT).min(self.items.len());
        let mut rest = self.items.get_mut(end..).unwrap_or_default();
        let chunk = wanted - end;
        if rest.len() > MANY && chunk < rest.len() {
            // Few of them are near the top: set the others aside by counting.
            let buckets = Buckets::new(rest, self.max);
            let first = buckets.first(rest, chunk);
            let front = partition(rest, first);
            rest = rest.get_mut(..front).unwrap_or_default();
        }
        if chunk < rest.len() {
            rest.select_nth_unstable_by(chunk - 1, Candidate::order);
        }
        rest.get_mut(..chunk).unwrap_or_default().sort_unstable_by(Candidate::order);
        self.sorted.end = wanted;
    }
}

/// Ranges of logits of equal width, numbered from the likeliest.
#[derive(Clone, Copy)]
struct Buckets {
    max: f64,
    per_unit: f64,
}

impl Buckets {
    /// Ranges of the logits of `items`, of which none is above `max`.
    fn new(items: &[Candidate], max: f64) -> Self {
        let min = items.iter().fold(max, |min, c| if c.logit < min { c.logit } else { min });
        Self { max, per_unit: BUCKETS as f64 / (max - min).min(COVERED) }
    }

    fn of(&self, candidate: &Candidate) -> usize {
        // Where all are equal, not a number, which is converted to 0.
        (((self.max - candidate.logit) * self.per_unit) as usize).min(BUCKETS - 1)
    }

    /// What tells the first ranges that have at least `count` of `items`.
    fn first(self, items: &[Candidate], count: usize) -> impl Fn(&Candidate) -> bool + use<> {
        let mut counts = [0; BUCKETS];
        for item in items {
            if let Some(count) = counts.get_mut(self.of(item)) {
                *count += 1;
            }
        }
        let mut sum = 0;
        let enough = |n: &usize| {
            sum += n;
            sum >= count
        };
        let last = counts.iter().position(enough).unwrap_or(BUCKETS);
        move |item| self.of(item) <= last
    }
}

/// Brings the items that pass to the front, and says how many they are.
fn partition(items: &mut [Candidate], front: impl Fn(&Candidate) -> bool) -> usize {
    let mut passed = 0;
    for index in 0..items.len() {
        if items.get(index).is_some_and(&front) {
            items.swap(passed, index);
            passed += 1;
        }
    }
    passed
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

    /// Logits of many tokens: spread, flat, with ties, and with far outliers.
    fn many() -> impl Strategy<Value = Vec<f32>> {
        let spread = prop_oneof![Just(0.0f32), Just(0.01), Just(1.0), Just(8.0), Just(90.0)];
        (spread, any::<u64>(), MANY..MANY * 3, any::<bool>()).prop_map(
            |(spread, seed, len, ties)| {
                let mut state = seed;
                let mut logits: Vec<f32> = Vec::new();
                for _ in 0..len {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let uniform = (state >> 40) as f32 / (1 << 24) as f32;
                    let logit = (uniform - 0.5) * spread;
                    logits.push(if ties { (logit * 4.0).round() } else { logit });
                }
                logits
            },
        )
    }

    /// Ids, likeliest first, and their probabilities.
    fn defined(logits: &[f32]) -> Vec<(u32, f64)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(x - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut order: Vec<(u32, f64)> = (0..).zip(weights.iter().map(|w| w / total)).collect();
        let logit = |id: u32| logits[id as usize];
        order.sort_by(|a, b| logit(b.0).total_cmp(&logit(a.0)).then(a.0.cmp(&b.0)));
        order
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn many_are_picked_as_the_definition_says(logits in many(), target in 0.0_f64..1.0) {
            let picked = Candidates::new(&logits, 1.0).pick(target).unwrap();
            let order = defined(&logits);
            let mut sum = 0.0;
            for (id, probability) in order {
                sum += probability;
                if id == picked {
                    prop_assert!(sum - probability <= target + 1e-9 && target <= sum + 1e-9);
                }
            }
        }

        #[test]
        fn many_are_kept_as_the_definition_says(logits in many(), p in 0.01_f64..0.999) {
            let mut candidates = Candidates::new(&logits, 1.0);
            let target = p * candidates.total_weight();
            candidates.keep_weight(target);
            let order = defined(&logits);
            let kept = candidates.len();
            let before: f64 = order[..kept - 1].iter().map(|c| c.1).sum();
            let sum = before + order[kept - 1].1;
            prop_assert!(before <= p + 1e-9 && p <= sum + 1e-9, "{before}, {sum}");
            // The order survives what was skipped.
            let found: Vec<u32> = candidates.likeliest(kept).iter().map(|c| c.id).collect();
            let expected: Vec<u32> = order[..kept].iter().map(|c| c.0).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn the_top_is_what_the_definition_says(logits in many(), count in 1..MANY) {
            let mut top = Candidates::top(&logits, 1.0, count);
            let order = defined(&logits);
            let logit = |rank: usize| logits[order[rank].0 as usize];
            let mut kept = count;
            while kept < order.len() && logit(kept) == logit(count - 1) {
                kept += 1;
            }
            let found: Vec<u32> = top.likeliest(usize::MAX).iter().map(|c| c.id).collect();
            let expected: Vec<u32> = order[..kept].iter().map(|c| c.0).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn many_are_ranked_as_the_definition_says(logits in many(), rank in 0..MANY) {
            let mut candidates = Candidates::new(&logits, 1.0);
            let found = candidates.ranked(rank).unwrap().id;
            prop_assert_eq!(found, defined(&logits)[rank].0);
        }
    }

    #[test]
    fn forbidden_tokens_are_no_candidates() {
        let candidates = Candidates::new(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 1.0);
        assert_eq!(candidates.len(), 1);
        assert_eq!(candidates.pick(0.999), Some(1));
    }
}
