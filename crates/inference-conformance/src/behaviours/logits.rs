//! Logits are the reference's, wherever they are asked for.

use inference_core::{CapabilityId, LogitRows};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, worst_difference};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail, not_applicable};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Logits];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "logits/parity",
        demand: "logits after a prompt are the reference's, within the tolerance",
        requires: REQUIRES,
        check: parity,
    },
    Behaviour {
        id: "logits/greedy-parity",
        demand: "greedy tokens are the reference's, as long as the tolerance cannot turn the order",
        requires: &[CapabilityId::Load, CapabilityId::Generate],
        check: greedy_parity,
    },
    Behaviour {
        id: "logits/every-position",
        demand: "a scorer reports one row per position, the last being that of the last position",
        requires: REQUIRES,
        check: every_position,
    },
    Behaviour {
        id: "logits/on-demand",
        demand: "`logits` come with each generated token where they are asked for, its own the \
                 largest when it is greedy, and else not at all",
        requires: REQUIRES,
        check: on_demand,
    },
    Behaviour {
        id: "logits/decode-equals-prefill",
        demand: "the logits of a generated position are those of the same position of a prompt",
        requires: REQUIRES,
        check: decode_equals_prefill,
    },
    Behaviour {
        id: "logits/logprobs",
        demand: "log-probabilities come best first, as many as asked for, and the token's own is \
                 among the likeliest when it is greedy",
        requires: &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Logprobs],
        check: logprobs,
    },
    Behaviour {
        id: "logits/logprobs-of-logits",
        demand: "log-probabilities are the logarithm of the softmax of the logits",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::Logits,
            CapabilityId::Logprobs,
        ],
        check: logprobs_of_logits,
    },
];

fn parity(context: &Context) -> Check {
    let (model, tolerance) = (context.model()?, context.data().tolerance);
    let mut worst: Option<f32> = None;
    let Some(scorer) = model.as_scorer() else { return fail("`as_scorer` is `None`") };
    for reference in &context.data().references {
        if reference.last_logits.is_empty() {
            continue;
        }
        let found = scorer.prompt_logits(reference.prompt.clone().into(), LogitRows::Last)?;
        ensure_eq!(found.vocab_size, reference.last_logits.len(), "`vocab_size`");
        let difference = worst_difference(&found.values, &reference.last_logits);
        ensure!(
            difference <= tolerance,
            "logits after {} tokens differ by {difference:e} from the reference, {tolerance:e} \
             allowed",
            reference.prompt.len()
        );
        worst = Some(worst.unwrap_or(0.0).max(difference));
    }
    match worst {
        Some(_) => Ok(Outcome::Pass { worst_logit_difference: worst }),
        None => not_applicable("no reference logits are known"),
    }
}

fn greedy_parity(context: &Context) -> Check {
    let model = context.model()?;
    let mut compared = 0;
    for reference in &context.data().references {
        let sure = reference.margins.iter().take_while(|m| **m > 2.0 * context.data().tolerance);
        let sure = if reference.margins.is_empty() {
            reference.greedy.len()
        } else {
            sure.count().min(reference.greedy.len())
        };
        if sure == 0 {
            continue;
        }
        let options = context.greedy(sure)?;
        let found = context.run(&*model, reference.prompt.clone(), options)?.ids();
        let expected = &reference.greedy[..sure];
        ensure_eq!(
            found,
            expected,
            "greedy tokens after {} tokens of prompt",
            reference.prompt.len()
        );
        compared += sure;
    }
    if compared == 0 {
        return not_applicable("no greedy ids of a reference are known");
    }
    Ok(Outcome::PASS)
}

fn every_position(context: &Context) -> Check {
    let model = context.model()?;
    let Some(scorer) = model.as_scorer() else { return fail("`as_scorer` is `None`") };
    for prompt in context.prompts()? {
        let all = scorer.prompt_logits(prompt.clone().into(), LogitRows::All)?;
        let last = scorer.prompt_logits(prompt.clone().into(), LogitRows::Last)?;
        ensure_eq!(all.vocab_size, model.info().vocab_size, "`vocab_size`");
        ensure_eq!(all.rows().len(), prompt.len(), "rows");
        ensure_eq!(last.rows().len(), 1, "rows of the last position");
        let (Some(expected), Some(found)) = (all.rows().last(), last.rows().next()) else {
            return fail("no rows");
        };
        ensure_close(context, found, expected, "the last position, alone and among all")?;
        if context.data().length_changes_positions {
            continue;
        }
        // Causal: what follows changes nothing before it.
        let half = prompt.len().div_ceil(2);
        let begun = scorer.prompt_logits(prompt[..half].to_vec().into(), LogitRows::Last)?;
        let Some(row) = all.rows().nth(half - 1) else { return fail("too few rows") };
        ensure_close(context, &begun.values, row, "a position, with and without what follows")?;
    }
    Ok(Outcome::PASS)
}

