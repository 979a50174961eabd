//! The same request is the same text; every sampling option acts or is refused.

use inference_core::{CapabilityId, GenerateOptions, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

const WITH_LOGITS: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Logits];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "sampling/greedy-deterministic",
        demand: "greedy generation gives the same tokens each time, and in another load",
        requires: REQUIRES,
        check: greedy_deterministic,
    },
    Behaviour {
        id: "sampling/same-seed",
        demand: "the same seed gives the same sample, and the completion reports it",
        requires: REQUIRES,
        check: same_seed,
    },
    Behaviour {
        id: "sampling/drawn-seed",
        demand: "a seed that was drawn is reported and reproduces the request",
        requires: REQUIRES,
        check: drawn_seed,
    },
    Behaviour {
        id: "sampling/seeds-differ",
        demand: "different seeds give different samples",
        requires: REQUIRES,
        check: seeds_differ,
    },
    Behaviour {
        id: "sampling/temperature",
        demand: "a low temperature samples what is almost as likely as the likeliest, a high one \
                 other tokens too",
        requires: WITH_LOGITS,
        check: temperature,
    },
    Behaviour {
        id: "sampling/narrowed-to-one",
        demand: "`top_k` of 1, a `top_p` or `min_p` that only the likeliest token meets, and \
                 temperature 0 all choose the likeliest token",
        requires: REQUIRES,
        check: narrowed,
    },
    Behaviour {
        id: "sampling/logit-bias",
        demand: "`logit_bias` of minus infinity forbids a token, a large one forces it",
        requires: REQUIRES,
        check: logit_bias,
    },
    Behaviour {
        id: "sampling/penalties",
        demand: "each penalty changes the logits of tokens that occurred, within `penalty_window`, \
                 by its formula",
        requires: WITH_LOGITS,
        check: penalties,
    },
    Behaviour {
        id: "sampling/truncations",
        demand: "`top_k`, `top_p`, `min_p` and `typical_p` each keep what their definitions say",
        requires: WITH_LOGITS,
        check: truncations,
    },
];

/// Hot enough that samples differ.
fn hot(tokens: usize) -> GenerateOptions {
    GenerateOptions::new().with_max_tokens(tokens).with_temperature(2.0)
}

fn greedy_deterministic(context: &Context) -> Check {
    let (model, again) = (context.model()?, context.load_with(|load| load)?);
    for prompt in context.prompts()? {
        let first = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?;
        let second = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?;
        let other = context.run(&*again, prompt, context.greedy(SOME)?)?;
        ensure_eq!(second.ids(), first.ids(), "tokens of the same greedy request");
        ensure_eq!(second.text(), first.text(), "text of the same greedy request");
        ensure_eq!(other.ids(), first.ids(), "tokens of the same request in another load");
    }
    Ok(Outcome::PASS)
}

fn same_seed(context: &Context) -> Check {
    let model = context.model()?;
    for (seed, prompt) in context.prompts()?.into_iter().enumerate() {
        let options = || hot(SOME).with_seed(seed as u64);
        let first = context.run_honoured(&*model, prompt.clone(), options())?;
        let second = context.run_honoured(&*model, prompt, options())?;
        ensure_eq!(second.ids(), first.ids(), "tokens of the seed {seed}, asked for twice");
        ensure_eq!(first.completion.seed, seed as u64, "the seed of the completion");
    }
    Ok(Outcome::PASS)
}

fn drawn_seed(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let drawn = context.run_honoured(&*model, prompt.clone(), hot(SOME))?;
    let options = hot(SOME).with_seed(drawn.completion.seed);
    let again = context.run_honoured(&*model, prompt, options)?;
    ensure_eq!(again.ids(), drawn.ids(), "tokens of the seed {}", drawn.completion.seed);
    Ok(Outcome::PASS)
}

