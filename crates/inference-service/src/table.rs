//! The models and requests of a service, and who must go to make room. Pure
//! state: nothing here calls a model.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;

use inference_core::{CancelToken, Error, LoadOptions, ModelSource, Result, TextModel};

use crate::action::{Load, RequestId, UnloadMode};
use crate::memory::Baseline;
use crate::reply::{Loaded, ModelState, RequestKind, RequestStatus};

/// Everything that is behind the service's lock.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) models: BTreeMap<String, Slot>,
    pub(crate) requests: BTreeMap<RequestId, Open>,
    pub(crate) totals: Totals,
    /// Nothing more is taken on.
    pub(crate) closed: bool,
    /// Counts uses, requests and slots.
    clock: u64,
    last_request: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) loads: u64,
    pub(crate) failed_loads: u64,
    pub(crate) unloads: u64,
    pub(crate) evictions: u64,
    pub(crate) requests: u64,
}

/// A name that is taken.
pub(crate) struct Slot {
    /// Tells it from earlier and later ones of the same name.
    pub(crate) generation: u64,
    pub(crate) origin: Arc<Origin>,
    /// What it counts for in the memory budget.
    pub(crate) bytes: u64,
    /// Those who need it to stay; 0 is idle.
    pub(crate) holds: usize,
    /// Open requests.
    pub(crate) requests: usize,
    pub(crate) last_used: u64,
    pub(crate) phase: Phase,
}

/// What a slot was loaded from.
pub(crate) struct Origin {
    pub(crate) source: ModelSource,
    /// Without a progress sink, which belongs to whoever loaded.
    pub(crate) options: LoadOptions,
    pub(crate) pinned: bool,
}

/// What a load came to; set when it ends.
pub(crate) type Outcome = Arc<OnceLock<Result<Loaded>>>;

pub(crate) enum Phase {
    Loading {
        /// Who loads it: that thread must not wait for itself.
        thread: ThreadId,
        outcome: Outcome,
    },
    Ready {
        model: Arc<dyn TextModel>,
        baseline: Baseline,
    },
    /// It is there until its requests have ended by themselves.
    Draining(Arc<dyn TextModel>),
    /// It goes, and its memory with it, without waiting for anybody.
    Closing(Arc<dyn TextModel>),
}

/// An open request.
pub(crate) struct Open {
    pub(crate) model: String,
    pub(crate) kind: RequestKind,
    pub(crate) cancel: CancelToken,
}

/// A model that has to be ended, outside of the lock.
pub(crate) struct Departure {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) model: Arc<dyn TextModel>,
    pub(crate) mode: UnloadMode,
}

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory: Option<u64>,
    pub(crate) models: Option<usize>,
}

impl Slot {
    pub(crate) fn state(&self) -> ModelState {
        match self.phase {
            Phase::Loading { .. } => ModelState::Loading,
            Phase::Ready { .. } => ModelState::Ready,
            Phase::Draining(_) | Phase::Closing(_) => ModelState::Unloading,
        }
    }

    pub(crate) fn model(&self) -> Option<&Arc<dyn TextModel>> {
        match &self.phase {
            Phase::Loading { .. } => None,
            Phase::Ready { model, .. } | Phase::Draining(model) | Phase::Closing(model) => {
                Some(model)
            }
        }
    }

    /// Whether it may be unloaded to make room.
    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. }) && self.holds == 0 && !self.origin.pinned
    }

    /// Refuses a load of the same name that wants something else.
    pub(crate) fn check_same(&self, load: &Load, options: &LoadOptions) -> Result<()> {
        if self.origin.source != load.source {
            let expected =
                format!("a free name, or what it was loaded from: {}", self.origin.source);
            return Err(Error::invalid_input(name_of(load), expected, load.source.to_string()));
        }
        if !self.origin.options.loads_as(options) || self.origin.pinned != load.pinned {
            let expected = "a free name, or the options that it was loaded with";
            return Err(Error::invalid_input(name_of(load), expected, "other options"));
        }
        Ok(())
    }

    /// Takes a model that is ready out of service.
    pub(crate) fn leave(&mut self, name: &str, mode: UnloadMode) -> Option<Departure> {
        let Phase::Ready { model, .. } = &self.phase else { return None };
        let model = Arc::clone(model);
        self.phase = match mode {
            UnloadMode::Drain => Phase::Draining(Arc::clone(&model)),
            UnloadMode::Close => Phase::Closing(Arc::clone(&model)),
        };
        Some(Departure { name: name.to_owned(), generation: self.generation, model, mode })
    }

    /// Cuts a drain short: the model that is now to be closed.
    pub(crate) fn hurry(&mut self) -> Option<Arc<dyn TextModel>> {
        let Phase::Draining(model) = &self.phase else { return None };
        let model = Arc::clone(model);
        self.phase = Phase::Closing(Arc::clone(&model));
        Some(model)
    }
}

