//! One measurement: requests in, tokens per second out.

use std::time::{Duration, Instant};

use inference::{BatchItem, GenerateOptions, Prompt, TextModel, TokenEvent, TokenId};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// What is measured.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) batch: usize,
    pub(super) prompt_tokens: usize,
    pub(super) gen_tokens: usize,
    pub(super) depth: usize,
    pub(super) vocab_size: usize,
    pub(super) seed: u64,
}

/// Median, least and largest of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of at least one value; of none, zeros.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        let median = (at(last / 2) + at(values.len() / 2)) / 2.0;
        Self { median, min: at(0), max: at(last) }
    }
}

/// A prefill.
#[derive(Debug)]
pub(super) struct Prefill {
    pub(super) tokens_per_sec: f64,
    /// From the requests to the first token of any of them.
    pub(super) first_token_ms: f64,
}

/// When the tokens of each sequence came, from the moment of the requests.
struct Arrivals(Vec<Vec<Duration>>);

/// Reads `depth + prompt_tokens` tokens per sequence.
pub(super) fn prefill(model: &dyn TextModel, plan: &Plan, round: u64) -> Result<Prefill> {
    let whole = run(model, plan, plan.depth + plan.prompt_tokens, 1, round)?;
    let mut time = whole.all_started();
    if plan.depth > 0 {
        time = time.saturating_sub(run(model, plan, plan.depth, 1, round)?.all_started());
    }
    if time.is_zero() {
        return Err(Failure::Usage(format!(
            "{} prompt tokens take no longer than the depth of {} alone: raise --prompt-tokens",
            plan.prompt_tokens, plan.depth
        )));
    }
    let tokens = plan.batch * plan.prompt_tokens;
    Ok(Prefill {
        tokens_per_sec: tokens as f64 / time.as_secs_f64(),
        first_token_ms: whole.first_token().as_secs_f64() * 1e3,
    })
}

/// Generates `gen_tokens` tokens per sequence; tokens per second of the batch.
pub(super) fn decode(model: &dyn TextModel, plan: &Plan, round: u64) -> Result<f64> {
    let arrivals = run(model, plan, plan.depth.max(1), plan.gen_tokens + 1, round)?;
    arrivals.rate().ok_or_else(|| {
        Failure::Usage(format!(
            "the {} sequences never decoded together: raise --gen-tokens or --kv-budget, or lower \
             --batch",
            plan.batch
        ))
    })
}

/// Runs one batch of requests of `prompt` random tokens each to its end.
fn run(
    model: &dyn TextModel,
    plan: &Plan,
    prompt: usize,
    generate: usize,
    round: u64,
) -> Result<Arrivals> {
    let options = GenerateOptions::new()
        .with_max_tokens(generate)
        .with_temperature(0.0)
        .with_ignore_eos(true)
        .with_seed(plan.seed);
    let items = (0..plan.batch as u64).map(|sequence| {
        // No two sequences share a prefix that a cache could know.
        let seed = plan.seed ^ (round << 32 | sequence << 1 | u64::from(generate > 1));
        let ids = random_ids(seed, prompt, plan.vocab_size);
        BatchItem::new(Prompt::Tokens(ids)).with_options(options.clone())
    });
    let items = items.collect();
    let mut arrivals = vec![Vec::with_capacity(generate); plan.batch];
    let begin = Instant::now();
    for (index, event) in model.batch_generate(items).map_err(Failure::Request)? {
        match event {
            TokenEvent::Token(_) => {
                if let Some(times) = arrivals.get_mut(index) {
                    times.push(begin.elapsed());
                }
            }
            TokenEvent::Failed(error) => return Err(Failure::Request(error)),
            _ => {}
        }
    }
    Ok(Arrivals(arrivals))
}

impl Arrivals {
    fn first_token(&self) -> Duration {
        self.0.iter().filter_map(|times| times.first()).min().copied().unwrap_or_default()
    }

    /// When the last of the sequences had its first token.
    fn all_started(&self) -> Duration {
        self.0.iter().filter_map(|times| times.first()).max().copied().unwrap_or_default()
    }

    /// Tokens per second while all sequences decode.
    fn rate(&self) -> Option<f64> {
        let begin = self.all_started();
        let end = *self.0.iter().filter_map(|times| times.last()).min()?;
        let inside = |time: &&Duration| **time > begin && **time <= end;
        let tokens = self.0.iter().flatten().filter(inside).count();
        let time = end.checked_sub(begin)?.as_secs_f64();
        (tokens > 0 && time > 0.0).then(|| tokens as f64 / time)
    }
}

/// Token ids by splitmix64 (Steele et al., *Fast splittable pseudorandom
/// number generators*, 2014).
fn random_ids(seed: u64, count: usize, vocab_size: usize) -> Vec<TokenId> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count).map(|_| (next() % vocab_size.max(1) as u64) as TokenId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_of_its_values() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
    }

    #[test]
    fn the_rate_counts_what_comes_while_all_decode() {
        let ms = |times: &[u64]| times.iter().map(|t| Duration::from_millis(*t)).collect();
        // All have started at 20 ms, the first ends at 40 ms: 2 + 2 tokens in between.
        let arrivals = Arrivals(vec![ms(&[10, 20, 30, 40]), ms(&[20, 30, 40, 50])]);
        assert_eq!(arrivals.rate(), Some(200.0));
        // The second started when the first had ended.
        assert_eq!(Arrivals(vec![ms(&[10, 20]), ms(&[30, 40])]).rate(), None);
    }

    #[test]
    fn ids_are_in_the_vocabulary_and_differ_by_seed() {
        let ids = random_ids(1, 1000, 7);
        assert!(ids.iter().all(|id| *id < 7) && (0..7).all(|id| ids.contains(&id)));
        assert_ne!(ids, random_ids(2, 1000, 7));
    }
}
