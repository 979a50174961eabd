//! The steps that remove unlikely tokens. Each leaves at least one, and each
//! takes the probabilities anew from what the one before it left.

use super::Candidates;

/// Keeps the `k` likeliest, and those as likely as the last of them; 0 keeps
/// all.
pub(super) fn top_k(candidates: &mut Candidates, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    let Some(last) = candidates.ranked(k - 1) else { return };
    let mut count = k;
    while candidates.ranked(count).is_some_and(|next| next.logit >= last.logit) {
        count += 1;
    }
    candidates.truncate(count);
}

/// Keeps the smallest set, likeliest first, whose probability reaches `p`
/// (Holtzman et al., "The Curious Case of Neural Text Degeneration").
pub(super) fn top_p(candidates: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    let target = f64::from(p) * candidates.total_weight();
    let mut cumulative = 0.0;
    let mut count = 0;
    while cumulative < target
        && let Some(next) = candidates.ranked(count)
    {
        cumulative += candidates.weight(&next);
        count += 1;
    }
    candidates.truncate(count.max(1));
}

/// Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al.,
/// "Turning Up the Heat: Min-p Sampling").
pub(super) fn min_p(candidates: &mut Candidates, p: f32) {
    // The likeliest has weight 1.
    keep_weights(candidates, f64::from(p));
}

/// Drops tokens less likely than `cutoff` (Hewitt et al., "Truncation Sampling
/// as Language Model Desmoothing").
pub(super) fn epsilon(candidates: &mut Candidates, cutoff: f32) {
    if cutoff > 0.0 {
        keep_weights(candidates, f64::from(cutoff) * candidates.total_weight());
    }
}

fn keep_weights(candidates: &mut Candidates, least: f64) {
    if least <= 0.0 {
        return;
    }
    let mut count = 1;
    while candidates.ranked(count).is_some_and(|next| candidates.weight(&next) >= least) {
        count += 1;
    }
    candidates.truncate(count);
}

/// Keeps the tokens whose information is nearest to the entropy, until their
/// probability reaches `p`, and those as near as the last of them (Meister et
/// al., "Locally Typical Sampling").
pub(super) fn typical_p(candidates: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    let normalizer = candidates.log_sum();
    let surprise = |logit: f64| normalizer - logit;
    let entropy: f64 =
        candidates.iter().map(|c| surprise(c.logit) * (-surprise(c.logit)).exp()).sum();
    let distance = |logit: f64| (surprise(logit) - entropy).abs();
    let mut by_distance: Vec<(f64, f64)> =
        candidates.iter().map(|c| (distance(c.logit), (-surprise(c.logit)).exp())).collect();
    by_distance.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut cumulative = 0.0;
    let mut farthest = 0.0;
    for (distance, probability) in by_distance {
        farthest = distance;
        cumulative += probability;
        if cumulative >= f64::from(p) {
            break;
        }
    }
    candidates.retain(|c| distance(c.logit) <= farthest);
}
