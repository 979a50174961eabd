//! Random histories of one consumer, compared with a naive model of what the
//! service should hold.

use inference_core::{ErrorKind, GenerateOptions};
use inference_service::ServiceOptions;
use inference_service::action::Load;
use inference_service::reply::Generation;
use proptest::prelude::*;

use crate::support::service;

const BUDGET: u64 = 100;
const MODELS: usize = 3;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const BYTES: [u64; 6] = [10, 25, 40, 55, 100, 120];

#[derive(Clone, Debug)]
enum Step {
    /// Which, whether its size is known beforehand, whether it is pinned.
    Load(usize, bool, bool),
    Fail(usize),
    Use(usize),
    Open(usize),
    /// Ends one of the open streams, read or dropped.
    End(usize, bool),
    Unload(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        5 => (name.clone(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(name, known, pinned)| Step::Load(name, known, pinned)),
        1 => name.clone().prop_map(Step::Fail),
        3 => name.clone().prop_map(Step::Use),
        2 => name.clone().prop_map(Step::Open),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(open, read)| Step::End(open, read)),
        1 => name.prop_map(Step::Unload),
    ]
}

/// The models from the least recently used to the most.
#[derive(Clone, Debug, Default)]
struct Naive(Vec<NaiveModel>);

#[derive(Clone, Debug)]
struct NaiveModel {
    name: usize,
    bytes: u64,
    pinned: bool,
    open: usize,
    /// Which life of the name this is.
    life: usize,
}

impl Naive {
    fn get(&mut self, name: usize) -> Option<&mut NaiveModel> {
        self.0.iter_mut().find(|model| model.name == name)
    }

    fn touch(&mut self, name: usize) {
        if let Some(at) = self.0.iter().position(|model| model.name == name) {
            let model = self.0.remove(at);
            self.0.push(model);
        }
    }

    /// One after the other goes until it fits; none where it never does.
    fn make_room(&mut self, bytes: u64) -> Option<Vec<usize>> {
        let mut left = self.clone();
        let mut gone = Vec::new();
        loop {
            let used: u64 = left.0.iter().map(|model| model.bytes).sum();
            if used + bytes <= BUDGET && left.0.len() < MODELS {
                *self = left;
                return Some(gone);
            }
            let idle = left.0.iter().position(|model| model.open == 0 && !model.pinned)?;
            gone.push(left.0.remove(idle).name);
        }
    }
}

fn run(steps: Vec<Step>) {
    let options = ServiceOptions::new().with_memory_budget(BUDGET).with_max_models(MODELS);
    let (service, stage) = service(options);
    let mut naive = Naive::default();
    let mut open: Vec<(usize, usize, Generation)> = Vec::new();
    let mut lives = 0;
    for step in steps {
        match step.clone() {
            Step::Load(name, known, pinned) => {
                let (bytes, load) = (BYTES[name], format!("{} bytes", BYTES[name]));
                let mut load = Load::new(NAMES[name], load.as_str()).with_pinned(pinned);
                if known {
                    load = load.with_memory_bytes(bytes);
                }
                let result = service.perform(load);
                if let Some(there) = naive.get(name) {
                    if there.pinned == pinned {
                        assert!(result.unwrap().shared);
                        naive.touch(name);
                    } else {
                        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
                    }
                    continue;
                }
                let expected = if known { bytes } else { 0 };
                let room = naive.make_room(expected).and_then(|first| {
                    let more = naive.make_room(bytes)?;
                    Some([first, more].concat())
                });
                match room {
                    Some(gone) => {
                        let gone: Vec<_> = gone.into_iter().map(|name| NAMES[name]).collect();
                        let loaded = result.unwrap();
                        assert_eq!(loaded.unloaded, gone, "{step:?}");
                        assert!(!loaded.shared);
                        lives += 1;
                        naive.0.push(NaiveModel { name, bytes, pinned, open: 0, life: lives });
                    }
                    None => assert_eq!(result.unwrap_err().kind(), ErrorKind::Exhausted),
                }
            }
            Step::Fail(name) => {
                let error = service.load(NAMES[name], "fail").unwrap_err().kind();
                if naive.get(name).is_some() {
                    assert_eq!(error, ErrorKind::InvalidInput);
                } else if naive.make_room(0).is_some() {
                    assert_eq!(error, ErrorKind::InvalidModel);
                } else {
                    assert_eq!(error, ErrorKind::Exhausted);
                }
            }
            Step::Use(name) | Step::Open(name) => {
                let result = service.generate(NAMES[name], "hi", GenerateOptions::new());
                let Some(model) = naive.get(name) else {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::ModelNotFound);
                    continue;
                };
                let generation = result.unwrap();
                if let Step::Use(_) = step {
                    assert_eq!(generation.stream.collect_text().unwrap().0, "hi");
                } else {
                    model.open += 1;
                    open.push((name, model.life, generation));
                }
                naive.touch(name);
            }
            Step::End(which, read) => {
                if open.is_empty() {
                    continue;
                }
                let (name, life, generation) = open.swap_remove(which % open.len());
                let there = naive.get(name).filter(|model| model.life == life);
                if read {
                    let (text, _) = generation.stream.collect_text().unwrap();
                    assert_eq!(text, if there.is_some() { "hi" } else { "" });
                } else {
                    drop(generation);
                }
                if let Some(model) = there {
                    model.open -= 1;
                    naive.touch(name);
                }
            }
            Step::Unload(name) => {
                let result = service.unload(NAMES[name]);
                let at = naive.0.iter().position(|model| model.name == name);
                match at.map(|at| naive.0.remove(at)) {
                    Some(model) => assert_eq!(result.unwrap().requests, model.open),
                    None => assert_eq!(result.unwrap_err().kind(), ErrorKind::ModelNotFound),
                }
            }
        }
        let info = service.info().unwrap();
        let mut held: Vec<_> = info
            .models
            .iter()
            .map(|model| (model.name.as_str(), model.memory_bytes, model.requests))
            .collect();
        held.sort_unstable();
        let mut expected: Vec<_> =
            naive.0.iter().map(|model| (NAMES[model.name], model.bytes, model.open)).collect();
        expected.sort_unstable();
        assert_eq!(held, expected, "{step:?}");
        assert!(info.memory_used <= BUDGET);
        assert_eq!(stage.alive(), expected.len());
        assert_eq!(service.metrics().unwrap().open.len(), open.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_service_holds_what_a_naive_one_would(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}
