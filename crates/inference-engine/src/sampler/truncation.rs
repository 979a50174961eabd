//! The steps that remove unlikely tokens. Each leaves at least one, and each
//! takes the probabilities anew from what the one before it left.

use super::Candidates;

/// Keeps the smallest set, likeliest first, whose probability reaches `p`
/// (Holtzman et al., "The Curious Case of Neural Text Degeneration").
pub(super) fn top_p(candidates: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    candidates.keep_weight(f64::from(p) * candidates.total_weight());
}

/// Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al.,
/// "Turning Up the Heat: Min-p Sampling").
pub(super) fn min_p(candidates: &mut Candidates, p: f32) {
    // The likeliest has weight 1.
    candidates.keep_weights(f64::from(p));
}

/// Drops tokens less likely than `cutoff` (Hewitt et al., "Truncation Sampling
/// as Language Model Desmoothing").
pub(super) fn epsilon(candidates: &mut Candidates, cutoff: f32) {
    if cutoff > 0.0 {
        candidates.keep_weights(f64::from(cutoff) * candidates.total_weight());
    }
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
    let farthest = distance_that_reaches(&mut by_distance, f64::from(p));
    candidates.retain(|c| distance(c.logit) <= farthest);
}

/// The least distance within which probabilities reach `p`; the largest where
/// all of them do not. Items are `(distance, probability)`, at least one.
fn distance_that_reaches(mut items: &mut [(f64, f64)], p: f64) -> f64 {
    let (mut within, mut farthest) = (0.0, 0.0);
    while !items.is_empty() {
        let half = items.len() / 2;
        let (near, middle, far) = items.select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0));
        let sum = within + near.iter().map(|c| c.1).sum::<f64>();
        if sum >= p && !near.is_empty() {
            items = near;
            continue;
        }
        (within, farthest) = (sum + middle.1, middle.0);
        if within >= p {
            break;
        }
        items = far;
    }
    farthest
}
