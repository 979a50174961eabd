//! Closing a model ends what runs, refuses what comes, and can be asked twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use inference_core::{
    BatchItem, CapabilityId, ClassifyOptions, ErrorKind, FinishReason, LogitRows, TextModel,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME, ensure_kind, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "close/refuses-calls",
        demand: "after `close` every call answers `Closed`",
        requires: REQUIRES,
        check: refuses_calls,
    },
    Behaviour {
        id: "close/idempotent",
        demand: "`close` can be called again, from many threads at once, and facts stay readable",
        requires: REQUIRES,
        check: idempotent,
    },
    Behaviour {
        id: "close/ends-running",
        demand: "`close` ends running, waiting and unread requests as `Cancelled`",
        requires: REQUIRES,
        check: ends_running,
    },
    Behaviour {
        id: "close/drop",
        demand: "dropping the model does the same, and its streams outlive it",
        requires: REQUIRES,
        check: dropped,
    },
    Behaviour {
        id: "close/drain",
        demand: "`drain` lets what was submitted end by itself and refuses what comes",
        requires: REQUIRES,
        check: drain,
    },
];

fn ensure_refused(context: &Context, model: &dyn TextModel) -> Result<(), Stop> {
    let prompt = context.prompts()?.swap_remove(0);
    let usable = |id| context.backend().capabilities().status(id).is_usable();
    let closed = ErrorKind::Closed;
    let stream = model.generate(prompt.clone().into(), context.greedy(1)?);
    ensure_kind(stream, closed, "`generate` after `close`")?;
    if usable(CapabilityId::Classify) {
        let result = model.classify(vec![prompt.clone().into()], &ClassifyOptions::new());
        ensure_kind(result, closed, "`classify` after `close`")?;
    }
    if usable(CapabilityId::BatchGenerate) {
        let stream = model.batch_generate(vec![BatchItem::new(prompt.clone())]);
        ensure_kind(stream, closed, "`batch_generate` after `close`")?;
    }
    if let Some(scorer) = model.as_scorer() {
        let logits = scorer.prompt_logits(prompt.clone().into(), LogitRows::Last);
        ensure_kind(logits, closed, "`prompt_logits` after `close`")?;
    }
    if let Some(state) = model.as_state() {
        let snapshot = state.snapshot(prompt.clone().into());
        ensure_kind(snapshot, closed, "`snapshot` after `close`")?;
    }
    if let Some(inspector) = model.as_attention_inspector() {
        let attention = inspector.inspect_attention(prompt.into());
        ensure_kind(attention, closed, "`inspect_attention` after `close`")?;
    }
    Ok(())
}

fn refuses_calls(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let prompt = context.prompts()?.swap_remove(0);
    context.run(&*model, prompt, context.greedy(SOME)?)?;
    model.close();
    ensure_refused(context, &*model)?;
    Ok(Outcome::PASS)
}

fn idempotent(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let prompt = context.prompts()?.swap_remove(0);
    context.run(&*model, prompt, context.greedy(SOME)?)?;
    let generated = model.metrics().generated_tokens;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| model.close());
        }
    });
    model.close();
    model.drain();
    ensure_refused(context, &*model)?;
    ensure_eq!(model.info().backend, context.backend().name(), "`info().backend`");
    ensure_eq!(model.metrics().generated_tokens, generated, "`generated_tokens`");
    ensure_eq!(model.metrics().running, 0, "sequences that run");
    Ok(Outcome::PASS)
}

fn ends_running(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let (prompt, options, _) = context.long_request(MANY)?;
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = model.generate(prompt.clone().into(), options.clone())?;
        stream.start();
        streams.push(stream);
    }
    ensure!(matches!(streams[0].next(), Some(Ok(_))), "no first token");
    let unread = model.generate(prompt.into(), options)?;
    model.close();
    for (index, stream) in streams.into_iter().enumerate() {
        let reason = read(stream)?.completion.finish_reason;
        ensure_eq!(reason, FinishReason::Cancelled, "the reason of stream {index}");
    }
    // What was never submitted may as well be refused.
    match read(unread) {
        Ok(output) => {
            let reason = output.completion.finish_reason;
            ensure_eq!(reason, FinishReason::Cancelled, "the reason of an unread stream");
        }
        Err(Stop::Fail(message)) if message.contains("closed") => {}
        Err(stop) => return Err(stop),
    }
    ensure_eq!(model.metrics().kv_blocks_used, 0, "KV blocks in use afterwards");
    Ok(Outcome::PASS)
}

fn dropped(context: &Context) -> Check {
    let model = context.load_with(|load| load)?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let mut stream = model.generate(prompt.into(), options)?;
    ensure!(matches!(stream.next(), Some(Ok(_))), "no first token");
    drop(model);
    let output = read(stream)?;
    ensure_eq!(output.completion.finish_reason, FinishReason::Cancelled, "the reason");
    ensure!(output.tokens.len() + 1 < tokens, "all {tokens} tokens were computed");
    Ok(Outcome::PASS)
}

fn drain(context: &Context) -> Check {
    let model: Arc<dyn TextModel> = context.load_with(|load| load)?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = model.generate(prompt.clone().into(), options.clone())?;
        stream.start();
        streams.push(stream);
    }
    context.wait_until("the requests are in the scheduler", || model.metrics().requests == 3)?;
    let drained = AtomicBool::new(false);
    let outputs = std::thread::scope(|scope| {
        scope.spawn(|| {
            model.drain();
            drained.store(true, Ordering::Release);
        });
        let read_all = || -> Result<Vec<_>, Stop> {
            context.wait_until("a draining model refuses requests", || {
                let further = context.greedy(1).map(|o| model.generate(prompt.clone().into(), o));
                matches!(further, Ok(Err(error)) if error.kind() == ErrorKind::Closed)
            })?;
            ensure!(
                !drained.load(Ordering::Acquire),
                "`drain` came back although requests were unread"
            );
            Ok(streams)
        };
        match read_all() {
            Ok(streams) => streams.into_iter().map(read).collect::<Result<Vec<_>, _>>(),
            Err(stop) => {
                // So that the thread which drains ends.
                model.close();
                Err(stop)
            }
        }
    })?;
    for (index, output) in outputs.iter().enumerate() {
        ensure_eq!(output.tokens.len(), tokens, "tokens of stream {index}");
        let reason = &output.completion.finish_reason;
        ensure_eq!(*reason, FinishReason::Length, "the reason of stream {index}");
    }
    if !drained.load(Ordering::Acquire) {
        return fail("`drain` did not come back");
    }
    ensure_refused(context, &*model)?;
    Ok(Outcome::PASS)
}