fn seeds_differ(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let mut samples: Vec<Vec<TokenId>> = Vec::new();
    for seed in 0..8 {
        // As good as uniform, so that eight equal samples are no accident.
        let options = hot(SOME).with_temperature(100.0).with_seed(seed);
        samples.push(context.run_honoured(&*model, prompt.clone(), options)?.ids());
    }
    samples.dedup();
    ensure!(samples.len() > 1, "eight seeds gave the same {} tokens", samples[0].len());
    Ok(Outcome::PASS)
}

fn temperature(context: &Context) -> Check {
    // A token whose logit is lower by 40 times the temperature has e^-40 of the
    // likeliest one's probability.
    const LOW: f32 = 0.01;
    let model = context.model()?;
    let mut others = 0;
    for (seed, prompt) in context.prompts()?.into_iter().enumerate() {
        for temperature in [LOW, 100.0] {
            let options = context.greedy(2 * SOME)?.with_logits(true).with_seed(seed as u64);
            let options = options.with_temperature(temperature);
            for token in context.run_honoured(&*model, prompt.clone(), options)?.tokens {
                let Some(logits) = token.logits else { return fail("no logits") };
                let Some(own) = logits.get(token.id as usize) else { return fail("no logit") };
                let below = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) - own;
                ensure!(
                    temperature > LOW || below <= 40.0 * LOW,
                    "at the temperature {LOW} a token was sampled whose logit is {below} below \
                     the largest"
                );
                others += usize::from(temperature > LOW && below > 0.0);
            }
        }
    }
    ensure!(others > 0, "at the temperature 100 nothing but the likeliest tokens was sampled");
    Ok(Outcome::PASS)
}

fn narrowed(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let greedy = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids();
    let base = || -> Result<GenerateOptions, Stop> {
        Ok(context.greedy(SOME)?.with_temperature(1.0).with_seed(7))
    };
    for (what, options) in [
        ("top_k", base()?.with_top_k(1)),
        ("top_p", base()?.with_top_p(1e-6)),
        ("min_p", base()?.with_min_p(1.0)),
    ] {
        let found = context.run_honoured(&*model, prompt.clone(), options)?;
        ensure_eq!(found.ids(), greedy, "tokens with `{what}` narrowed to the likeliest");
    }
    Ok(Outcome::PASS)
}

fn logit_bias(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let greedy = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids();
    let Some(first) = greedy.first().copied() else {
        return crate::outcome::not_applicable("no prompt generates a token");
    };
    let options = context.greedy(SOME)?.with_logit_bias(first, f32::NEG_INFINITY);
    let without = context.run_honoured(&*model, prompt.clone(), options)?.ids();
    ensure!(!without.contains(&first), "the forbidden token {first} came");
    ensure!(!without.is_empty(), "nothing was generated");
    let other = without[0];
    let options = context.greedy(SOME)?.with_logit_bias(other, 1e6);
    let forced = context.run_honoured(&*model, prompt, options)?.ids();
    ensure_eq!(forced, vec![other; forced.len()], "tokens with {other} forced");
    Ok(Outcome::PASS)
}

type Penalty = fn(logit: f32, occurrences: usize) -> f32;

