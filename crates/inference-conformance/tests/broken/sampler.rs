//! Logits to a token: bias, penalties, temperature, truncation, a draw.

use inference_core::{GenerateOptions, Token, TokenId, TokenLogprob};

use crate::defect::{Defect, Flaw};
use crate::language::{mix, unit};
use crate::vocabulary::decode;

/// The logits with bias and penalties: what log-probabilities are of.
pub(crate) fn processed(
    logits: &[f32],
    options: &GenerateOptions,
    history: &[TokenId],
    flaw: Flaw,
) -> Vec<f32> {
    let mut logits = logits.to_vec();
    for (id, bias) in &options.logit_bias {
        if !flaw.is(Defect::BiasIgnored) {
            logits[*id as usize] += bias;
        }
    }
    let window = options.penalty_window.unwrap_or(usize::MAX).min(history.len());
    let window = if flaw.is(Defect::WindowIgnored) { history.len() } else { window };
    let mut counts = vec![0usize; logits.len()];
    for id in &history[history.len() - window..] {
        counts[*id as usize] += 1;
    }
    let repeat = options.repeat_penalty.unwrap_or(1.0);
    let frequency = options.frequency_penalty.unwrap_or(0.0);
    let presence = options.presence_penalty.unwrap_or(0.0);
    for (logit, count) in logits.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
        if !flaw.is(Defect::RepeatPenaltyIgnored) {
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
        }
        if !flaw.is(Defect::FrequencyPenaltyIgnored) {
            *logit -= frequency * count as f32;
        }
        if !flaw.is(Defect::PresencePenaltyIgnored) {
            *logit -= presence;
        }
    }
    logits
}

pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - top).exp()).sum();
    logits.iter().map(|l| l - top - sum.ln()).collect()
}

/// Ids in descending order of their logits, ties by ascending id.
pub(crate) fn ranked(logits: &[f32]) -> Vec<TokenId> {
    let mut ids: Vec<TokenId> = (0..logits.len() as TokenId).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    ids
}

/// Chooses a token; `allowed` takes part.
pub(crate) fn choose(
    logits: &[f32],
    options: &GenerateOptions,
    seed: u64,
    index: usize,
    allowed: impl Fn(TokenId) -> bool,
    flaw: Flaw,
) -> TokenId {
    let mut ids = ranked(logits);
    ids.retain(|id| allowed(*id) && logits[*id as usize] > f32::NEG_INFINITY);
    let temperature = options.temperature.unwrap_or(0.0);
    if temperature == 0.0 || ids.len() < 2 {
        return ids.first().copied().unwrap_or(0);
    }
    let temperature = if flaw.is(Defect::TemperatureIgnored) { 1.0 } else { temperature };
    if let Some(k @ 1..) = options.top_k.filter(|_| !flaw.is(Defect::TopKIgnored)) {
        ids.truncate(k);
    }
    let weight =
        |id: TokenId| f64::from((logits[id as usize] - logits[ids[0] as usize]) / temperature);
    let mut p: Vec<(TokenId, f64)> = ids.iter().map(|id| (*id, weight(*id).exp())).collect();
    normalize(&mut p);
    if let Some(top_p) = options.top_p.filter(|_| !flaw.is(Defect::TopPIgnored)) {
        let mut sum = 0.0;
        let below = |(_, p): &&(TokenId, f64)| {
            let keep = sum < f64::from(top_p);
            sum += p;
            keep
        };
        let keep = p.iter().take_while(below).count();
        p.truncate(keep.max(1));
        normalize(&mut p);
    }
    if let Some(min_p) = options.min_p.filter(|_| !flaw.is(Defect::MinPIgnored)) {
        let top = p[0].1;
        p.retain(|(_, p)| *p >= f64::from(min_p) * top);
        normalize(&mut p);
    }
    if let Some(mass) =
        options.typical_p.filter(|mass| *mass < 1.0 && !flaw.is(Defect::TypicalPIgnored))
    {
        let entropy: f64 = p.iter().map(|(_, p)| -p * p.ln()).sum();
        let distance = |p: f64| (-p.ln() - entropy).abs();
        p.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        let mut sum = 0.0;
        let keep = p
            .iter()
            .take_while(|(_, p)| {
                let keep = sum < f64::from(mass);
                sum += p;
                keep
            })
            .count();
        p.truncate(keep.max(1));
        p.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        normalize(&mut p);
    }
    let seed = if flaw.is(Defect::SeedConstant) { 0 } else { seed };
    let mut left = unit(mix(seed ^ mix(index as u64)));
    for (id, p) in &p {
        left -= p;
        if left < 0.0 {
            return *id;
        }
    }
    p[p.len() - 1].0
}

fn normalize(p: &mut [(TokenId, f64)]) {
    let sum: f64 = p.iter().map(|(_, p)| p).sum();
    p.iter_mut().for_each(|(_, p)| *p /= sum);
}

/// The token with what the options ask to be told of it.
pub(crate) fn report(
    id: TokenId,
    raw: &[f32],
    processed: &[f32],
    options: &GenerateOptions,
    flaw: Flaw,
) -> Token {
    let mut token = Token::new(id, "");
    if let Some(alternatives) = options.logprobs {
        let logprobs = log_softmax(processed);
        token.logprob = Some(logprobs[id as usize]);
        if flaw.is(Defect::LogprobsUnnormalized) {
            token.logprob = Some(processed[id as usize]);
        }
        let mut ids = ranked(&logprobs);
        let missing = usize::from(flaw.is(Defect::AlternativeMissing));
        ids.truncate(alternatives.saturating_sub(missing));
        if flaw.is(Defect::AlternativesUnsorted) {
            ids.reverse();
        }
        let alternative = |id: TokenId| {
            let text = decode(&[id], false, flaw).unwrap_or_default();
            TokenLogprob::new(id, text, logprobs[id as usize])
        };
        token.top_logprobs = ids.into_iter().map(alternative).collect();
    }
    if options.logits == Some(true) || flaw.is(Defect::LogitsUnasked) {
        let told = if flaw.is(Defect::LogitsProcessed) { processed } else { raw };
        token.logits = Some(told.to_vec());
    }
    token
}
