//! How models go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use inference_core::{Error, Result, TextModel};

use crate::action::{Unload, UnloadMode};
use crate::host::Host;
use crate::loading::panic_message;
use crate::reply::Unloaded;
use crate::table::{Departure, Phase};

impl Host {
    /// Unloads a model and waits until it is gone.
    pub(crate) fn unload(&self, unload: &Unload) -> Result<Unloaded> {
        let Unload { name, mode } = unload;
        let mut table = self.lock();
        loop {
            let Some(slot) = table.models.get_mut(name) else { return Err(table.not_loaded(name)) };
            let (generation, requests) = (slot.generation, slot.requests);
            let unloaded = Unloaded { name: name.clone(), requests };
            if let Some(departure) = slot.leave(name, *mode) {
                drop(table);
                self.notify();
                self.end(departure)?;
                return Ok(unloaded);
            }
            table.check_may_wait(name)?;
            let Some(slot) = table.models.get_mut(name) else { return Err(table.not_loaded(name)) };
            if let Phase::Loading { .. } = slot.phase {
                table = self.wait(table);
                continue;
            }
            // Somebody else unloads it already.
            let hurried = if *mode == UnloadMode::Close { slot.hurry() } else { None };
            if let Some(model) = hurried {
                drop(table);
                self.notify();
                shut(&model, UnloadMode::Close)?;
                table = self.lock();
            }
            while table.slot(name, generation).is_some() {
                table = self.wait(table);
            }
            return Ok(unloaded);
        }
    }

    /// Ends a model that was taken out of service, and frees its name.
    pub(crate) fn end(&self, departure: Departure) -> Result<()> {
        let Departure { name, generation, model, mode } = departure;
        let outcome = shut(&model, mode);
        drop(model);
        let mut table = self.lock();
        let ours = table.slot(&name, generation).is_some();
        let gone = if ours { table.models.remove(&name) } else { None };
        table.totals.unloads += u64::from(gone.is_some());
        drop(table);
        self.notify();
        tracing::info!(model = %name, "model unloaded");
        outcome
    }

    /// Takes on nothing more, and ends every model. Waits for those that
    /// others end or load, if asked to.
    pub(crate) fn close(&self, mode: UnloadMode, wait: bool) -> Result<()> {
        let mut table = self.lock();
        table.closed = true;
        let mut departures = Vec::new();
        let mut hurried = Vec::new();
        for (name, slot) in &mut table.models {
            departures.extend(slot.leave(name, mode));
            if mode == UnloadMode::Close {
                hurried.extend(slot.hurry());
            }
        }
        drop(table);
        self.notify();
        let mut outcome = Ok(());
        for model in hurried {
            outcome = outcome.and(shut(&model, UnloadMode::Close));
        }
        for departure in departures {
            outcome = outcome.and(self.end(departure));
        }
        if wait {
            let mut table = self.lock();
            while !table.models.is_empty() {
                table.check_may_wait("any")?;
                table = self.wait(table);
            }
        }
        outcome
    }
}

/// Drains or closes a model; a panic of it is an error.
fn shut(model: &Arc<dyn TextModel>, mode: UnloadMode) -> Result<()> {
    let shut = || match mode {
        UnloadMode::Drain => model.drain(),
        UnloadMode::Close => model.close(),
    };
    catch_unwind(AssertUnwindSafe(shut)).map_err(|panic| {
        let error = Error::engine_message(format!("closing panicked: {}", panic_message(&*panic)));
        tracing::error!(%error, "a model could not be closed");
        error
    })
}
