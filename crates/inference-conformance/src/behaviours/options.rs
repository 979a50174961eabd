//! Every option is honoured or refused by name.

use std::time::Duration;

use inference_core::{
    CapabilityId, Error, ErrorKind, FinishReason, GenerateOptions, KvDtype, LoadOptions, Precision,
    QuantizeType, TextModel,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME, ensure_kind, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, explained, fail, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "options/invalid",
        demand: "a value outside its range is `InvalidOption` and named, before anything runs",
        requires: REQUIRES,
        check: invalid,
    },
    Behaviour {
        id: "options/refused-by-name",
        demand: "an option that is not honoured is `Unsupported` and named",
        requires: REQUIRES,
        check: refused_by_name,
    },
    Behaviour {
        id: "options/neutral",
        demand: "options that ask for what is the case anyway change nothing",
        requires: REQUIRES,
        check: neutral,
    },
    Behaviour {
        id: "options/unknown-adapter",
        demand: "an adapter that is not loaded is an error, never ignored",
        requires: REQUIRES,
        check: unknown_adapter,
    },
    Behaviour {
        id: "options/load-invalid",
        demand: "a value of a load option outside its range is `InvalidOption` and named",
        requires: &[CapabilityId::Load],
        check: load_invalid,
    },
    Behaviour {
        id: "options/load-honoured",
        demand: "load options that only change how it is computed give the same answers, or are \
                 refused by name",
        requires: REQUIRES,
        check: load_honoured,
    },
    Behaviour {
        id: "options/parallel-slots",
        demand: "no more sequences run at once than `parallel_slots`",
        requires: REQUIRES,
        check: parallel_slots,
    },
    Behaviour {
        id: "options/max-queue",
        demand: "beyond `max_queue` waiting requests a further one is refused as `Exhausted`, and \
                 none of the others is lost",
        requires: REQUIRES,
        check: max_queue,
    },
    Behaviour {
        id: "options/lag-timeout",
        demand: "a reader that stays away longer than `lag_timeout` finds its request ended as \
                 `Lagging`",
        requires: REQUIRES,
        check: lag_timeout,
    },
    Behaviour {
        id: "options/kv-budget",
        demand: "the KV pool is no larger than `kv_budget`, and a prompt that it can never hold is \
                 refused as `Exhausted`",
        requires: REQUIRES,
        check: kv_budget,
    },
];

/// Whether the error is of the kind, and names the option.
fn ensure_names<T>(result: Result<T, Error>, kind: ErrorKind, option: &str) -> Result<(), Stop> {
    match result {
        Ok(_) => fail(format!("`{option}` was accepted")),
        Err(error) => {
            let message = explained(&error);
            ensure_eq!(error.kind(), kind, "the kind of the refusal of `{option}` ({message})");
            ensure!(
                message.contains(option),
                "the refusal of `{option}` does not name it: {message}"
            );
            Ok(())
        }
    }
}

fn invalid(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let options = GenerateOptions::new;
    for (option, options) in [
        ("max_tokens", options().with_max_tokens(0)),
        ("min_tokens", options().with_max_tokens(2).with_min_tokens(3)),
        ("temperature", options().with_temperature(-1.0)),
        ("temperature", options().with_temperature(f32::NAN)),
        ("top_p", options().with_top_p(0.0)),
        ("top_p", options().with_top_p(1.5)),
        ("min_p", options().with_min_p(2.0)),
        ("typical_p", options().with_typical_p(0.0)),
        ("repeat_penalty", options().with_repeat_penalty(0.0)),
        ("frequency_penalty", options().with_frequency_penalty(3.0)),
        ("presence_penalty", options().with_presence_penalty(-3.0)),
        ("logit_bias", options().with_logit_bias(0, f32::NAN)),
        ("stop_strings", options().with_stop_string("")),
        ("logprobs", options().with_logprobs(101)),
        ("prompt_lookup", options().with_prompt_lookup(33)),
    ] {
        let stream = model.generate(prompt.clone().into(), options);
        ensure_names(stream, ErrorKind::InvalidOption, option)?;
    }
    ensure_eq!(model.metrics().requests, 0, "requests in the scheduler");
    Ok(Outcome::PASS)
}