fn ensure_close(
    context: &Context,
    found: &[f32],
    expected: &[f32],
    what: &str,
) -> Result<(), Stop> {
    let (difference, allowed) =
        (worst_difference(found, expected), context.data().company_tolerance);
    ensure!(
        difference <= allowed,
        "logits of {what} differ by {difference:e}, {allowed:e} allowed"
    );
    Ok(())
}

fn on_demand(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let without = context.run(&*model, prompts[0].clone(), context.greedy(SOME)?)?;
    ensure!(
        without.tokens.iter().all(|token| token.logits.is_none()),
        "logits that were not asked for"
    );
    let options = context.greedy(SOME)?.with_logits(true);
    let with = context.run(&*model, prompts[0].clone(), options)?;
    ensure_eq!(with.ids(), without.ids(), "tokens with logits");
    for token in &with.tokens {
        let Some(logits) = &token.logits else { return fail("a token without logits") };
        ensure_eq!(logits.len(), model.info().vocab_size, "logits of a token");
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let own = logits.get(token.id as usize).copied();
        ensure_eq!(own, Some(largest), "the greedy token's logit, against the largest");
    }
    Ok(Outcome::PASS)
}

fn decode_equals_prefill(context: &Context) -> Check {
    let model = context.model()?;
    let Some(scorer) = model.as_scorer() else { return fail("`as_scorer` is `None`") };
    for prompt in context.prompts()? {
        let options = context.greedy(SOME)?.with_logits(true);
        let output = context.run(&*model, prompt.clone(), options)?;
        let mut whole = prompt.clone();
        whole.extend(output.ids());
        let rows = scorer.prompt_logits(whole.into(), LogitRows::All)?;
        for (token, row) in output.tokens.iter().zip(rows.rows().skip(prompt.len() - 1)) {
            let Some(logits) = &token.logits else { return fail("a token without logits") };
            ensure_close(context, logits, row, "a position, generated and as part of a prompt")?;
        }
    }
    Ok(Outcome::PASS)
}

fn logprobs(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    for wanted in [0, 1, 5] {
        let options = context.greedy(SOME)?.with_logprobs(wanted);
        let output = context.run(&*model, prompts[0].clone(), options)?;
        ensure!(!output.tokens.is_empty(), "no tokens");
        for token in &output.tokens {
            let Some(own) = token.logprob else { return fail("a token without `logprob`") };
            ensure!(own <= 0.0, "a log-probability of {own}");
            let alternatives = &token.top_logprobs;
            ensure_eq!(alternatives.len(), wanted.min(model.info().vocab_size), "alternatives");
            ensure!(
                alternatives.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob),
                "alternatives are not sorted: {alternatives:?}"
            );
            if let Some(best) = alternatives.first() {
                ensure_eq!(best.logprob, own, "the best alternative, against the greedy token");
            }
        }
    }
    let plain = context.run(&*model, prompts[0].clone(), context.greedy(SOME)?)?;
    ensure!(
        plain.tokens.iter().all(|t| t.logprob.is_none() && t.top_logprobs.is_empty()),
        "log-probabilities that were not asked for"
    );
    Ok(Outcome::PASS)
}

fn logprobs_of_logits(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    for prompt in prompts {
        let options = context.greedy(SOME)?.with_logits(true).with_logprobs(5);
        for token in context.run(&*model, prompt, options)?.tokens {
            let Some(logits) = &token.logits else { return fail("a token without logits") };
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
            let expected = |id: u32| -> Option<f64> {
                Some(f64::from(logits.get(id as usize)? - largest) - sum.ln())
            };
            let own = token.logprob.map(|logprob| (token.id, logprob));
            let all = token.top_logprobs.iter().map(|other| (other.id, other.logprob)).chain(own);
            for (id, found) in all {
                let Some(expected) = expected(id) else { return fail("an unknown alternative") };
                ensure!(
                    (f64::from(found) - expected).abs() < 1e-3,
                    "the log-probability of {id} is {found}, by the logits {expected}"
                );
            }
        }
    }
    Ok(Outcome::PASS)
}
