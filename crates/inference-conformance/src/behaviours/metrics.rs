//! What is measured adds up.

use std::time::Duration;

use inference_core::{BatchItem, CapabilityId, CapabilityId::Generate, CapabilityId::Load};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] = &[Load, Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "metrics/request",
        demand: "a request's tokens are counted and its times add up",
        requires: REQUIRES,
        check: request,
    },
    Behaviour {
        id: "metrics/totals",
        demand: "the model's totals are the sums of its requests'",
        requires: REQUIRES,
        check: totals,
    },
    Behaviour {
        id: "metrics/histograms",
        demand: "every request is in the histogram of times to first token, every further token \
                 in that of inter-token latencies",
        requires: REQUIRES,
        check: histograms,
    },
    Behaviour {
        id: "metrics/steps",
        demand: "every computed token is part of a forward pass",
        requires: &[Load, Generate, CapabilityId::ContinuousBatching],
        check: steps,
    },
    Behaviour {
        id: "metrics/bytes",
        demand: "bytes held and their peak are told, the peak never below what is held",
        requires: REQUIRES,
        check: bytes,
    },
    Behaviour {
        id: "metrics/cancelled",
        demand: "requests that end early are counted as ended and not as failed",
        requires: REQUIRES,
        check: cancelled,
    },
];

fn request(context: &Context) -> Check {
    let model = context.model()?;
    for prompt in context.prompts()? {
        let output = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?;
        let m = output.completion.metrics;
        ensure_eq!(m.prompt_tokens, prompt.len(), "`prompt_tokens`");
        let ending = m.generated_tokens.checked_sub(output.tokens.len());
        ensure!(
            matches!(ending, Some(0 | 1)),
            "{} tokens came, `generated_tokens` is {}",
            output.tokens.len(),
            m.generated_tokens
        );
        let Some(ttft) = m.ttft else { return fail("no `ttft` although a token was generated") };
        // Sums of rounded times.
        let rounding = Duration::from_millis(1);
        let first = m.queue_time + m.prefill_time;
        ensure!(
            ttft.abs_diff(first) <= rounding,
            "`ttft` is {ttft:?}, `queue_time` and `prefill_time` are {first:?}"
        );
        ensure!(
            ttft + m.decode_time <= m.total_time + rounding,
            "`ttft` {ttft:?} and `decode_time` {:?} exceed `total_time` {:?}",
            m.decode_time,
            m.total_time
        );
        let computed = m.prompt_tokens - m.cached_prompt_tokens.min(m.prompt_tokens);
        let rate = m.prefill_tokens_per_sec() * m.prefill_time.as_secs_f64();
        ensure!(
            m.prefill_time.is_zero() || (rate - computed as f64).abs() < 1e-6 * rate.max(1.0),
            "`prefill_tokens_per_sec` is not {computed} tokens by `prefill_time`"
        );
    }
    Ok(Outcome::PASS)
}

fn totals(context: &Context) -> Check {
    let model = context.model()?;
    let (mut requests, mut prompt_tokens, mut cached, mut generated) = (0, 0, 0, 0);
    let mut count = |metrics: &inference_core::GenerateMetrics| {
        requests += 1;
        prompt_tokens += metrics.prompt_tokens as u64;
        cached += metrics.cached_prompt_tokens as u64;
        generated += metrics.generated_tokens as u64;
    };
    for prompt in context.prompts()? {
        count(&context.run(&*model, prompt, context.greedy(SOME)?)?.completion.metrics);
    }
    if context.backend().capabilities().status(CapabilityId::BatchGenerate).is_usable() {
        let mut items = Vec::new();
        for prompt in context.prompts()? {
            items.push(BatchItem::new(prompt).with_options(context.greedy(SOME)?));
        }
        for result in model.batch_generate(items)?.collect_all() {
            count(&result?.completion.metrics);
        }
    }
    context.wait_idle(&*model)?;
    let m = model.metrics();
    ensure_eq!(m.requests, requests, "`requests`");
    ensure_eq!(m.finished, requests, "`finished`");
    ensure_eq!(m.failed, 0, "`failed`");
    ensure_eq!(m.generated_tokens, generated, "`generated_tokens`");
    ensure_eq!(m.cached_prompt_tokens, cached, "`cached_prompt_tokens`");
    ensure_eq!(m.prompt_tokens, prompt_tokens - cached, "`prompt_tokens`, cached ones not");
    ensure!(m.forward_count > 0, "`forward_count` is 0");
    ensure_eq!(m.kv_blocks_used, 0, "`kv_blocks_used` when nothing runs");
    ensure!((0.0..=1.0).contains(&m.prefix_hit_rate()), "a prefix hit rate out of range");
    Ok(Outcome::PASS)
}

