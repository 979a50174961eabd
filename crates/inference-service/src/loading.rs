//! How a model comes in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use inference_core::{Availability, Error, LoadOptions, Result, TextModel};

use crate::action::{Load, UnloadMode};
use crate::host::{Hold, Host};
use crate::memory::{self, Baseline};
use crate::reply::Loaded;
use crate::table::{Departure, Origin, Outcome, Phase, Slot};

/// A model that was just loaded, and what it counts for.
struct Arrival {
    model: Arc<dyn TextModel>,
    baseline: Baseline,
    loaded: Loaded,
}

/// How a name was found.
enum Found {
    /// It is there, or will be if that load succeeds.
    Shared(Hold, Option<Arc<dyn TextModel>>, u64, Outcome),
    /// It is ours to load, once these are gone.
    Own(Hold, Vec<String>, Vec<Departure>, Outcome),
}

impl Host {
    /// Loads a model, or joins whoever has or does, and keeps it from being
    /// unloaded to make room.
    pub(crate) fn load(self: &Arc<Self>, load: &Load) -> Result<(Loaded, Hold)> {
        load.validate()?;
        self.lock().check_open()?;
        let options = self.resolve(load)?;
        let expected =
            load.memory_bytes.unwrap_or_else(|| memory::expected(&load.source, &options));
        self.measure();
        match self.find(load, &options, expected)? {
            Found::Shared(hold, Some(model), bytes, _) => {
                let mut loaded = Loaded::new(&load.name, model.info().clone(), bytes);
                loaded.shared = true;
                Ok((loaded, hold))
            }
            Found::Shared(hold, None, _, outcome) => {
                let mut loaded = self.await_load(&outcome)?;
                loaded.shared = true;
                loaded.unloaded.clear();
                Ok((loaded, hold))
            }
            Found::Own(hold, unloaded, departures, outcome) => {
                let arrival = self.carry_in(load, &options, departures);
                let loaded = self.settle(&hold, arrival, expected, unloaded, &outcome)?;
                Ok((loaded, hold))
            }
        }
    }

    /// The load's options over the service's, with a backend that can run.
    /// What is refused here has made nobody leave.
    fn resolve(&self, load: &Load) -> Result<LoadOptions> {
        let options = load.options.clone().or(&self.options.load_options);
        options.validate()?;
        let backend = match &options.backend {
            None => self.registry().default_backend()?,
            Some(name) => {
                let backend = self.registry().get(name)?;
                if let Availability::Unavailable { reason } = backend.availability() {
                    return Err(Error::BackendUnavailable { name: name.clone(), reason });
                }
                backend
            }
        };
        Ok(options.with_backend(backend.name()))
    }

    /// Joins the slot of this name, or makes one.
    fn find(self: &Arc<Self>, load: &Load, options: &LoadOptions, expected: u64) -> Result<Found> {
        let name = &load.name;
        let mut table = self.lock();
        loop {
            table.check_open()?;
            let Some(slot) = table.models.get(name) else { break };
            match &slot.phase {
                Phase::Ready { model, .. } => {
                    slot.check_same(load, options)?;
                    let (model, bytes) = (Some(Arc::clone(model)), slot.bytes);
                    let Some(hold) = self.hold(&mut table, name) else { break };
                    return Ok(Found::Shared(hold, model, bytes, Outcome::default()));
                }
                Phase::Loading { outcome, .. } => {
                    slot.check_same(load, options)?;
                    table.check_may_wait(name)?;
                    let outcome = Arc::clone(outcome);
                    let Some(hold) = self.hold(&mut table, name) else { break };
                    return Ok(Found::Shared(hold, None, 0, outcome));
                }
                // Its requests may be read by this very thread.
                Phase::Draining(_) => {
                    let what = format!("model name `{name}`");
                    let found = "the name of a model that waits for its requests to end";
                    return Err(Error::invalid_input(what, "a free name", found));
                }
                Phase::Closing(_) => {
                    table.check_may_wait(name)?;
                    table = self.wait(table);
                }
            }
        }
        let unloaded = match table.make_room(name, expected, self.limits()) {
            Ok(unloaded) => unloaded,
            Err(error) => {
                table.totals.failed_loads += 1;
                return Err(error);
            }
        };
        let departures = table.evict(&unloaded);
        let outcome = Outcome::default();
        let mut own = options.clone();
        own.progress = None;
        let origin = Origin { source: load.source.clone(), options: own, pinned: load.pinned };
        let generation = table.tick();
        table.models.insert(
            name.clone(),
            Slot {
                generation,
                origin: Arc::new(origin),
                bytes: expected,
                holds: 1,
                requests: 0,
                last_used: generation,
                phase: Phase::Loading {
                    thread: std::thread::current().id(),
                    outcome: Arc::clone(&outcome),
                },
            },
        );
        let hold = Hold::new(Arc::clone(self), name.clone(), generation);
        drop(table);
        self.notify();
        Ok(Found::Own(hold, unloaded, departures, outcome))
    }

