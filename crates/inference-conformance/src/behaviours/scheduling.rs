//! Which request runs when.

use std::sync::Arc;

use inference_core::probe::{ProbeEvent, ProbeKind};
use inference_core::{CapabilityId, ProbeBus};

use crate::behaviour::Behaviour;
use crate::context::{Context, MANY, SOME, honoured, read};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, fail};
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
    let (sink, records) = recorder(ProbeKind::Scheduler.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 14));
    let model =
        context.load_with(|load| load.with_parallel_slots(1).with_probe_bus(Arc::clone(&bus)))?;
    let (prompt, options, _) = context.long_request(MANY)?;
    // Holds the slot: nobody reads it.
    let mut first = model.generate(prompt.into(), options)?;
    ensure!(matches!(first.next(), Some(Ok(_))), "no first token");
    let mut waiting = Vec::new();
    for (length, priority) in [(2, 0), (3, 7), (4, 0), (5, 7), (6, -7)] {
        let prompt = context.long_prompt(length, 0)?;
        let options = context.greedy(SOME)?.with_priority(priority);
        let mut stream = honoured(model.generate(prompt.into(), options))?;
        stream.start();
        waiting.push(stream);
    }
    context.wait_until("five requests wait", || model.metrics().queued == 5)?;
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
    ensure_eq!(admitted, [3, 5, 2, 4, 6], "prompt lengths in the order of their admission");
    Ok(Outcome::PASS)
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
