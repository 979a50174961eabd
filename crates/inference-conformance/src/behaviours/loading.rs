//! Loading tells how it goes, and what is wrong.

use std::sync::{Arc, Mutex, PoisonError};

use inference_core::{
    CapabilityId, ErrorKind, LoadOptions, ModelSource, ProgressEvent, ProgressSink, Registry,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, explained, fail, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "loading/missing",
        demand: "a model that is not there is an error that names it",
        requires: REQUIRES,
        check: missing,
    },
    Behaviour {
        id: "loading/damaged",
        demand: "a damaged model is an error of its kind that names the file, field or tensor",
        requires: REQUIRES,
        check: damaged,
    },
    Behaviour {
        id: "loading/progress",
        demand: "every phase that is reported as begun is reported as ended, in that order",
        requires: REQUIRES,
        check: progress,
    },
    Behaviour {
        id: "loading/again",
        demand: "a model that was closed loads again and answers the same",
        requires: &[CapabilityId::Load, CapabilityId::Generate],
        check: again,
    },
];

fn missing(context: &Context) -> Check {
    const NAME: &str = "no-such-model-of-the-conformance-suite";
    let path = std::env::temp_dir().join(NAME);
    let source = ModelSource::Path(path);
    let Err(error) = context.backend().load_model(&source, &LoadOptions::new()) else {
        return fail("a model that is not there was loaded");
    };
    let message = explained(&error);
    let known = matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::ModelNotFound
            | ErrorKind::InvalidModel
            | ErrorKind::UnsupportedModel
    );
    ensure!(known, "the kind of the error is `{}`: {message}", error.kind().as_str());
    ensure!(message.contains(NAME), "the error does not name the model: {message}");
    Ok(Outcome::PASS)
}

fn damaged(context: &Context) -> Check {
    if context.data().refusals.is_empty() {
        return not_applicable("no damaged model is known");
    }
    for refusal in &context.data().refusals {
        let what = &refusal.name;
        match context.backend().load_model(&refusal.source, &context.data().load) {
            Ok(_) => return fail(format!("{what}: it was loaded")),
            Err(error) => {
                let message = explained(&error);
                ensure_eq!(error.kind(), refusal.kind, "{what}: the kind of the error ({message})");
                ensure!(
                    message.contains(&refusal.names),
                    "{what}: the error does not name `{}`: {message}",
                    refusal.names
                );
            }
        }
    }
    Ok(Outcome::PASS)
}

fn progress(context: &Context) -> Check {
    let events = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&events);
    let sink = ProgressSink::new(move |event| {
        shared.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    });
    let model = context.load_with(|load| load.with_progress(sink))?;
    let mut open: Vec<String> = Vec::new();
    let mut phases = 0;
    for event in events.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        match event {
            ProgressEvent::Started { phase, .. } => {
                ensure!(!open.contains(phase), "the phase `{phase}` began twice");
                open.push(phase.clone());
                phases += 1;
            }
            ProgressEvent::Advanced { phase, .. } => {
                ensure!(open.contains(phase), "the phase `{phase}` advanced without having begun");
            }
            ProgressEvent::Finished { phase } => {
                ensure!(open.contains(phase), "the phase `{phase}` ended without having begun");
                open.retain(|other| other != phase);
            }
            _ => {}
        }
    }
    ensure!(open.is_empty(), "phases that did not end: {open:?}");
    ensure!(phases > 0, "no phase was reported");
    drop(model);
    Ok(Outcome::PASS)
}

fn again(context: &Context) -> Check {
    let prompt = context.prompts()?.swap_remove(0);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let model = context.load_with(|load| load)?;
        answers.push(context.run(&*model, prompt.clone(), context.greedy(SOME)?)?.ids());
        model.close();
    }
    ensure_eq!(answers[1], answers[0], "tokens of the second load");
    // Through a registry, where a name chooses the backend.
    let registry = Registry::new();
    registry.register(context.shared_backend());
    let name = context.backend().name();
    let options = context.data().load.clone().with_backend(name);
    let model = registry.load_model(context.data().source.clone(), &options)?;
    ensure_eq!(model.info().backend, name, "`info().backend`");
    Ok(Outcome::PASS)
}
