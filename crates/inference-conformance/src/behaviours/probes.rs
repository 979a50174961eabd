//! Who watches sees what happens, and is never in the way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};

use inference_core::CapabilityId;
use inference_core::probe::{Interest, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, fail};
use crate::recorder::{recorded, recorder};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "probes/tokens",
        demand: "a sink that asks for tokens is given each one, in order, with its request",
        requires: REQUIRES,
        check: tokens,
    },
    Behaviour {
        id: "probes/logits",
        demand: "a sink that asks for logits is given those of each generated token",
        requires: &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Logits],
        check: logits,
    },
    Behaviour {
        id: "probes/scheduler",
        demand: "each request is admitted and ended once, and the tokens of all steps are those \
                 that were computed",
        requires: &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::ContinuousBatching],
        check: scheduler,
    },
    Behaviour {
        id: "probes/unasked",
        demand: "a sink is given nothing that it did not ask for",
        requires: REQUIRES,
        check: unasked,
    },
    Behaviour {
        id: "probes/isolation",
        demand: "a sink that panics and one that blocks change no answer and keep no other sink \
                 from its events",
        requires: REQUIRES,
        check: isolation,
    },
];

fn tokens(context: &Context) -> Check {
    let (sink, records) = recorder(ProbeKind::Token.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 14));
    let model = context.load_with(|load| load.with_probe_bus(Arc::clone(&bus)))?;
    let mut requests = Vec::new();
    for prompt in context.prompts()? {
        let output = context.run(&*model, prompt, context.greedy(SOME)?)?;
        let found = recorded(context, &*model, &bus, &records)?;
        let mut events = Vec::new();
        for record in &found {
            let ProbeEvent::Token { id, text, index } = &record.event else {
                return fail(format!("an event of another kind: {:?}", record.event));
            };
            ensure!(record.request.is_some(), "an event without its request");
            ensure_eq!(record.request, found[0].request, "the request of an event");
            ensure_eq!(*index, events.len(), "the index of an event");
            events.push((*id, text.clone()));
        }
        requests.extend(found.first().and_then(|record| record.request));
        // A token that ended the text may be told, although it is not yielded.
        events.truncate(output.tokens.len());
        let yielded: Vec<_> =
            output.tokens.iter().map(|token| (token.id, token.text.clone())).collect();
        ensure_eq!(events.len(), yielded.len(), "events");
        for (event, token) in events.iter().zip(&yielded) {
            ensure_eq!(event.0, token.0, "the token of an event");
        }
    }
    let count = requests.len();
    requests.sort_unstable();
    requests.dedup();
    ensure_eq!(requests.len(), count, "different requests");
    Ok(Outcome::PASS)
}

fn logits(context: &Context) -> Check {
    let (sink, records) = recorder(ProbeKind::Logits.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 14));
    let model = context.load_with(|load| load.with_probe_bus(Arc::clone(&bus)))?;
    let prompt = context.prompts()?.swap_remove(0);
    let output = context.run(&*model, prompt, context.greedy(SOME)?.with_logits(true))?;
    let found = recorded(context, &*model, &bus, &records)?;
    ensure!(found.len() >= output.tokens.len(), "{} events of logits", found.len());
    for (position, (record, token)) in found.iter().zip(&output.tokens).enumerate() {
        let ProbeEvent::Logits { index, values } = &record.event else {
            return fail(format!("an event of another kind: {:?}", record.event));
        };
        ensure_eq!(*index, position, "the index of an event");
        let equal = token.logits.as_deref() == Some(&values[..]);
        ensure!(equal, "the logits of event {position} are not those of the token");
    }
    Ok(Outcome::PASS)
}

