//! Drafted tokens change how fast a text comes, never which.

use inference_core::CapabilityId;

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME};
use crate::outcome::{Check, Outcome, ensure, ensure_eq};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::SpeculativeDecoding];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "speculation/equals-greedy",
        demand: "greedy tokens, texts and ends with `prompt_lookup` are those without",
        requires: REQUIRES,
        check: equals_greedy,
    },
    Behaviour {
        id: "speculation/seeded",
        demand: "a sample with `prompt_lookup` is reproduced by its seed",
        requires: REQUIRES,
        check: seeded,
    },
    Behaviour {
        id: "speculation/fewer-passes",
        demand: "a text that repeats itself takes fewer forward passes than tokens, and the \
                 metrics say how many drafts were accepted",
        requires: REQUIRES,
        check: fewer_passes,
    },
];

/// Prompts that repeat themselves, so that there is something to look up.
fn repeating(context: &Context) -> Result<Vec<Vec<u32>>, crate::outcome::Stop> {
    let room = context.model()?.info().context_len / 3;
    let repeat = |prompt: Vec<u32>| {
        let times = (room / prompt.len()).clamp(1, 4);
        prompt.repeat(times)
    };
    Ok(context.prompts()?.into_iter().map(repeat).collect())
}

fn equals_greedy(context: &Context) -> Check {
    let model = context.model()?;
    for prompt in repeating(context)? {
        let plain = context.run(&*model, prompt.clone(), context.greedy(4 * SOME)?)?;
        for lookup in [1, 4, 32] {
            let options = context.greedy(4 * SOME)?.with_prompt_lookup(lookup);
            let found = context.run_honoured(&*model, prompt.clone(), options)?;
            ensure_eq!(found.ids(), plain.ids(), "tokens with `prompt_lookup` of {lookup}");
            ensure_eq!(found.text(), plain.text(), "text with `prompt_lookup` of {lookup}");
            let (reason, generated) =
                (&found.completion.finish_reason, found.completion.metrics.generated_tokens);
            ensure_eq!(*reason, plain.completion.finish_reason, "the reason");
            ensure_eq!(generated, plain.completion.metrics.generated_tokens, "`generated_tokens`");
        }
        // A stop token among the drafts ends the text there.
        if let Some(stop) = plain.ids().get(SOME).copied() {
            let options = context.greedy(4 * SOME)?.with_stop_token(stop);
            let plain = context.run(&*model, prompt.clone(), options.clone())?;
            let found = context.run(&*model, prompt, options.with_prompt_lookup(8))?;
            ensure_eq!(found.ids(), plain.ids(), "tokens before a stop token");
            let reason = &plain.completion.finish_reason;
            ensure_eq!(found.completion.finish_reason, *reason, "the reason");
        }
    }
    Ok(Outcome::PASS)
}

fn seeded(context: &Context) -> Check {
    let model = context.model()?;
    for prompt in repeating(context)? {
        let options = context.greedy(2 * SOME)?.with_temperature(0.8).with_seed(11);
        let options = options.with_prompt_lookup(4);
        let first = context.run_honoured(&*model, prompt.clone(), options.clone())?;
        let second = context.run_honoured(&*model, prompt, options)?;
        ensure_eq!(second.ids(), first.ids(), "tokens of the same seed");
    }
    Ok(Outcome::PASS)
}

fn fewer_passes(context: &Context) -> Check {
    let model = context.model()?;
    // One token again and again: everything that is drafted comes true.
    let prompt = vec![context.prompts()?[0][0]; 8];
    let tokens = MANY.min(model.info().context_len - prompt.len() - 1);
    let options = context.greedy(tokens)?.with_logit_bias(prompt[0], 1e6).with_prompt_lookup(8);
    let before = model.metrics();
    let output = context.run_honoured(&*model, prompt.clone(), options)?;
    context.wait_idle(&*model)?;
    let after = model.metrics();
    ensure_eq!(output.ids(), vec![prompt[0]; tokens], "tokens, one being forced");
    let passes = after.forward_count - before.forward_count;
    ensure!(passes < tokens as u64, "{tokens} tokens took {passes} forward passes");
    let metrics = output.completion.metrics;
    ensure!(
        0 < metrics.accepted_draft_tokens && metrics.accepted_draft_tokens <= metrics.draft_tokens,
        "{} of {} drafted tokens accepted",
        metrics.accepted_draft_tokens,
        metrics.draft_tokens
    );
    ensure_eq!(
        after.draft_tokens - before.draft_tokens,
        metrics.draft_tokens as u64,
        "drafted tokens of the model's metrics"
    );
    ensure_eq!(
        after.accepted_draft_tokens - before.accepted_draft_tokens,
        metrics.accepted_draft_tokens as u64,
        "accepted tokens of the model's metrics"
    );
    Ok(Outcome::PASS)
}
