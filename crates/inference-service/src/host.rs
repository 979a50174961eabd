//! What the handles of one service share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use inference_core::{CancelToken, Error, Registry, Result, TextModel};

use crate::action::{Cancel, Load, RequestId, Target};
use crate::options::ServiceOptions;
use crate::reply::{Cancelled, ModelStatus, RequestKind, ServiceInfo, ServiceMetrics};
use crate::table::{Limits, Open, Outcome, Phase, Table};

/// The backends that a service loads with.
pub(crate) enum Backends {
    /// Those of the process.
    Global,
    /// Those that were given.
    Given(Arc<Registry>),
}

/// The models, and the one lock in front of them. The lock is held for
/// bookkeeping alone: whatever belongs to a model, a backend or a caller is
/// called, and dropped, without it.
pub(crate) struct Host {
    pub(crate) options: ServiceOptions,
    pub(crate) backends: Backends,
    table: Mutex<Table>,
    /// A model came, went or is about to go.
    changed: Condvar,
}

impl Host {
    pub(crate) fn new(options: ServiceOptions, backends: Backends) -> Self {
        Self { options, backends, table: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn registry(&self) -> &Registry {
        match &self.backends {
            Backends::Global => Registry::global(),
            Backends::Given(registry) => registry,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { memory: self.options.memory_budget, models: self.options.max_models }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change.
    pub(crate) fn wait<'a>(&self, table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        self.changed.wait(table).unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait of a change.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Keeps the model of this name from being unloaded to make room. It is in
    /// the table.
    pub(crate) fn hold(self: &Arc<Self>, table: &mut Table, name: &str) -> Option<Hold> {
        let now = table.tick();
        let slot = table.models.get_mut(name)?;
        slot.holds += 1;
        slot.last_used = now;
        Some(Hold { host: Arc::clone(self), name: name.to_owned(), generation: slot.generation })
    }

    /// The model of a hold, if it takes requests.
    fn model_of(&self, hold: &Hold) -> Result<Arc<dyn TextModel>> {
        let mut table = self.lock();
        match table.slot(&hold.name, hold.generation).map(|slot| &slot.phase) {
            Some(Phase::Ready { model, .. }) => Ok(Arc::clone(model)),
            _ => Err(table.not_loaded(&hold.name)),
        }
    }

    /// The model that a request is for. Waits where it is being loaded, and
    /// loads the default model where it is not there.
    pub(crate) fn acquire(self: &Arc<Self>, target: &Target) -> Result<(Hold, Arc<dyn TextModel>)> {
        let default = self.options.default_model.as_ref();
        let (name, default): (_, Option<&Load>) = match target {
            Target::Named(name) => (name, default.filter(|load| load.name == *name)),
            Target::Default => {
                let missing = "a name, for the service has no default model";
                let missing = || Error::invalid_input("model name", missing, "none");
                let load = default.ok_or_else(missing)?;
                (&load.name, Some(load))
            }
        };
        let mut table = self.lock();
        table.check_open()?;
        let hold = match table.models.get(name).map(|slot| &slot.phase) {
            Some(Phase::Ready { .. }) => self.hold(&mut table, name),
            Some(Phase::Loading { outcome, .. }) => {
                table.check_may_wait(name)?;
                let outcome = Arc::clone(outcome);
                let hold = self.hold(&mut table, name);
                drop(table);
                self.await_load(&outcome)?;
                table = self.lock();
                hold
            }
            _ => match default {
                Some(load) => {
                    drop(table);
                    let (_, hold) = self.load(load)?;
                    table = self.lock();
                    Some(hold)
                }
                None => None,
            },
        };
        let Some(hold) = hold else { return Err(table.not_loaded(name)) };
        drop(table);
        let model = self.model_of(&hold)?;
        Ok((hold, model))
    }

    /// Waits until another thread's load has ended.
    pub(crate) fn await_load(&self, outcome: &Outcome) -> Result<crate::reply::Loaded> {
        let mut table = self.lock();
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone();
            }
            table = self.wait(table);
        }
    }

    /// Opens a request of the model that `hold` is for.
    pub(crate) fn open(
        &self,
        hold: Hold,
        kind: RequestKind,
        cancel: CancelToken,
    ) -> Result<OpenRequest> {
        let most = self.options.max_requests;
        let mut table = self.lock();
        let refused = match table.slot(&hold.name, hold.generation) {
            Some(slot) if slot.requests >= most => {
                let resource = format!("open requests of model `{}`", hold.name);
                Some(Error::exhausted(resource, slot.requests as u64 + 1, most as u64))
            }
            Some(slot) => {
                slot.requests += 1;
                None
            }
            None => Some(table.not_loaded(&hold.name)),
        };
        if let Some(error) = refused {
            // Before the hold, which locks it too.
            drop(table);
            return Err(error);
        }
        let id = table.next_request();
        let open = Open { model: hold.name.clone(), kind, cancel };
        table.requests.insert(id, open);
        drop(table);
        Ok(OpenRequest { id, hold })
    }

    pub(crate) fn cancel(&self, which: &Cancel) -> Result<Cancelled> {
        let table = self.lock();
        let wanted = |id: &RequestId, open: &Open| match which {
            Cancel::Request(wanted) => wanted == id,
            Cancel::Model(name) => *name == open.model,
            Cancel::All => true,
        };
        match which {
            Cancel::Request(id) if !table.knows(*id) => {
                return Err(Error::invalid_input(
                    "request id",
                    "one that was given out",
                    id.to_string(),
                ));
            }
            Cancel::Model(name) if !table.models.contains_key(name) => {
                return Err(table.not_loaded(name));
            }
            Cancel::Request(_) | Cancel::Model(_) | Cancel::All => {}
        }
        let mut cancelled = Cancelled::default();
        for (id, open) in table.requests.iter().filter(|(id, open)| wanted(id, open)) {
            open.cancel.cancel();
            cancelled.requests.push(*id);
        }
        Ok(cancelled)
    }

    /// Reads what the models hold by now.
    pub(crate) fn measure(&self) {
        let mut ready = Vec::new();
        for (name, slot) in &self.lock().models {
            if let Phase::Ready { model, baseline } = &slot.phase {
                ready.push((name.clone(), slot.generation, Arc::clone(model), *baseline));
            }
        }
        for (name, generation, model, baseline) in ready {
            let bytes = baseline.bytes(&model.metrics());
            if let Some(slot) = self.lock().slot(&name, generation) {
                slot.bytes = bytes;
            }
        }
    }

    pub(crate) fn info(&self, model: Option<&str>) -> Result<ServiceInfo> {
        self.measure();
        let table = self.lock();
        if let Some(name) = model.filter(|name| !table.models.contains_key(*name)) {
            return Err(table.not_loaded(name));
        }
        let mut models = Vec::new();
        let mut loaded = Vec::new();
        for (name, slot) in table.models.iter().filter(|(name, _)| model.is_none_or(|m| m == *name))
        {
            loaded.push(slot.model().map(Arc::clone));
            models.push(ModelStatus {
                name: name.clone(),
                source: slot.origin.source.to_string(),
                state: slot.state(),
                pinned: slot.origin.pinned,
                memory_bytes: slot.bytes,
                requests: slot.requests,
                info: None,
            });
        }
        let memory_used = table.memory_used();
        drop(table);
        for (status, model) in models.iter_mut().zip(loaded) {
            status.info = model.map(|model| model.info().clone());
        }
        Ok(ServiceInfo {
            models,
            default_model: self.options.default_model.as_ref().map(|load| load.name.clone()),
            memory_used,
            memory_budget: self.options.memory_budget,
        })
    }

    pub(crate) fn metrics(&self, model: Option<&str>) -> Result<ServiceMetrics> {
        self.measure();
        let table = self.lock();
        if let Some(name) = model.filter(|name| !table.models.contains_key(*name)) {
            return Err(table.not_loaded(name));
        }
        let totals = table.totals;
        let mut metrics = ServiceMetrics {
            loads: totals.loads,
            failed_loads: totals.failed_loads,
            unloads: totals.unloads,
            evictions: totals.evictions,
            requests: totals.requests,
            memory_used: table.memory_used(),
            open: table.open_requests(model),
            models: std::collections::BTreeMap::new(),
        };
        let mut loaded = Vec::new();
        for (name, slot) in table.models.iter().filter(|(name, _)| model.is_none_or(|m| m == *name))
        {
            if let Phase::Ready { model, .. } = &slot.phase {
                loaded.push((name.clone(), Arc::clone(model)));
            }
        }
        drop(table);
        metrics.models = loaded.into_iter().map(|(name, model)| (name, model.metrics())).collect();
        Ok(metrics)
    }
}

/// Keeps a model from being unloaded to make room.
pub(crate) struct Hold {
    host: Arc<Host>,
    pub(crate) name: String,
    generation: u64,
}

impl Hold {
    /// For a slot that counts this hold already.
    pub(crate) fn new(host: Arc<Host>, name: String, generation: u64) -> Self {
        Self { host, name, generation }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.host.lock();
        let now = table.tick();
        if let Some(slot) = table.slot(&self.name, self.generation) {
            slot.holds -= 1;
            slot.last_used = now;
        }
    }
}

/// A request from its action to its end.
pub(crate) struct OpenRequest {
    pub(crate) id: RequestId,
    pub(crate) hold: Hold,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut table = self.hold.host.lock();
        let ended = table.requests.remove(&self.id);
        if let Some(slot) = table.slot(&self.hold.name, self.hold.generation) {
            slot.requests -= 1;
        }
        drop(table);
        drop(ended);
    }
}