fn name_of(load: &Load) -> String {
    format!("model name `{}`", load.name)
}

impl Table {
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// A number larger than all before.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        self.totals.requests += 1;
        RequestId(self.last_request)
    }

    /// Whether the service ever gave this id.
    pub(crate) fn knows(&self, id: RequestId) -> bool {
        (1..=self.last_request).contains(&id.0)
    }

    /// The slot of this name, if it is still the same.
    pub(crate) fn slot(&mut self, name: &str, generation: u64) -> Option<&mut Slot> {
        self.models.get_mut(name).filter(|slot| slot.generation == generation)
    }

    /// No model of this name takes requests.
    pub(crate) fn not_loaded(&self, name: &str) -> Error {
        let loaded: Vec<_> = self
            .models
            .iter()
            .filter(|(_, slot)| slot.state() == ModelState::Ready)
            .map(|(name, _)| name.as_str())
            .collect();
        let loaded = if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") };
        Error::model_not_found(name, format!("loaded: {loaded}"))
    }

    /// Refuses to wait for another thread where this one is amid a load, which
    /// that other thread may in turn be waiting for.
    pub(crate) fn check_may_wait(&self, name: &str) -> Result<()> {
        let here = std::thread::current().id();
        let loads = |slot: &&Slot| match slot.phase {
            Phase::Loading { thread, .. } => thread == here,
            _ => false,
        };
        if self.models.values().any(|slot| loads(&slot)) {
            let what = format!("action on model `{name}`");
            let expected = "none that waits, inside of a callback of a load";
            return Err(Error::invalid_input(what, expected, "a model in transition"));
        }
        Ok(())
    }

    /// Bytes that all models count for.
    pub(crate) fn memory_used(&self) -> u64 {
        self.models.values().fold(0, |sum, slot| sum.saturating_add(slot.bytes))
    }

    pub(crate) fn is_closing_any(&self) -> bool {
        self.models.values().any(|slot| matches!(slot.phase, Phase::Closing(_)))
    }

    /// Which idle models have to go so that `bytes` for `name` fit, least
    /// recently used first. What is closing anyway does not count.
    ///
    /// # Errors
    ///
    /// `Exhausted` where that does not suffice.
    pub(crate) fn make_room(&self, name: &str, bytes: u64, limits: Limits) -> Result<Vec<String>> {
        let staying = |(other, slot): &(&String, &Slot)| {
            *other != name && !matches!(slot.phase, Phase::Closing(_))
        };
        let others: Vec<_> = self.models.iter().filter(staying).collect();
        let mut used = others.iter().fold(0_u64, |sum, (_, slot)| sum.saturating_add(slot.bytes));
        let mut count = others.len();
        let over_memory =
            |used: u64| limits.memory.is_some_and(|budget| used.saturating_add(bytes) > budget);
        let over_count = |count: usize| limits.models.is_some_and(|most| count >= most);

        let mut idle: Vec<_> = others.into_iter().filter(|(_, slot)| slot.is_idle()).collect();
        idle.sort_by_key(|(_, slot)| slot.last_used);
        let mut leaving = Vec::new();
        for (other, slot) in idle {
            let helps = over_count(count) || over_memory(used) && slot.bytes > 0;
            if helps {
                used = used.saturating_sub(slot.bytes);
                count -= 1;
                leaving.push(other.clone());
            }
        }
        if let Some(budget) = limits.memory.filter(|_| over_memory(used)) {
            let available = budget.saturating_sub(used);
            return Err(Error::exhausted("memory budget of the models (bytes)", bytes, available));
        }
        if let Some(most) = limits.models.filter(|_| over_count(count)) {
            return Err(Error::exhausted("loaded models", count as u64 + 1, most as u64));
        }
        Ok(leaving)
    }

    /// Takes these models out of service, to make room.
    pub(crate) fn evict(&mut self, names: &[String]) -> Vec<Departure> {
        let mut departures = Vec::with_capacity(names.len());
        for name in names {
            let slot = self.models.get_mut(name);
            departures.extend(slot.and_then(|slot| slot.leave(name, UnloadMode::Close)));
        }
        self.totals.evictions += departures.len() as u64;
        departures
    }

    pub(crate) fn open_requests(&self, model: Option<&str>) -> Vec<RequestStatus> {
        let wanted = self.requests.iter().filter(|(_, open)| model.is_none_or(|m| m == open.model));
        wanted
            .map(|(id, open)| RequestStatus {
                id: *id,
                model: open.model.clone(),
                kind: open.kind,
                cancelled: open.cancel.is_cancelled(),
            })
            .collect()
    }
}
