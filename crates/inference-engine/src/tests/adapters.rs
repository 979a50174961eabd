//! Adapters by name, from request to step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use inference_core::{
    AdapterInfo, Adapters, AttentionInspector, BatchItem, CancelToken, ClassifyOptions, Error,
    ErrorKind, FinishReason, LogitRows, Result, Scorer, SequenceState,
};

use super::sharing::expected;
use super::*;
use crate::sim_runner::SimFault;
use crate::{AdapterId, AdapterLease, AdapterSource};

/// Adapters that are names alone; those of requests are counted.
#[derive(Debug, Default)]
struct Names {
    ids: Mutex<BTreeMap<String, AdapterId>>,
    held: Arc<()>,
}

impl Names {
    fn used(&self) -> usize {
        Arc::strong_count(&self.held) - 1
    }

    fn id(&self, name: &str) -> Option<AdapterId> {
        self.ids.lock().unwrap().get(name).copied()
    }
}

impl Adapters for Names {
    fn load(&self, name: &str, _: &Path, scale: f32) -> Result<AdapterInfo> {
        self.ids.lock().unwrap().insert(name.to_owned(), AdapterId::unique());
        Ok(AdapterInfo::new(name, 1, scale, 1))
    }

    fn unload(&self, name: &str) -> Result<()> {
        self.ids.lock().unwrap().remove(name);
        Ok(())
    }

    fn set_scale(&self, name: &str, scale: f32) -> Result<()> {
        self.load(name, Path::new(""), scale).map(|_| ())
    }

    fn list(&self) -> Vec<AdapterInfo> {
        let ids = self.ids.lock().unwrap();
        ids.keys().map(|name| AdapterInfo::new(name, 1, 1.0, 1)).collect()
    }
}

impl AdapterSource for Names {
    fn acquire(&self, name: Option<&str>) -> Result<Option<AdapterLease>> {
        let Some(id) = self.id(name.unwrap_or("default")) else {
            return match name {
                Some(name) => Err(Error::invalid_input("adapter", "one that is loaded", name)),
                None => Ok(None),
            };
        };
        let held = Box::new(Arc::clone(&self.held));
        Ok(Some(AdapterLease::new(id, name.unwrap_or("default").into(), held)))
    }
}

fn adapted(options: EngineOptions) -> (Arc<EngineModel>, SimControl, Arc<Names>) {
    let names = Arc::new(Names::default());
    let source: Arc<dyn AdapterSource> = Arc::clone(&names) as _;
    let spec = SimSpec::default().with_attention(true);
    let parts = ModelParts::new(info()).with_adapters(source).with_identity("sim");
    let (model, control) = start(spec, parts, options);
    (model, control, names)
}

fn load(model: &EngineModel, names: &[&str]) {
    let adapters = model.as_adapters().unwrap();
    names.iter().for_each(|name| drop(adapters.load(name, Path::new(""), 1.0).unwrap()));
}

