//! Snapshots: what was computed once is resumed as often as one likes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference_core::{CapabilityId, ErrorKind, SequenceState, TextModel, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, ensure_kind, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, fail, not_applicable};

/// Prompts in two parts.
type Parts = Vec<(Vec<TokenId>, Vec<TokenId>)>;

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::KvSnapshot];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "state/resume",
        demand: "a snapshot that is continued answers as the whole prompt does",
        requires: REQUIRES,
        check: resume,
    },
    Behaviour {
        id: "state/fork",
        demand: "a snapshot resumed several times at once answers each as if alone",
        requires: REQUIRES,
        check: fork,
    },
    Behaviour {
        id: "state/save-load",
        demand: "a snapshot survives a file, also in another load of the model",
        requires: REQUIRES,
        check: save_load,
    },
    Behaviour {
        id: "state/damaged-file",
        demand: "a damaged or missing file of a snapshot is an error, not another text",
        requires: REQUIRES,
        check: damaged_file,
    },
    Behaviour {
        id: "state/other-model",
        demand: "a snapshot of another model is refused as `InvalidInput`",
        requires: REQUIRES,
        check: other_model,
    },
    Behaviour {
        id: "state/frees",
        demand: "a snapshot that is dropped leaves no KV block in use",
        requires: REQUIRES,
        check: frees,
    },
];

fn state(model: &dyn TextModel) -> Result<&dyn SequenceState, Stop> {
    model.as_state().ok_or_else(|| Stop::Fail("`as_state` is `None`".to_owned()))
}

/// A prompt in two parts, the second not empty, for every prompt that is long
/// enough.
fn parts(context: &Context) -> Result<Parts, Stop> {
    let mut parts = Vec::new();
    let long = context.long_prompt(context.model()?.info().context_len.min(150) / 2, 3)?;
    for prompt in context.prompts()?.into_iter().chain([long]) {
        for at in [1, prompt.len() / 2, prompt.len().saturating_sub(1)] {
            if at > 0 && at < prompt.len() {
                parts.push((prompt[..at].to_vec(), prompt[at..].to_vec()));
            }
        }
    }
    ensure!(!parts.is_empty(), "no prompt of two tokens");
    Ok(parts)
}

fn resume(context: &Context) -> Check {
    let model = context.model()?;
    let state = state(&*model)?;
    for (begin, rest) in parts(context)? {
        let whole = [begin.clone(), rest.clone()].concat();
        let expected = context.run(&*model, whole, context.greedy(SOME)?)?;
        let snapshot = state.snapshot(begin.clone().into())?;
        ensure_eq!(snapshot.ids(), begin.as_slice(), "the ids of a snapshot");
        ensure!(snapshot.bytes() > 0, "a snapshot of 0 bytes");
        let found = read(state.resume(&*snapshot, &rest, context.greedy(SOME)?)?)?;
        let (had, goes_on) = (begin.len(), rest.len());
        ensure_eq!(found.ids(), expected.ids(), "tokens after {had} tokens resumed with {goes_on}");
        ensure_eq!(found.text(), expected.text(), "text after {had} tokens resumed");
    }
    Ok(Outcome::PASS)
}

fn fork(context: &Context) -> Check {
    let model = context.model()?;
    let state = state(&*model)?;
    let begin = context.long_prompt(model.info().context_len.min(80) / 2, 0)?;
    let snapshot = state.snapshot(begin.clone().into())?;
    let mut branches = Vec::new();
    for rest in context.prompts()? {
        let rest = rest[..rest.len().min(8)].to_vec();
        let whole = [begin.clone(), rest.clone()].concat();
        let expected = context.run(&*model, whole, context.greedy(SOME)?)?;
        let mut stream = state.resume(&*snapshot, &rest, context.greedy(SOME)?)?;
        stream.start();
        branches.push((expected, stream));
    }
    // The streams hold what they need of it.
    drop(snapshot);
    let mut found: Vec<Vec<TokenId>> = vec![Vec::new(); branches.len()];
    for _ in 0..SOME {
        for ((_, stream), ids) in branches.iter_mut().zip(&mut found) {
            if let Some(token) = stream.next() {
                ids.push(token?.id);
            }
        }
    }
    for (index, ((expected, _), ids)) in branches.iter().zip(found).enumerate() {
        ensure_eq!(ids, expected.ids(), "tokens of branch {index}");
    }
    Ok(Outcome::PASS)
}

