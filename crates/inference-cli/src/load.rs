//! Loading the model of a command.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;

use inference::probe::{JsonLinesSink, ProbeBus};
use inference::{LoadOptions, Registry, TextModel};

use crate::args::LoadArgs;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::progress;

/// A loaded model and the probe that watches it.
pub(crate) struct Loaded {
    model: Arc<dyn TextModel>,
    probe: Option<Arc<ProbeBus>>,
}

impl Loaded {
    /// What watches it.
    pub(crate) fn probe(&self) -> Option<&Arc<ProbeBus>> {
        self.probe.as_ref()
    }
}

impl Deref for Loaded {
    type Target = dyn TextModel;

    fn deref(&self) -> &Self::Target {
        &*self.model
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.model.close();
        if let Some(probe) = &self.probe {
            probe.flush();
        }
    }
}

/// Loads the model that the arguments name, for at most `slots` sequences at
/// once (`None`: the backend's choice) where they do not say for how many.
pub(crate) fn load(args: &LoadArgs, slots: Option<usize>, context: &Context) -> Result<Loaded> {
    load_with(args, context, |options| {
        options.parallel_slots = options.parallel_slots.or(slots);
    })
}

/// Loads the model that the arguments name, with options that a command sets
/// itself.
pub(crate) fn load_with(
    args: &LoadArgs,
    context: &Context,
    adjust: impl FnOnce(&mut LoadOptions),
) -> Result<Loaded> {
    let mut options: LoadOptions = args.options().with_progress(progress::sink(context.notes));
    adjust(&mut options);
    let probe = match &args.probe {
        None => None,
        Some(path) => {
            let file = File::create(path)
                .map_err(|source| Failure::Input { what: path.display().to_string(), source })?;
            Some(Arc::new(ProbeBus::new(vec![Box::new(JsonLinesSink::new(file))])))
        }
    };
    options.probe_bus.clone_from(&probe);
    let source = args.source.source()?;
    let model = Registry::global().load_model(source, &options).map_err(Failure::Load)?;
    Ok(Loaded { model, probe })
}