    /// Waits for the room to be free, then loads. A panic on the way is an
    /// error.
    fn carry_in(
        &self,
        load: &Load,
        options: &LoadOptions,
        departures: Vec<Departure>,
    ) -> Result<Arrival> {
        for departure in departures {
            // What cannot be closed was logged, and is gone nevertheless.
            let _ = self.end(departure);
        }
        let mut table = self.lock();
        while table.is_closing_any()
            && self.options.memory_budget.is_some_and(|budget| table.memory_used() > budget)
        {
            table = self.wait(table);
        }
        drop(table);
        let loading = || {
            let model = self.registry().load_model(load.source.clone(), options)?;
            let metrics = model.metrics();
            let baseline = Baseline::new(&metrics, options);
            let loaded = Loaded::new(&load.name, model.info().clone(), baseline.bytes(&metrics));
            Ok(Arrival { model, baseline, loaded })
        };
        catch_unwind(AssertUnwindSafe(loading)).unwrap_or_else(|panic| {
            let panic = panic_message(&*panic);
            Err(Error::engine_message(format!("loading `{}` panicked: {panic}", load.name)))
        })
    }

    /// Puts what was loaded, or why it was not, where everybody finds it.
    fn settle(
        &self,
        hold: &Hold,
        arrival: Result<Arrival>,
        expected: u64,
        mut unloaded: Vec<String>,
        outcome: &Outcome,
    ) -> Result<Loaded> {
        let name = &hold.name;
        let mut table = self.lock();
        let room = match &arrival {
            Err(error) => Err(error.clone()),
            Ok(_) if table.closed => Err(Error::Closed),
            Ok(arrival) if arrival.loaded.memory_bytes > expected => {
                table.make_room(name, arrival.loaded.memory_bytes, self.limits())
            }
            Ok(_) => Ok(Vec::new()),
        };
        let now = table.tick();
        let mut departures = Vec::new();
        let mut gone = None;
        let result = match (arrival, room) {
            (Ok(arrival), Ok(more)) => {
                departures = table.evict(&more);
                unloaded.extend(more);
                let Arrival { model, baseline, mut loaded } = arrival;
                if let Some(slot) = table.models.get_mut(name) {
                    slot.bytes = loaded.memory_bytes;
                    slot.last_used = now;
                    slot.phase = Phase::Ready { model, baseline };
                }
                table.totals.loads += 1;
                loaded.unloaded = unloaded;
                Ok(loaded)
            }
            (Ok(Arrival { model, baseline, loaded }), Err(error)) => {
                // It is there, but must not stay.
                if let Some(slot) = table.models.get_mut(name) {
                    slot.bytes = loaded.memory_bytes;
                    slot.phase = Phase::Ready { model, baseline };
                    departures.extend(slot.leave(name, UnloadMode::Close));
                }
                Err(error)
            }
            (Err(error), _) => {
                gone = table.models.remove(name);
                Err(error)
            }
        };
        table.totals.failed_loads += u64::from(result.is_err());
        // Nobody set it before: the load is ours.
        let _ = outcome.set(result.clone());
        drop(table);
        self.notify();
        drop(gone);
        match &result {
            Ok(loaded) => {
                tracing::info!(model = %name, bytes = loaded.memory_bytes, "model loaded");
            }
            Err(error) => tracing::warn!(model = %name, %error, "model not loaded"),
        }
        for departure in departures {
            let _ = self.end(departure);
        }
        result
    }
}

/// What a panic says.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