fn refused_by_name(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let options = || GenerateOptions::new().with_max_tokens(2);
    let mut refused = 0;
    for (option, options) in [
        ("min_tokens", options().with_min_tokens(1)),
        ("temperature", options().with_temperature(0.5)),
        ("top_k", options().with_top_k(5)),
        ("top_p", options().with_top_p(0.9)),
        ("min_p", options().with_min_p(0.1)),
        ("typical_p", options().with_typical_p(0.9)),
        ("repeat_penalty", options().with_repeat_penalty(1.1)),
        ("frequency_penalty", options().with_frequency_penalty(0.1)),
        ("presence_penalty", options().with_presence_penalty(0.1)),
        ("penalty_window", options().with_penalty_window(64)),
        ("logit_bias", options().with_logit_bias(prompt[0], 1.0)),
        ("stop_tokens", options().with_stop_token(prompt[0])),
        ("stop_strings", options().with_stop_string("\u{10ffff}")),
        ("ignore_eos", options().with_ignore_eos(true)),
        ("seed", options().with_seed(1)),
        ("logprobs", options().with_logprobs(1)),
        ("logits", options().with_logits(true)),
        ("deadline", options().with_timeout(Duration::from_secs(86_400))),
        ("priority", options().with_priority(1)),
        ("prompt_lookup", options().with_prompt_lookup(2)),
    ] {
        match model.generate(prompt.clone().into(), options) {
            // What it does then is for other behaviours; that it runs is for this one.
            Ok(stream) => _ = read(stream)?,
            Err(error) => {
                ensure_names(Err::<(), _>(error), ErrorKind::Unsupported, option)?;
                refused += 1;
            }
        }
    }
    if refused == 20 {
        return fail("every option is refused");
    }
    Ok(Outcome::PASS)
}

fn neutral(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let plain = context.greedy(SOME)?;
    let expected = context.run(&*model, prompt.clone(), plain.clone())?.ids();
    for (option, options) in [
        ("min_tokens", plain.clone().with_min_tokens(0)),
        ("temperature", plain.clone().with_temperature(0.0)),
        ("priority", plain.clone().with_priority(0)),
        ("logits", plain.clone().with_logits(false)),
        ("prompt_lookup", plain.clone().with_prompt_lookup(0)),
    ] {
        let found = context.run(&*model, prompt.clone(), options)?.ids();
        ensure_eq!(found, expected, "tokens with a neutral `{option}`");
    }
    Ok(Outcome::PASS)
}

fn unknown_adapter(context: &Context) -> Check {
    let model = context.model()?;
    let prompt = context.prompts()?.swap_remove(0);
    let options = GenerateOptions::new().with_adapter("no-such-adapter");
    match model.generate(prompt.into(), options) {
        Ok(_) => fail("an adapter that is not loaded was ignored"),
        Err(error) => match error.kind() {
            ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::InvalidOption => {
                Ok(Outcome::PASS)
            }
            kind => fail(format!("refused as `{}`: {}", kind.as_str(), explained(&error))),
        },
    }
}

fn load_invalid(context: &Context) -> Check {
    let options = || context.data().load.clone();
    for (option, options) in [
        ("context_len", options().with_context_len(0)),
        ("parallel_slots", options().with_parallel_slots(0)),
        ("threads", options().with_threads(0)),
        ("gpu_layers", options().with_gpu_layers(-2)),
        ("kv_budget", options().with_kv_budget(0)),
        ("step_token_budget", options().with_step_token_budget(0)),
        ("max_queue", options().with_max_queue(0)),
        ("lag_timeout", options().with_lag_timeout(Duration::ZERO)),
        ("affinity", options().with_affinity(Vec::new())),
    ] {
        let loaded = context.backend().load_model(&context.data().source, &options);
        ensure_names(loaded, ErrorKind::InvalidOption, option)?;
    }
    Ok(Outcome::PASS)
}

fn load_honoured(context: &Context) -> Check {
    let (model, prompt) = (context.model()?, context.prompts()?.swap_remove(1));
    let expected = context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids();
    let load = || context.data().load.clone();
    // Options that may change bits: they have to run or be refused.
    let other_bits = [
        ("quantize", load().with_quantize(QuantizeType::Q8_0)),
        ("kv_dtype", load().with_kv_dtype(KvDtype::F16)),
        ("kv_dtype", load().with_kv_dtype(KvDtype::Q8_0)),
        ("precision", load().with_precision(Precision::Exact)),
    ];
    let same_bits = [
        ("threads", load().with_threads(1)),
        ("threads", load().with_threads(3)),
        ("parallel_slots", load().with_parallel_slots(1)),
        ("parallel_slots", load().with_parallel_slots(3)),
        ("step_token_budget", load().with_parallel_slots(1).with_step_token_budget(3)),
        ("max_wait", load().with_max_wait(Duration::from_micros(50))),
        ("max_queue", load().with_max_queue(3)),
        ("lag_timeout", load().with_lag_timeout(Duration::from_secs(60))),
        ("prefix_cache", load().with_prefix_cache(false)),
        ("gpu_layers", load().with_gpu_layers(-1)),
        ("affinity", load().with_affinity(vec![0])),
        ("context_len", load().with_context_len(model.info().context_len)),
    ];
    let run = |option: &str, options: &LoadOptions| -> Result<Option<Vec<u32>>, Stop> {
        match context.backend().load_model(&context.data().source, options) {
            Ok(model) => {
                Ok(Some(context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids()))
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let message = explained(&error);
                // Beside another option either may be the refused one.
                let named = message.contains(option) || message.contains("parallel_slots");
                ensure!(named, "the refusal of `{option}` does not name it: {message}");
                Ok(None)
            }
            // A value that this model cannot have.
            Err(Error::InvalidOption { field, .. }) if field == option => Ok(None),
            Err(error) => fail(format!("loading with `{option}`: {}", explained(&error))),
        }
    };
    for (option, options) in &same_bits {
        if let Some(found) = run(option, options)? {
            ensure_eq!(found, expected, "tokens of a load with {option:?}");
        }
    }
    for (option, options) in &other_bits {
        run(option, options)?;
    }
    Ok(Outcome::PASS)
}

