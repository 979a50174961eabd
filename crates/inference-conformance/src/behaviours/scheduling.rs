//! Which request runs when.

use std::sync::Arc;

use inference_core::probe::{ProbeEvent, ProbeKind};
use inference_core::{CapabilityId, ProbeBus};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME, honoured, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail, not_applicable};
use crate::recorder::{recorded, recorder};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::ContinuousBatching];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "scheduling/priority",
        demand: "of the requests that wait the one of the highest priority runs first, and of \
                 equal ones the earliest",
        requires: REQUIRES,
        check: priority,
    },
    Behaviour {
        id: "scheduling/step-budget",
        demand: "no step computes more than `step_token_budget` tokens, and running streams go on \
                 between the chunks of a long prompt",
        requires: REQUIRES,
        check: step_budget,
    },
];

/// Requests are told apart by the lengths of their prompts.
fn priority(context: &Context) -> Check {
    // Whether the slot is held for long enough is up to chance.
    const TRIES: usize = 20;
    for attempt in 1..=TRIES {
        if let Some(admitted) = admissions(context, attempt)? {
            ensure_eq!(admitted, [3, 5, 2, 4, 6], "prompt lengths in the order of their admission");
            return Ok(Outcome::PASS);
        }
    }
    not_applicable("long prompts are computed before others can come")
}

/// In which order five requests are admitted that come while the slot is
/// taken; `None` if it was free too early.
fn admissions(context: &Context, salt: usize) -> Result<Option<Vec<usize>>, Stop> {
    let (sink, records) = recorder(ProbeKind::Scheduler.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 14));
    let model = context.load_with(|load| {
        let load = load.with_parallel_slots(1).with_step_token_budget(2);
        load.with_probe_bus(Arc::clone(&bus))
    })?;
    // The slot is held by a long prompt, of a priority that nobody displaces.
    let length = model.info().context_len.saturating_sub(2).min(2000);
    let long = context.long_prompt(length, salt)?;
    let options = context.greedy(1)?.with_priority(1000);
    let mut first = honoured(model.generate(long.into(), options))?;
    first.start();
    context.wait_until("the slot is taken", || model.metrics().forward_count > 0)?;
    let mut waiting = Vec::new();
    for (length, priority) in [(2, 0), (3, 7), (4, 0), (5, 7), (6, -7)] {
        let prompt = context.long_prompt(length, 0)?;
        let options = context.greedy(SOME)?.with_priority(priority);
        let mut stream = honoured(model.generate(prompt.into(), options))?;
        stream.start();
        waiting.push(stream);
    }
    let mut in_time = false;
    context.wait_until("five requests wait", || {
        let metrics = model.metrics();
        in_time = metrics.queued == 5 && metrics.finished == 0;
        in_time || metrics.finished > 0
    })?;
    drop(first);
    for stream in waiting {
        read(stream)?;
    }
    let mut admitted: Vec<usize> = recorded(context, &*model, &bus, &records)?
        .into_iter()
        .filter_map(|record| match record.event {
            ProbeEvent::Admitted { prompt_tokens, .. } => Some(prompt_tokens),
            _ => None,
        })
        .collect();
    ensure!(!admitted.is_empty(), "no admissions");
    admitted.remove(0);
    Ok(in_time.then_some(admitted))
}

fn step_budget(context: &Context) -> Check {
    const BUDGET: usize = 4;
    const TRIES: usize = 20;
    let (sink, records) = recorder(ProbeKind::Scheduler.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 16));
    let model = context.load_with(|load| {
        let load = load.with_parallel_slots(2).with_step_token_budget(BUDGET);
        load.with_probe_bus(Arc::clone(&bus))
    })?;
    let (prompt, options, tokens) = context.long_request(MANY)?;
    let length = (model.info().context_len / 2).min(40 * BUDGET);
    let mut steps = 0;
    // Whether the stream waits for its reader as long as the prompt is computed
    // is up to chance.
    for attempt in 1..=TRIES {
        let before = model.metrics().requests;
        let mut running = model.generate(prompt.clone().into(), options.clone())?;
        ensure!(matches!(running.next(), Some(Ok(_))), "no first token");
        // Another beginning each time, so that nothing of it is cached.
        let long = context.long_prompt(length, attempt)?;
        let mut late = model.generate(long.into(), context.greedy(1)?)?;
        late.start();
        context
            .wait_until("both are in the scheduler", || model.metrics().requests == before + 2)?;
        let output = read(running)?;
        ensure_eq!(output.tokens.len() + 1, tokens, "tokens beside a long prompt");
        read(late)?;
        let mut shared = false;
        for record in recorded(context, &*model, &bus, &records)? {
            let ProbeEvent::Step { sequences, tokens, .. } = record.event else { continue };
            ensure!(
                tokens <= BUDGET,
                "a step of {tokens} tokens, `step_token_budget` being {BUDGET}"
            );
            steps += 1;
            shared |= sequences == 2 && tokens > 2;
        }
        if shared {
            return Ok(Outcome::PASS);
        }
    }
    fail(format!(
        "in none of {steps} steps did a chunk of the prompt and the stream's token run together"
    ))
}