/// A file that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let file = format!("inference-conformance-{process}-{next}-{name}");
        Self(std::env::temp_dir().join(file))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever came of the check, and if there is nothing, all the better.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn save_load(context: &Context) -> Check {
    let (model, again) = (context.model()?, context.load_with(|load| load)?);
    let (begin, rest) = parts(context)?.swap_remove(1);
    let whole = [begin.clone(), rest.clone()].concat();
    let expected = context.run(&*model, whole, context.greedy(SOME)?)?;
    let file = Scratch::new("snapshot");
    state(&*model)?.snapshot(begin.clone().into())?.save(file.path())?;
    for (what, model) in [("this load", &model), ("another load", &again)] {
        let state = state(&**model)?;
        let snapshot = state.load(file.path())?;
        ensure_eq!(snapshot.ids(), begin.as_slice(), "the ids of a snapshot of {what}");
        let found = read(state.resume(&*snapshot, &rest, context.greedy(SOME)?)?)?;
        ensure_eq!(found.ids(), expected.ids(), "tokens after a file, in {what}");
    }
    Ok(Outcome::PASS)
}

fn damaged_file(context: &Context) -> Check {
    let model = context.model()?;
    let state = state(&*model)?;
    let io = |error: std::io::Error| Stop::Fail(format!("a file of the check: {error}"));
    let file = Scratch::new("damaged");
    let prompt = context.prompts()?.swap_remove(0);
    state.snapshot(prompt.into())?.save(file.path())?;
    let bytes = std::fs::read(file.path()).map_err(io)?;
    let mut damages = vec![Vec::new(), bytes[..bytes.len() / 2].to_vec(), b"nothing".to_vec()];
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        damages.push(flipped);
    }
    for (index, damage) in damages.iter().enumerate() {
        std::fs::write(file.path(), damage).map_err(io)?;
        match state.load(file.path()) {
            Ok(_) => return fail(format!("damage {index} of a file of a snapshot went unseen")),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {}
            Err(error) => return fail(format!("damage {index}: of the wrong kind: {error}")),
        }
    }
    let missing = Scratch::new("missing");
    ensure_kind(state.load(missing.path()), ErrorKind::Io, "a file that does not exist")?;
    Ok(Outcome::PASS)
}

fn other_model(context: &Context) -> Check {
    let Some(source) = &context.data().other else {
        return not_applicable("no other model is known");
    };
    let model = context.model()?;
    let other: Arc<dyn TextModel> = context.backend().load_model(source, &context.data().load)?;
    let (here, there) = (state(&*model)?, state(&*other)?);
    let file = Scratch::new("other");
    let foreign = there.snapshot(vec![1, 2, 3].into())?;
    foreign.save(file.path())?;
    ensure_kind(here.load(file.path()), ErrorKind::InvalidInput, "a file of another model")?;
    let resumed = here.resume(&*foreign, &[1], context.greedy(1)?);
    ensure_kind(resumed, ErrorKind::InvalidInput, "a snapshot of another model")?;
    Ok(Outcome::PASS)
}

fn frees(context: &Context) -> Check {
    let model = context.model()?;
    let state = state(&*model)?;
    let prompt = context.prompts()?.swap_remove(1);
    context.run(&*model, prompt.clone(), context.greedy(1)?)?;
    context.wait_idle(&*model)?;
    let before = model.metrics().kv_blocks_used;
    for _ in 0..4 {
        let snapshot = state.snapshot(prompt.clone().into())?;
        let stream = state.resume(&*snapshot, &prompt[..1], context.greedy(SOME)?)?;
        read(stream)?;
    }
    context.wait_idle(&*model)?;
    context.wait_until("the KV blocks of dropped snapshots are free", || {
        model.metrics().kv_blocks_used == before
    })?;
    Ok(Outcome::PASS)
}