fn parallel_slots(context: &Context) -> Check {
    const SLOTS: usize = 2;
    let model = context.load_with(|load| load.with_parallel_slots(SLOTS))?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = model.generate(prompt.clone().into(), options.clone())?;
        stream.start();
        streams.push(stream);
    }
    context.wait_until("the slots are taken", || model.metrics().running == SLOTS)?;
    // All of them wait for their readers in the end, with a slot or without.
    context.wait_until("the others wait", || {
        let metrics = model.metrics();
        (metrics.running, metrics.queued) == (SLOTS, 4 - SLOTS)
    })?;
    ensure_eq!(model.metrics().running, SLOTS, "sequences that run");
    for stream in streams {
        let output = read(stream)?;
        ensure_eq!(output.tokens.len(), tokens, "tokens");
        ensure!(model.metrics().running <= SLOTS, "more sequences run than there are slots");
    }
    Ok(Outcome::PASS)
}

fn max_queue(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_parallel_slots(1).with_max_queue(2))?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let start = |model: &dyn TextModel| -> Result<_, Stop> {
        let mut stream = model.generate(prompt.clone().into(), options.clone())?;
        stream.start();
        Ok(stream)
    };
    let mut streams = vec![start(&*model)?];
    context.wait_until("the slot is taken", || model.metrics().running == 1)?;
    streams.push(start(&*model)?);
    streams.push(start(&*model)?);
    let further = model.generate(prompt.clone().into(), options.clone()).and_then(|mut stream| {
        stream.start();
        // So that it ends where it was let wait.
        stream.cancel();
        stream.finish()
    });
    ensure_kind(further, ErrorKind::Exhausted, "a third waiting request, `max_queue` being 2")?;
    for stream in streams {
        ensure_eq!(read(stream)?.tokens.len(), tokens, "tokens of a request that was let wait");
    }
    Ok(Outcome::PASS)
}

fn lag_timeout(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_lag_timeout(Duration::from_millis(20)))?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let mut stream = model.generate(prompt.clone().into(), options)?;
    ensure!(matches!(stream.next(), Some(Ok(_))), "no first token");
    context.wait_until("the request of a reader that stays away has ended", || {
        model.metrics().finished == 1
    })?;
    ensure_eq!(model.metrics().kv_blocks_used, 0, "KV blocks in use afterwards");
    let output = read(stream)?;
    ensure_eq!(output.completion.finish_reason, FinishReason::Lagging, "the reason");
    ensure!(output.tokens.len() + 1 < tokens, "all {tokens} tokens were computed");
    let other = context.run(&*model, prompt, context.greedy(SOME)?)?;
    ensure!(!other.tokens.is_empty(), "nothing runs after a reader lagged");
    Ok(Outcome::PASS)
}

fn kv_budget(context: &Context) -> Check {
    let whole = context.load_with(|load| load.with_parallel_slots(1))?;
    let (bytes, context_len) = (whole.metrics().peak_bytes, whole.info().context_len);
    drop(whole);
    ensure!(bytes > 0, "`peak_bytes` of a loaded model is 0");
    // Far less than a whole context; how much is the backend's to know.
    let mut budget = 1_u64 << 12;
    let model = loop {
        let load = context.data().load.clone().with_parallel_slots(1).with_kv_budget(budget);
        match context.backend().load_model(&context.data().source, &load) {
            Ok(model) => break model,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Ok(Outcome::Unsupported(explained(&error)));
            }
            Err(error) if budget < 1 << 34 => {
                // Less than one block: it has to say so.
                let known = matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::InvalidOption);
                ensure!(known, "a small `kv_budget`: {}", explained(&error));
                budget *= 2;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let pool = model.metrics().kv_bytes_total;
    ensure!(pool > 0, "`kv_bytes_total` of a loaded model is 0");
    ensure!(pool <= budget, "the KV pool has {pool} bytes, with a `kv_budget` of {budget}");
    let room = model.info().context_len;
    if room >= context_len {
        return not_applicable(format!("{budget} bytes hold the whole context"));
    }
    let long = context.long_prompt(room + 1, 0)?;
    let refused = model.generate(long.into(), context.greedy(1)?);
    ensure_kind(refused, ErrorKind::Exhausted, "a prompt that the KV budget cannot hold")?;
    Ok(Outcome::PASS)
}
