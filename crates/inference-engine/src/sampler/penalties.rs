//! The steps that change logits one by one, in place.

use std::collections::HashMap;

use inference_core::TokenId;

/// How often each token occurs in the last `window` tokens of a history.
#[derive(Debug)]
pub(crate) struct TokenCounts {
    window: Option<usize>,
    counts: HashMap<TokenId, u32>,
}

impl TokenCounts {
    pub(crate) fn new(window: Option<usize>) -> Self {
        Self { window, counts: HashMap::new() }
    }

    /// Counts the last token of `history`, and forgets the one that leaves the
    /// window.
    pub(crate) fn push(&mut self, history: &[TokenId]) {
        let Some(&newest) = history.last() else { return };
        *self.counts.entry(newest).or_default() += 1;
        let left = self.window.and_then(|window| (history.len() - 1).checked_sub(window));
        if let Some(gone) = left.and_then(|at| history.get(at))
            && let Some(count) = self.counts.get_mut(gone)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(gone);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (TokenId, u32)> {
        self.counts.iter().map(|(&id, &count)| (id, count))
    }
}

fn update(logits: &mut [f32], id: TokenId, change: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(id as usize) {
        *logit = change(*logit);
    }
}

/// Sets a finite logit to what `change` makes of it, or the nearest finite
/// value: an extreme option neither forbids a token nor breaks the softmax.
fn shift(logits: &mut [f32], id: TokenId, change: impl FnOnce(f32) -> f32) {
    update(logits, id, |logit| {
        let changed = change(logit);
        if logit.is_finite() { changed.clamp(f32::MIN, f32::MAX) } else { changed }
    });
}

/// Adds each bias to its token's logit; one of negative infinity forbids it.
pub(super) fn bias(logits: &mut [f32], biases: &[(TokenId, f32)]) {
    for &(id, bias) in biases {
        if bias == f32::NEG_INFINITY {
            update(logits, id, |logit| logit + bias);
        } else {
            shift(logits, id, |logit| logit + bias);
        }
    }
}

/// `logit -= count * frequency + (count > 0) * presence` (the OpenAI API
/// reference's definition).
pub(super) fn frequency_and_presence(
    logits: &mut [f32],
    counts: &TokenCounts,
    frequency: f32,
    presence: f32,
) {
    if frequency == 0.0 && presence == 0.0 {
        return;
    }
    for (id, count) in counts.iter() {
        shift(logits, id, |logit| logit - frequency * count as f32 - presence);
    }
}

/// Divides a positive logit, multiplies a negative one, once per token that
/// occurred (Keskar et al., "CTRL", section 4.1).
pub(super) fn repetition(logits: &mut [f32], counts: &TokenCounts, penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for (id, _) in counts.iter() {
        shift(logits, id, |logit| if logit < 0.0 { logit * penalty } else { logit / penalty });
    }
}

/// Forbids every token that would complete an n-gram of the history again; 0
/// forbids nothing.
pub(super) fn repeated_ngrams(logits: &mut [f32], history: &[TokenId], size: usize) {
    if size == 0 || history.len() < size {
        return;
    }
    let (_, tail) = history.split_at(history.len() + 1 - size);
    for ngram in history.windows(size) {
        if let Some((&last, start)) = ngram.split_last()
            && start == tail
        {
            update(logits, last, |_| f32::NEG_INFINITY);
        }
    }
}

/// Forbids tokens.
pub(super) fn forbid(logits: &mut [f32], ids: &[TokenId]) {
    for &id in ids {
        update(logits, id, |_| f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_window() {
        let history = [1, 2, 1, 3, 1, 1, 2];
        for window in [None, Some(0), Some(1), Some(3), Some(7), Some(9)] {
            let mut counts = TokenCounts::new(window);
            for end in 1..=history.len() {
                counts.push(&history[..end]);
                let seen = &history[end.saturating_sub(window.unwrap_or(end))..end];
                for id in 1..=3 {
                    let expected = seen.iter().filter(|&&t| t == id).count() as u32;
                    let found = counts.counts.get(&id).copied().unwrap_or(0);
                    assert_eq!(found, expected, "token {id}, window {window:?}, end {end}");
                }
            }
        }
    }

    #[test]
    fn extreme_options_leave_logits_finite_and_in_order() {
        let mut counts = TokenCounts::new(None);
        (0..3).for_each(|id| counts.push(&[id]));
        let start = [8.0, 0.0, -3.0];
        let mut logits = start;
        repetition(&mut logits, &counts, f32::MIN_POSITIVE);
        assert_eq!(logits, [f32::MAX, 0.0, -3.0 * f32::MIN_POSITIVE]);
        let mut logits = start;
        repetition(&mut logits, &counts, f32::MAX);
        assert_eq!(logits, [8.0 / f32::MAX, 0.0, f32::MIN]);
        let mut logits = [f32::NEG_INFINITY, f32::NAN, f32::INFINITY];
        repetition(&mut logits, &counts, 2.0);
        assert_eq!((logits[0], logits[2]), (f32::NEG_INFINITY, f32::INFINITY));
        assert!(logits[1].is_nan(), "what the model did is not hidden");

        let mut logits = start;
        bias(&mut logits, &[(0, f32::MAX), (0, f32::MAX), (1, f32::MIN), (1, f32::MIN)]);
        bias(&mut logits, &[(2, f32::NEG_INFINITY), (2, f32::MAX)]);
        assert_eq!(logits, [f32::MAX, f32::MIN, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_window_of_zero_penalizes_nothing() {
        let mut counts = TokenCounts::new(Some(0));
        counts.push(&[1]);
        let mut logits = [1.0, 1.0];
        repetition(&mut logits, &counts, 2.0);
        assert_eq!(logits, [1.0, 1.0]);
    }
}
