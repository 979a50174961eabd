//! The suite can fail: a backend that keeps every promise passes every
//! behaviour, and for each behaviour there is a defect with which it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod adapters;
mod attention;
mod defect;
mod engine;
mod engine_state;
mod language;
mod model;
mod sampler;
mod sequence;
mod snapshot;
mod specimen;
mod training;
mod vocabulary;

use std::sync::Arc;
use std::time::Duration;

use inference_conformance::{
    Behaviour, HANG_AFTER, LoadRefusal, ModelUnderTest, Outcome, Reference, behaviours, run_within,
};
use inference_core::{ChatPrompt, ErrorKind, Message, Role, TokenId};

use crate::defect::{Defect, Flaw};
use crate::specimen::{BARE, DAMAGED, FOREIGN, MODEL, OTHER, Specimen, WEIGHTS};

/// How long a check of a backend with a defect may take: some of them hang.
const PATIENCE: Duration = Duration::from_secs(6);

/// Everything that a suite can know of a model.
fn model() -> ModelUnderTest {
    let bytes = |text: &str| -> Vec<TokenId> { text.bytes().map(TokenId::from).collect() };
    let chat = ChatPrompt::new(vec![Message::system("Be brief."), Message::user("Why?")]);
    let rendered = "<turn>system: Be brief.</s><turn>user: Why?</s><turn>assistant: ";
    let mut model = ModelUnderTest::new("specimen", MODEL)
        .with_eos(vec![vocabulary::EOS])
        .with_text("Zażółć gęślą jaźń 👩\u{200d}🚀")
        .with_encoding("Aé", bytes("Aé"))
        .with_template(chat, rendered)
        .with_refused_chat(vec![Message::new(Role::Tool, "7")])
        .with_other(OTHER)
        .with_refusal(LoadRefusal::new("damaged", DAMAGED, ErrorKind::InvalidModel, "weights.bin"))
        .with_refusal(LoadRefusal::new(
            "foreign",
            FOREIGN,
            ErrorKind::UnsupportedModel,
            "model_type",
        ));
    for prompt in ["a", "The quick brown fox", "Zwölf Boxkämpfer jagen Viktor quer über den Deich"]
    {
        let prompt = bytes(prompt);
        let (greedy, logits) = language::greedy(WEIGHTS, &prompt, 24);
        let reference = Reference::new(prompt, greedy).with_last_logits(logits);
        model = model.with_reference(reference);
    }
    model
}

fn outcome(behaviour: &Behaviour, defect: Option<Defect>, patience: Duration) -> Outcome {
    let model = match behaviour.id {
        "text/without-tokenizer" | "chat/without-template" => ModelUnderTest::new("bare", BARE),
        _ => model(),
    };
    run_within(behaviour, Arc::new(Specimen::new(Flaw(defect))), &model, patience)
}

/// Runs every job, a few at a time.
fn in_parallel<J: Sync, T: Send>(jobs: &[J], run: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let (next, run) = (std::sync::atomic::AtomicUsize::new(0), &run);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return done };
            done.push((index, run(job)));
        }
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn without_a_defect_every_behaviour_passes() {
    let all = behaviours();
    let outcomes = in_parallel(&all, |behaviour| outcome(behaviour, None, HANG_AFTER));
    let failed: Vec<_> = all
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Pass { .. }))
        .map(|(behaviour, outcome)| format!("{}: {outcome}", behaviour.id))
        .collect();
    assert!(failed.is_empty(), "not passed:\n{}", failed.join("\n"));
}

#[test]
fn every_behaviour_has_a_defect() {
    let orphans: Vec<_> = behaviours()
        .iter()
        .map(|behaviour| behaviour.id)
        .filter(|id| !Defect::ALL.iter().any(|defect| defect.breaks() == *id))
        .collect();
    assert!(orphans.is_empty(), "cannot be shown to fail: {orphans:?}");
}

#[test]
fn every_defect_is_found() {
    let all = behaviours();
    let unnoticed: Vec<_> = in_parallel(Defect::ALL, |defect| {
        let Some(behaviour) = all.iter().find(|b| b.id == defect.breaks()) else {
            return Some(format!("{defect:?}: no behaviour {}", defect.breaks()));
        };
        let outcome = outcome(behaviour, Some(*defect), PATIENCE);
        (!outcome.is_failure()).then(|| format!("{defect:?}: {}: {outcome}", behaviour.id))
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(unnoticed.is_empty(), "not noticed:\n{}", unnoticed.join("\n"));
}