/// Each penalty alone, in its window, applied to the model's own logits.
fn penalties(context: &Context) -> Check {
    let model = context.model()?;
    let repeat: Penalty = |logit, _| if logit > 0.0 { logit / 1.8 } else { logit * 1.8 };
    let frequency: Penalty = |logit, occurrences| logit - 1.5 * occurrences as f32;
    let favour: Penalty = |logit, occurrences| logit + 1.5 * occurrences as f32;
    let presence: Penalty = |logit, _| logit - 2.0;
    let base =
        || -> Result<GenerateOptions, Stop> { Ok(context.greedy(2 * SOME)?.with_logits(true)) };
    let all: [(&str, GenerateOptions, Penalty, usize); 5] = [
        ("repeat_penalty", base()?.with_repeat_penalty(1.8), repeat, usize::MAX),
        ("frequency_penalty", base()?.with_frequency_penalty(1.5), frequency, usize::MAX),
        ("frequency_penalty", base()?.with_frequency_penalty(-1.5), favour, usize::MAX),
        ("presence_penalty", base()?.with_presence_penalty(2.0), presence, usize::MAX),
        ("penalty_window", base()?.with_repeat_penalty(1.8).with_penalty_window(4), repeat, 4),
    ];
    for prompt in context.prompts()?.into_iter().take(3) {
        for (what, options, penalty, window) in &all {
            let output = context.run_honoured(&*model, prompt.clone(), options.clone())?;
            let mut history = prompt.clone();
            for token in output.tokens {
                let Some(mut logits) = token.logits else { return fail("no logits") };
                let recent = &history[history.len().saturating_sub(*window)..];
                let mut seen = recent.to_vec();
                seen.sort_unstable();
                seen.dedup();
                for id in seen {
                    let occurrences = recent.iter().filter(|other| **other == id).count();
                    if let Some(logit) = logits.get_mut(id as usize) {
                        *logit = penalty(*logit, occurrences);
                    }
                }
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let Some(own) = logits.get(token.id as usize) else { return fail("no logit") };
                ensure!(
                    (largest - own).abs() <= 1e-4 * largest.abs().max(1.0),
                    "with `{what}` the token {} was chosen, whose penalized logit is {own}, the \
                     largest being {largest}",
                    token.id
                );
                history.push(token.id);
            }
        }
    }
    Ok(Outcome::PASS)
}

/// Whether the token of this rank (0 the likeliest) is kept, given all
/// probabilities in descending order.
type Kept = fn(probabilities: &[f64], rank: usize) -> bool;

/// What was sampled is among what each truncation keeps of the model's own
/// distribution.
fn truncations(context: &Context) -> Check {
    let model = context.model()?;
    // A little more than asked for: sums and borders are rounded.
    let top_p: Kept = |p, rank| p[..rank].iter().sum::<f64>() < 0.5 + 1e-3;
    let min_p: Kept = |p, rank| p[rank] >= 0.2 * p[0] - 1e-4;
    let top_k: Kept = |p, rank| p[rank] >= p[2.min(p.len() - 1)] - 1e-9;
    // Those whose information is nearest to the entropy, to a mass of 0.3.
    let typical: Kept = |p, rank| {
        let information = |p: f64| -p.max(1e-300).ln();
        let entropy: f64 = p.iter().map(|p| p * information(*p)).sum();
        let distance = |p: f64| (information(p) - entropy).abs();
        let own = distance(p[rank]);
        let nearer: f64 = p.iter().filter(|p| distance(**p) < own - 1e-3).sum();
        nearer < 0.3 + 1e-3
    };
    let base = |seed| -> Result<GenerateOptions, Stop> {
        Ok(context.greedy(2 * SOME)?.with_logits(true).with_temperature(1.0).with_seed(seed))
    };
    let prompt = context.prompts()?.swap_remove(0);
    for seed in 0..4 {
        let all: [(&str, GenerateOptions, Kept); 4] = [
            ("top_k", base(seed)?.with_top_k(3), top_k),
            ("top_p", base(seed)?.with_top_p(0.5), top_p),
            ("min_p", base(seed)?.with_min_p(0.2), min_p),
            ("typical_p", base(seed)?.with_typical_p(0.3), typical),
        ];
        for (what, options, kept) in all {
            for token in context.run_honoured(&*model, prompt.clone(), options)?.tokens {
                let Some(logits) = token.logits else { return fail("no logits") };
                let Some(own) = logits.get(token.id as usize) else { return fail("no logit") };
                let rank = logits.iter().filter(|logit| *logit > own).count();
                let mut sorted: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let (largest, mut sum) = (sorted[0], 0.0);
                for value in &mut sorted {
                    *value = (*value - largest).exp();
                    sum += *value;
                }
                for value in &mut sorted {
                    *value /= sum;
                }
                ensure!(
                    kept(&sorted, rank),
                    "with `{what}` the token of rank {rank} was sampled, of probability {}",
                    sorted[rank]
                );
            }
        }
    }
    Ok(Outcome::PASS)
}