fn histograms(context: &Context) -> Check {
    let model = context.model()?;
    let (mut first, mut further) = (0, 0);
    for prompt in context.prompts()? {
        let output = context.run(&*model, prompt, context.greedy(SOME)?)?;
        let generated = output.completion.metrics.generated_tokens as u64;
        first += generated.min(1);
        further += generated.saturating_sub(1);
    }
    context.wait_idle(&*model)?;
    let metrics = model.metrics();
    ensure_eq!(metrics.ttft.count(), first, "times to first token");
    ensure_eq!(metrics.itl.count(), further, "inter-token latencies");
    Ok(Outcome::PASS)
}

fn steps(context: &Context) -> Check {
    let model = context.model()?;
    for prompt in context.prompts()? {
        let before = model.metrics();
        let output = context.run(&*model, prompt, context.greedy(SOME)?)?;
        context.wait_idle(&*model)?;
        let (after, m) = (model.metrics(), output.completion.metrics);
        let computed = m.prompt_tokens - m.cached_prompt_tokens;
        // The last token is generated, not computed.
        let expected = (computed + m.generated_tokens.saturating_sub(1)) as u64;
        ensure_eq!(after.step_tokens - before.step_tokens, expected, "tokens computed by steps");
        let passes = after.forward_count - before.forward_count;
        ensure!(
            passes >= m.generated_tokens as u64,
            "{} tokens were generated by {passes} forward passes",
            m.generated_tokens
        );
    }
    Ok(Outcome::PASS)
}

fn bytes(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.long_prompt(model.info().context_len / 2, 0)?;
    let output = context.run(&*model, prompt, context.greedy(SOME)?)?;
    context.wait_idle(&*model)?;
    let (of_request, of_model) = (output.completion.metrics, model.metrics());
    ensure!(of_request.peak_bytes > 0, "`peak_bytes` of a request is 0");
    ensure!(
        of_request.peak_bytes >= of_request.active_bytes,
        "`peak_bytes` of a request is {}, `active_bytes` {}",
        of_request.peak_bytes,
        of_request.active_bytes
    );
    ensure!(
        of_model.peak_bytes >= of_request.peak_bytes,
        "`peak_bytes` of the model is {}, of a request {}",
        of_model.peak_bytes,
        of_request.peak_bytes
    );
    ensure!(
        of_model.peak_bytes >= of_model.active_bytes,
        "`peak_bytes` of the model is {}, `active_bytes` {}",
        of_model.peak_bytes,
        of_model.active_bytes
    );
    Ok(Outcome::PASS)
}

fn cancelled(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, options, tokens) = context.long_request(crate::context::MANY)?;
    let before = model.metrics();
    let mut stream = model.generate(prompt.into(), options)?;
    ensure!(matches!(stream.next(), Some(Ok(_))), "no first token");
    stream.cancel();
    let completion = stream.finish()?;
    context.wait_idle(&*model)?;
    let after = model.metrics();
    ensure_eq!(after.finished - before.finished, 1, "`finished`");
    ensure_eq!(after.failed - before.failed, 0, "`failed`");
    let generated = after.generated_tokens - before.generated_tokens;
    ensure_eq!(completion.metrics.generated_tokens as u64, generated, "`generated_tokens`");
    ensure!(generated < tokens as u64, "all {tokens} tokens were generated");
    Ok(Outcome::PASS)
}