fn scheduler(context: &Context) -> Check {
    let (sink, records) = recorder(ProbeKind::Scheduler.into());
    let bus = Arc::new(ProbeBus::with_queue(vec![sink], 1 << 14));
    let model = context.load_with(|load| load.with_probe_bus(Arc::clone(&bus)))?;
    let prompts = context.prompts()?;
    let mut prompt_tokens = 0;
    for prompt in &prompts {
        prompt_tokens += prompt.len();
        context.run(&*model, prompt.clone(), context.greedy(SOME)?)?;
    }
    // Sinks may hear of the end after the reader does.
    let all_told = || {
        bus.flush();
        let records = records.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = records.iter().filter(|r| matches!(r.event, ProbeEvent::Ended { .. })).count();
        let steps = records.iter().filter(|r| matches!(r.event, ProbeEvent::Step { .. })).count();
        ends >= prompts.len() && steps as u64 >= model.metrics().forward_count
    };
    context.wait_until("every end and every step is told", all_told)?;
    let (mut admitted, mut ended, mut steps, mut tokens, mut of_prompts) = (0, 0, 0, 0, 0);
    for record in recorded(context, &*model, &bus, &records)? {
        match record.event {
            ProbeEvent::Admitted { prompt_tokens, .. } => {
                ensure!(record.request.is_some(), "an admission without its request");
                (admitted, of_prompts) = (admitted + 1, of_prompts + prompt_tokens);
            }
            ProbeEvent::Ended { reason } => {
                ensure!(reason.is_some(), "a request ended without a reason");
                ended += 1;
            }
            ProbeEvent::Step { tokens: n, .. } => (steps, tokens) = (steps + 1, tokens + n as u64),
            _ => {}
        }
    }
    let metrics = model.metrics();
    ensure_eq!(admitted, prompts.len(), "admissions");
    ensure_eq!(ended, prompts.len(), "ends");
    ensure_eq!(of_prompts, prompt_tokens, "prompt tokens of all admissions");
    ensure_eq!(steps, metrics.forward_count, "steps, against `forward_count`");
    ensure_eq!(tokens, metrics.step_tokens, "tokens of all steps, against `step_tokens`");
    Ok(Outcome::PASS)
}

fn unasked(context: &Context) -> Check {
    let (nothing, of_nothing) = recorder(Interest::NONE);
    let (cheap, of_cheap) = recorder(Interest::CHEAP);
    let bus = Arc::new(ProbeBus::with_queue(vec![nothing, cheap], 1 << 14));
    let model = context.load_with(|load| load.with_probe_bus(Arc::clone(&bus)))?;
    let prompt = context.prompts()?.swap_remove(0);
    context.run(&*model, prompt, context.greedy(SOME)?)?;
    let found = recorded(context, &*model, &bus, &of_nothing)?;
    ensure!(found.is_empty(), "a sink that asks for nothing was given {} events", found.len());
    let found = recorded(context, &*model, &bus, &of_cheap)?;
    ensure!(!found.is_empty(), "a sink that asks for everything cheap was given nothing");
    let costly = |record: &ProbeRecord| {
        matches!(record.event.kind(), ProbeKind::Logits | ProbeKind::Attention)
    };
    ensure!(!found.iter().any(costly), "a sink was given logits or attention unasked");
    Ok(Outcome::PASS)
}

/// Panics at once.
struct Panicking;

impl ProbeSink for Panicking {
    fn name(&self) -> &str {
        "panicking"
    }

    fn interest(&self) -> Interest {
        Interest::CHEAP
    }

    fn record(&mut self, _: &ProbeRecord) {
        // A panic that prints nothing: it is meant to be.
        std::panic::resume_unwind(Box::new("a sink of the conformance suite"));
    }
}

/// Takes nothing until it is let go.
struct Blocking(Receiver<()>);

impl ProbeSink for Blocking {
    fn name(&self) -> &str {
        "blocking"
    }

    fn interest(&self) -> Interest {
        Interest::CHEAP
    }

    fn record(&mut self, _: &ProbeRecord) {
        // An error means that the sender is gone, which lets it go for good.
        let _ = self.0.recv();
    }
}

fn isolation(context: &Context) -> Check {
    let plain = context.model()?;
    let (sink, records) = recorder(ProbeKind::Token.into());
    let (let_go, blocked): (Sender<()>, _) = channel();
    let sinks: Vec<Box<dyn ProbeSink>> =
        vec![Box::new(Panicking), Box::new(Blocking(blocked)), sink];
    let bus = Arc::new(ProbeBus::with_queue(sinks, 1 << 10));
    let model = context.load_with(|load| load.with_probe_bus(Arc::clone(&bus)))?;
    let mut tokens = 0;
    for prompt in context.prompts()? {
        let expected = context.run(&*plain, prompt.clone(), context.greedy(SOME)?)?;
        let found = context.run(&*model, prompt, context.greedy(SOME)?)?;
        ensure_eq!(found.ids(), expected.ids(), "tokens beside sinks that panic and block");
        tokens += found.tokens.len();
    }
    // Let go, or a flush would wait for ever.
    drop(let_go);
    let found = recorded(context, &*model, &bus, &records)?;
    ensure!(found.len() >= tokens, "{} events of {tokens} tokens", found.len());
    let stats = bus.stats();
    ensure!(stats.iter().any(|s| s.name == "panicking" && s.panicked), "no sink panicked");
    ensure!(stats.iter().all(|s| s.name == "panicking" || !s.panicked), "another sink panicked");
    Ok(Outcome::PASS)
}
