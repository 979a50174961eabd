//! What the prefix cache had changes what a prompt costs, never the answer.

use inference_core::{CapabilityId, ClassifyOptions};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, worst_difference};
use crate::outcome::{Check, Outcome, ensure, ensure_eq};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::PrefixCache];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "prefix-cache/equality",
        demand: "a prompt that the prefix cache had answers as one that it had not",
        requires: REQUIRES,
        check: equality,
    },
    Behaviour {
        id: "prefix-cache/skips",
        demand: "a prompt that begins as an earlier one skips what is cached, and says how much",
        requires: REQUIRES,
        check: skips,
    },
    Behaviour {
        id: "prefix-cache/off",
        demand: "with `prefix_cache` off nothing is reused",
        requires: REQUIRES,
        check: off,
    },
    Behaviour {
        id: "prefix-cache/eviction",
        demand: "cached prefixes make room for requests that need it, and answers stay the same",
        requires: REQUIRES,
        check: eviction,
    },
];

/// Long enough for blocks of any usual size.
fn length(context: &Context) -> Result<usize, crate::outcome::Stop> {
    Ok((context.model()?.info().context_len / 2).min(300))
}

fn equality(context: &Context) -> Check {
    let (cached, plain) = (
        context.load_with(|l| l.with_prefix_cache(true))?,
        context.load_with(|l| l.with_prefix_cache(false))?,
    );
    let logits = context.backend().capabilities().status(CapabilityId::Logits).is_usable();
    for cut in [0, 1, 7, 64] {
        let length = length(context)?;
        let mut prompt = context.long_prompt(length, 0)?;
        // The same beginning, another end.
        let end = context.long_prompt(cut.min(length), 5)?;
        prompt.truncate(length - end.len());
        prompt.extend(end);
        let options = context.greedy(SOME)?;
        let options = if logits { options.with_logits(true) } else { options };
        let expected = context.run(&*plain, prompt.clone(), options.clone())?;
        for round in 0..2 {
            let found = context.run(&*cached, prompt.clone(), options.clone())?;
            let had = found.completion.metrics.cached_prompt_tokens;
            let what = format!("{had} of {length} tokens cached, in round {round}");
            ensure_eq!(found.ids(), expected.ids(), "tokens, {what}");
            ensure_eq!(found.text(), expected.text(), "text, {what}");
            for (found, expected) in found.tokens.iter().zip(&expected.tokens) {
                let (Some(found), Some(expected)) = (&found.logits, &expected.logits) else {
                    continue;
                };
                let difference = worst_difference(found, expected);
                ensure!(
                    difference <= context.data().company_tolerance,
                    "logits differ by {difference:e}, {what}"
                );
            }
        }
    }
    Ok(Outcome::PASS)
}

fn skips(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_prefix_cache(true))?;
    let length = length(context)?;
    let prompt = context.long_prompt(length, 0)?;
    let first = context.run(&*model, prompt.clone(), context.greedy(1)?)?;
    ensure_eq!(first.completion.metrics.cached_prompt_tokens, 0, "cached tokens of the first");
    context.wait_idle(&*model)?;
    let before = model.metrics();
    let again = context.run(&*model, prompt.clone(), context.greedy(1)?)?;
    context.wait_idle(&*model)?;
    let (metrics, after) = (again.completion.metrics, model.metrics());
    let cached = metrics.cached_prompt_tokens;
    ensure!(cached > 0, "of {length} tokens that were computed before, none was cached");
    ensure!(cached < length, "{cached} of {length} tokens cached: the last has to be computed");
    ensure_eq!(metrics.prompt_tokens, length, "`prompt_tokens`, cached ones included");
    let of_model = after.cached_prompt_tokens - before.cached_prompt_tokens;
    ensure_eq!(of_model, cached as u64, "cached tokens of the model's metrics");
    let computed = after.prompt_tokens - before.prompt_tokens;
    ensure_eq!(computed, (length - cached) as u64, "tokens computed, by the model's metrics");
    // Only the beginning counts: the same tokens elsewhere are not the same.
    let shifted = context.long_prompt(length, 1)?;
    if shifted[..8] != prompt[..8] {
        let other = context.run(&*model, shifted, context.greedy(1)?)?;
        let cached = other.completion.metrics.cached_prompt_tokens;
        ensure_eq!(cached, 0, "cached tokens of a prompt that begins differently");
    }
    // For every kind of request.
    if context.backend().capabilities().status(CapabilityId::Classify).is_usable() {
        let before = model.metrics().cached_prompt_tokens;
        for result in model.classify(vec![prompt.into()], &ClassifyOptions::new())? {
            result?;
        }
        let had = model.metrics().cached_prompt_tokens - before;
        ensure!(had > 0, "a classification of a cached prompt computed all of it");
    }
    Ok(Outcome::PASS)
}

fn off(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_prefix_cache(false))?;
    let prompt = context.long_prompt(length(context)?, 0)?;
    for _ in 0..2 {
        let output = context.run(&*model, prompt.clone(), context.greedy(1)?)?;
        ensure_eq!(output.completion.metrics.cached_prompt_tokens, 0, "cached tokens");
    }
    ensure_eq!(model.metrics().cached_prompt_tokens, 0, "cached tokens of the model's metrics");
    Ok(Outcome::PASS)
}

fn eviction(context: &Context) -> Check {
    let length = length(context)?;
    // A pool that holds little more than one of the prompts.
    let model = context.load_with(|load| {
        let load = load.with_prefix_cache(true).with_parallel_slots(1);
        load.with_context_len(length + 2 * SOME)
    })?;
    let mut expected = Vec::new();
    // More prompts than the pool holds, each different from its first token.
    let pool = model.metrics().kv_blocks_total;
    for salt in 0..6 {
        let prompt = context.long_prompt(length, salt)?;
        expected.push(context.run(&*model, prompt, context.greedy(SOME)?)?.ids());
    }
    for (salt, expected) in expected.iter().enumerate() {
        let prompt = context.long_prompt(length, salt)?;
        let found = context.run(&*model, prompt, context.greedy(SOME)?)?.ids();
        ensure_eq!(found, *expected, "tokens of prompt {salt}, asked for again");
    }
    context.wait_idle(&*model)?;
    let metrics = model.metrics();
    ensure_eq!(metrics.kv_blocks_total, pool, "KV blocks in the pool");
    ensure_eq!(metrics.kv_blocks_used, 0, "KV blocks in use when nothing runs");
    Ok(Outcome::PASS)
}
