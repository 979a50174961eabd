//! Whoever asks a request to end is heard within one step.

use std::time::Instant;

use inference_core::{CancelToken, CapabilityId, FinishReason, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, Output, honoured, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "cancel/before-prefill",
        demand: "a request that is cancelled before it is read ends as `Cancelled` and computes \
                 nothing",
        requires: REQUIRES,
        check: before_prefill,
    },
    Behaviour {
        id: "cancel/inside-prefill",
        demand: "cancelling while a prompt is computed ends it within one step",
        requires: REQUIRES,
        check: inside_prefill,
    },
    Behaviour {
        id: "cancel/mid-decode",
        demand: "cancelling a running stream ends it as `Cancelled`, its tokens being the first \
                 of those that it would have had, and frees what it held",
        requires: REQUIRES,
        check: mid_decode,
    },
    Behaviour {
        id: "cancel/by-token",
        demand: "a `CancelToken` ends every request that holds it, and no other",
        requires: REQUIRES,
        check: by_token,
    },
    Behaviour {
        id: "cancel/by-deadline",
        demand: "a deadline that has passed ends a request as `Deadline`",
        requires: REQUIRES,
        check: by_deadline,
    },
    Behaviour {
        id: "cancel/batch",
        demand: "cancelling a batch ends every item that still runs as `Cancelled`",
        requires: &[CapabilityId::Load, CapabilityId::BatchGenerate],
        check: batch,
    },
];

fn ensure_cancelled(output: &Output) -> Result<(), Stop> {
    ensure_eq!(output.completion.finish_reason, FinishReason::Cancelled, "the reason");
    Ok(())
}

fn before_prefill(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let mut stream = model.generate(prompts[0].clone().into(), context.greedy(4)?)?;
    stream.cancel();
    let by_stream = read(stream)?;
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = context.greedy(4)?.with_cancel(cancel);
    let by_token = context.run_honoured(&*model, prompts[0].clone(), options)?;
    for output in [by_stream, by_token] {
        ensure_cancelled(&output)?;
        ensure_eq!(output.tokens.len(), 0, "tokens");
        ensure_eq!(output.completion.metrics.generated_tokens, 0, "`generated_tokens`");
    }
    ensure_eq!(model.metrics().forward_count, 0, "forward passes");
    context.wait_idle(&*model)?;
    Ok(Outcome::PASS)
}

fn inside_prefill(context: &Context) -> Check {
    // Few tokens per step make many steps of a prompt.
    const BUDGET: usize = 2;
    // Whether the cancellation comes inside the prefill is up to chance.
    const TRIES: usize = 20;
    let model =
        context.load_with(|load| load.with_parallel_slots(1).with_step_token_budget(BUDGET))?;
    let length = model.info().context_len.saturating_sub(2).min(2000);
    let steps = length.div_ceil(BUDGET) as u64;
    for salt in 0..TRIES {
        let prompt = context.long_prompt(length, salt)?;
        let before = model.metrics();
        let mut stream = honoured(model.generate(prompt.into(), context.greedy(1)?))?;
        stream.start();
        context.wait_until("a started prompt is computed", || {
            model.metrics().forward_count > before.forward_count
        })?;
        stream.cancel();
        let asked = model.metrics().forward_count - before.forward_count;
        let output = read(stream)?;
        context.wait_idle(&*model)?;
        let after = model.metrics();
        let ended = after.forward_count - before.forward_count;
        ensure_eq!(after.kv_blocks_used, before.kv_blocks_used, "KV blocks in use afterwards");
        // One step may have been under way, and one may have begun before the
        // count was read.
        if asked + 2 < steps {
            ensure_cancelled(&output)?;
            ensure_eq!(output.tokens.len(), 0, "tokens of a prompt that was not computed");
            ensure!(
                ended <= asked + 2,
                "cancelled after {asked} of {steps} steps, it was computed for {ended}"
            );
            return Ok(Outcome::PASS);
        }
    }
    not_applicable(format!("{length} tokens are computed before a cancellation can come"))
}

fn mid_decode(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let whole = context.run(&*model, prompt.clone(), options.clone())?;
    context.wait_idle(&*model)?;
    let baseline = model.metrics();
    let mut stream = model.generate(prompt.into(), options)?;
    let mut ids: Vec<TokenId> = Vec::new();
    for _ in 0..3 {
        match stream.next() {
            Some(token) => ids.push(token?.id),
            None => return fail("the stream ended early"),
        }
    }
    stream.cancel();
    let output = read(stream)?;
    ids.extend(output.ids());
    ensure_cancelled(&output)?;
    ensure!(ids.len() < tokens, "all {tokens} tokens came although 3 were read before it ended");
    ensure!(whole.ids().starts_with(&ids), "its tokens are not the first of those it would have");
    context.wait_idle(&*model)?;
    let after = model.metrics();
    ensure_eq!(after.kv_blocks_used, baseline.kv_blocks_used, "KV blocks in use afterwards");
    ensure_eq!(after.active_bytes, baseline.active_bytes, "bytes held afterwards");
    Ok(Outcome::PASS)
}

fn by_token(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let cancel = CancelToken::new();
    let held = options.clone().with_cancel(cancel.clone());
    let mut first = honoured(model.generate(prompt.clone().into(), held.clone()))?;
    let mut second = honoured(model.generate(prompt.clone().into(), held))?;
    let mut other = model.generate(prompt.into(), options)?;
    for stream in [&mut first, &mut second, &mut other] {
        ensure!(matches!(stream.next(), Some(Ok(_))), "no token");
    }
    cancel.cancel();
    ensure_cancelled(&read(first)?)?;
    ensure_cancelled(&read(second)?)?;
    let other = read(other)?;
    ensure_eq!(other.completion.finish_reason, FinishReason::Length, "the reason of the other");
    ensure_eq!(other.tokens.len() + 1, tokens, "tokens of a request that does not hold the token");
    Ok(Outcome::PASS)
}

fn by_deadline(context: &Context) -> Check {
    let (model, prompts) = (context.model()?, context.prompts()?);
    let passed = context.greedy(4)?.with_deadline(Instant::now());
    let output = context.run_honoured(&*model, prompts[0].clone(), passed)?;
    ensure_eq!(output.completion.finish_reason, FinishReason::Deadline, "the reason");
    ensure_eq!(output.tokens.len(), 0, "tokens after the deadline");
    let far = Instant::now() + std::time::Duration::from_secs(86_400);
    let options = context.greedy(4)?;
    let expected = context.run(&*model, prompts[0].clone(), options.clone())?;
    let in_time = context.run(&*model, prompts[0].clone(), options.with_deadline(far))?;
    ensure_eq!(in_time.ids(), expected.ids(), "tokens before a deadline that is far");
    Ok(Outcome::PASS)
}

fn batch(context: &Context) -> Check {
    use inference_core::{BatchItem, TokenEvent};
    let model = context.model()?;
    let (prompt, options, _) = context.long_request(MANY)?;
    let item = || BatchItem::new(prompt.clone()).with_options(options.clone());
    let mut stream = model.batch_generate(vec![item(), item(), item()])?;
    let mut events = Vec::new();
    events.extend(stream.next());
    stream.cancel();
    events.extend(stream);
    let mut ends = 0;
    for (index, event) in events {
        match event {
            TokenEvent::Finished(completion) => {
                ensure_eq!(
                    completion.finish_reason,
                    FinishReason::Cancelled,
                    "the reason of item {index}"
                );
                ends += 1;
            }
            TokenEvent::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    ensure_eq!(ends, 3, "items that ended");
    context.wait_idle(&*model)?;
    Ok(Outcome::PASS)
}