#[test]
fn a_model_without_adapters_has_none() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    assert!(model.as_adapters().is_none());
    let error = model.generate(vec![1].into(), greedy(1).with_adapter("a")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn steps_carry_the_adapters_of_their_sequences() {
    let (model, control, names) = adapted(EngineOptions::new());
    load(&model, &["a", "b"]);
    let choices = [Some("a"), None, Some("b"), Some("a")];
    let items = (0..4).zip(choices).map(|(i, name)| {
        let mut options = greedy(5);
        options.adapter = name.map(str::to_owned);
        BatchItem::new(vec![i + 1, 2, 3]).with_options(options)
    });
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    for (i, output) in (0..).zip(outputs) {
        assert_eq!(ids(&output.unwrap().tokens), expected(&[i + 1, 2, 3], 5));
    }
    let batches = control.batches();
    let mut together = 0;
    for batch in &batches {
        for sequence in &batch.sequences {
            if sequence.position != 0 {
                continue;
            }
            let first = batch.tokens[sequence.start];
            let name = choices[first as usize - 1];
            assert_eq!(sequence.adapter, name.and_then(|name| names.id(name)));
        }
        let distinct: std::collections::BTreeSet<_> =
            batch.sequences.iter().map(|sequence| sequence.adapter).collect();
        together = together.max(distinct.len());
    }
    assert_eq!(together, 3, "two adapters and none share a step");
    assert_eq!(names.used(), 0);
}

#[test]
fn an_unknown_adapter_is_refused_before_anything_is_queued() {
    let (model, control, names) = adapted(EngineOptions::new());
    load(&model, &["a"]);
    let error = model.generate(vec![1].into(), greedy(1).with_adapter("no")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let options = ClassifyOptions::new().with_adapter("no");
    assert_eq!(model.classify(vec![], &options).unwrap_err().kind(), ErrorKind::InvalidInput);
    // An adapter is not held for what is refused for another reason.
    assert!(model.generate(Vec::<TokenId>::new().into(), greedy(1).with_adapter("a")).is_err());
    assert!(control.batches().is_empty());
    assert_eq!(names.used(), 0);
}

/// Whoever hears of the end can unload or replace the adapter at once.
#[test]
fn an_adapter_is_given_back_before_the_end_is_heard_of() {
    let (model, control, names) = adapted(EngineOptions::new());
    load(&model, &["a"]);
    let options = |tokens| greedy(tokens).with_adapter("a");
    let mut stream = model.generate(vec![1, 2].into(), options(4)).unwrap();
    assert_eq!(names.used(), 1, "held from the call on");
    assert_eq!(read(&mut stream).len(), 4);
    assert_eq!(names.used(), 0, "its end");

    let token = CancelToken::new();
    control.hold();
    let mut running = model.generate(vec![1].into(), options(50)).unwrap();
    running.start();
    assert!(control.wait_for(1));
    let mut waiting =
        model.generate(vec![1].into(), options(50).with_cancel(token.clone())).unwrap();
    waiting.start();
    token.cancel();
    control.release();
    waiting.by_ref().for_each(drop);
    assert_eq!(waiting.finish().unwrap().finish_reason, FinishReason::Cancelled);
    assert_eq!(read(&mut running).len(), 50);
    assert_eq!(names.used(), 0, "cancelled while it waited");

    let past = std::time::Instant::now();
    let late = model.generate(vec![1].into(), options(50).with_deadline(past)).unwrap();
    assert_eq!(late.finish().unwrap().finish_reason, FinishReason::Deadline);
    assert_eq!(names.used(), 0, "late");

    drop(model.generate(vec![1].into(), options(50)).unwrap());
    assert_eq!(names.used(), 0, "never read");

    control.fail_at(control.steps(), SimFault::Error { survives: true });
    assert!(model.generate(vec![3].into(), options(5)).unwrap().any(|token| token.is_err()));
    assert_eq!(names.used(), 0, "failed");
}

#[test]
fn an_adapter_outlives_preemption() {
    let names = Arc::new(Names::default());
    let source: Arc<dyn AdapterSource> = Arc::clone(&names) as _;
    let spec = SimSpec::default().with_context_len(32).with_blocks(4, 8);
    let parts = ModelParts::new(info()).with_adapters(source);
    let (model, control) = start(spec, parts, EngineOptions::new().with_step_token_budget(8));
    load(&model, &["a"]);
    let id = names.id("a");
    let items =
        (0..6).map(|i| BatchItem::new(vec![i; 3]).with_options(greedy(28).with_adapter("a")));
    for (i, output) in (0..).zip(model.batch_generate(items.collect()).unwrap().collect_all()) {
        assert_eq!(ids(&output.unwrap().tokens), expected(&[i; 3], 28));
    }
    assert!(model.metrics().preemptions > 0);
    let sequences = control.batches().into_iter().flat_map(|batch| batch.sequences);
    assert!(sequences.into_iter().all(|sequence| sequence.adapter == id));
    assert_eq!(names.used(), 0);
}

/// The cache asks for the weights, not for what they are called.
#[test]
fn what_is_loaded_anew_finds_nothing_cached() {
    let (model, _, _) = adapted(EngineOptions::new());
    load(&model, &["a", "b"]);
    let prompt: Vec<TokenId> = (0..20).collect();
    let cached = |name: Option<&str>| {
        let mut options = greedy(1);
        options.adapter = name.map(str::to_owned);
        let stream = model.generate(prompt.clone().into(), options).unwrap();
        stream.finish().unwrap().metrics.cached_prompt_tokens
    };
    for name in [None, Some("a"), Some("b")] {
        assert_eq!(cached(name), 0, "{name:?}");
        assert_eq!(cached(name), 19, "{name:?}");
    }
    load(&model, &["a"]);
    assert_eq!((cached(Some("a")), cached(Some("b")), cached(None)), (0, 19, 19));
    model.as_adapters().unwrap().set_scale("b", 0.5).unwrap();
    assert_eq!((cached(Some("a")), cached(Some("b")), cached(None)), (19, 0, 19));
}

#[test]
fn the_default_is_used_by_all_that_name_none() {
    let (model, control, names) = adapted(EngineOptions::new());
    load(&model, &["default"]);
    let id = names.id("default");
    generate(&model, &[1, 2], greedy(2));
    model.classify(vec![vec![3, 4].into()], &ClassifyOptions::new()).unwrap();
    model.prompt_logits(vec![5, 6].into(), LogitRows::All).unwrap();
    model.snapshot(vec![7, 8].into()).unwrap();
    model.inspect_attention(vec![9].into()).unwrap();
    let batches = control.batches();
    assert_eq!(batches.len(), 5);
    assert!(batches.iter().all(|batch| batch.sequences[0].adapter == id));
    assert_eq!(names.used(), 0);
}

/// Keys and values of an adapter are never taken for those of another or of
/// none, and a file cannot say whose they are.
#[test]
fn snapshots_know_their_adapter() {
    let (model, control, _) = adapted(EngineOptions::new().with_prefix_cache(false));
    let prompt: Vec<TokenId> = (0..20).collect();
    let plain = model.snapshot(prompt.clone().into()).unwrap();
    let computed = |snapshot: &dyn inference_core::StateSnapshot, name: Option<&str>| {
        let before = control.batches().len();
        let mut options = greedy(1);
        options.adapter = name.map(str::to_owned);
        model.resume(snapshot, &[30], options).unwrap().finish().unwrap();
        control.batches()[before..].iter().map(|batch| batch.tokens.len()).sum::<usize>()
    };
    assert_eq!(computed(&*plain, None), 1);
    load(&model, &["default", "a"]);
    let adapted = model.snapshot(prompt.clone().into()).unwrap();
    assert_eq!((computed(&*plain, None), computed(&*plain, Some("a"))), (21, 21));
    assert_eq!((computed(&*adapted, None), computed(&*adapted, Some("a"))), (1, 21));
    let folder = tempfile::tempdir().unwrap();
    plain.save(&folder.path().join("plain")).unwrap();
    let error = adapted.save(&folder.path().join("adapted")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_closed_model_refuses_to_load() {
    let (model, _, _) = adapted(EngineOptions::new());
    load(&model, &["a"]);
    model.close();
    let adapters = model.as_adapters().unwrap();
    let closed = [
        adapters.load("b", Path::new(""), 1.0).map(|_| ()),
        adapters.set_scale("a", 2.0),
        adapters.unload("a"),
    ];
    assert!(closed.into_iter().all(|outcome| outcome.unwrap_err().kind() == ErrorKind::Closed));
}
