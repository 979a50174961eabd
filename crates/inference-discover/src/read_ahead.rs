//! Describing several models at once.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use inference_core::{DiscoveredModel, Error, Result};

use crate::{adapter_folder, gguf_model, safetensors_folder};

/// Most threads: more only wait for the file system.
const MAX_THREADS: usize = 8;

/// A model that was found and not yet looked into.
#[derive(Debug)]
pub(crate) enum Found {
    Gguf(PathBuf),
    Safetensors(PathBuf),
    Adapter(PathBuf),
}

impl Found {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Gguf(path) | Self::Safetensors(path) | Self::Adapter(path) => path,
        }
    }

    fn describe(&self) -> Result<DiscoveredModel> {
        match self {
            Self::Gguf(path) => gguf_model::describe(path),
            Self::Safetensors(path) => safetensors_folder::describe(path),
            Self::Adapter(path) => adapter_folder::describe(path),
        }
    }
}

/// Describes models, in their order, on as many threads as pay.
pub(crate) fn describe(found: &[Found]) -> Vec<Result<DiscoveredModel>> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(MAX_THREADS).min(found.len());
    if threads <= 1 {
        return found.iter().map(Found::describe).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(model) = found.get(index) else { return done };
            done.push((index, model.describe()));
        }
    };
    let mut described: Vec<Option<Result<DiscoveredModel>>> = found.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let theirs = helpers.into_iter().flat_map(|helper| helper.join().unwrap_or_default());
        for (index, model) in own.into_iter().chain(theirs) {
            if let Some(slot) = described.get_mut(index) {
                *slot = Some(model);
            }
        }
    });
    let lost = |path: &Path| Error::engine_message(format!("describing {} failed", path.display()));
    let models = described.into_iter().zip(found);
    models.map(|(model, found)| model.unwrap_or_else(|| Err(lost(found.path())))).collect()
}
