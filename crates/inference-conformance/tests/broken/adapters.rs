//! Adapters of the specimen: other weights, made of the bytes of a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;

use inference_core::{AdapterInfo, Adapters, BASE_MODEL, DEFAULT_ADAPTER, Error, Result};

use crate::defect::Defect;
use crate::language::mix;
use crate::model::Model;

/// What is loaded, by name.
pub(crate) type Loaded = BTreeMap<String, (AdapterInfo, u64)>;

/// What an adapter makes of the weights at a scale; nothing at 0.
fn change(hash: u64, scale: f32) -> u64 {
    if scale == 0.0 { 0 } else { mix(hash ^ u64::from(scale.to_bits())) | 1 }
}

impl Model {
    fn loaded<T>(&self, look: impl FnOnce(&mut Loaded) -> T) -> T {
        look(&mut self.adapters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The change of the weights for a request that names this adapter.
    pub(crate) fn adapter(&self, name: Option<&str>) -> Result<u64> {
        let name = match name {
            Some(BASE_MODEL) if self.flaw().is(Defect::BaseAdapted) => None,
            Some(BASE_MODEL) => return Ok(self.moved()),
            name => name,
        };
        let change = |loaded: &mut Loaded| {
            let (info, hash) = loaded.get(name.unwrap_or(DEFAULT_ADAPTER))?;
            Some(change(*hash, info.scale))
        };
        match (self.loaded(change), name) {
            (Some(_), _) if self.flaw().is(Defect::AdapterUnapplied) => Ok(0),
            (Some(change), _) => Ok(change),
            (None, None) => Ok(self.moved()),
            (None, Some(_)) if self.flaw().is(Defect::AdapterCrashes) => {
                Err(Error::engine_message("no such adapter"))
            }
            (None, Some(name)) => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::invalid_input("adapter", "the name of a loaded one", name)
}

fn check(scale: f32) -> Result<()> {
    match scale.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid_option("scale", scale, "a finite number")),
    }
}

impl Adapters for Model {
    fn load(&self, name: &str, path: &Path, scale: f32) -> Result<AdapterInfo> {
        check(scale)?;
        if name == BASE_MODEL {
            return Err(Error::invalid_input("name of an adapter", "a character", "none"));
        }
        let file = path.join("adapter_model.safetensors");
        let bytes = std::fs::read(&file).map_err(|error| Error::io(&file, "read", error))?;
        let header = bytes.first_chunk::<8>().map_or(0, |len| u64::from_le_bytes(*len) as usize);
        let values = bytes.get(8 + header..).unwrap_or_default().chunks_exact(4);
        let mut values = values.map(|value| f32::from_le_bytes(value.try_into().unwrap()));
        let damaged = values.clone().any(f32::is_nan);
        if damaged && !self.flaw().is(Defect::NanLoaded) {
            let (place, expected) = (file.display().to_string(), "finite numbers");
            return Err(Error::invalid_model(place, "values", expected, "NaN"));
        }
        let hash = values.try_fold(0, |hash, value| Some(mix(hash ^ u64::from(value.to_bits()))));
        let info = AdapterInfo::new(name, 2, scale, bytes.len() / 4);
        let entry = (info.clone(), hash.unwrap_or(0));
        self.loaded(|loaded| loaded.insert(name.to_owned(), entry));
        Ok(info)
    }

    fn unload(&self, name: &str) -> Result<()> {
        let removed = self.loaded(|loaded| loaded.remove(name));
        let (info, hash) = removed.ok_or_else(|| unknown(name))?;
        let change = change(hash, info.scale);
        loop {
            let state = self.shared.lock();
            let all = state.running.iter().chain(&state.waiting);
            let used = all.into_iter().any(|sequence| sequence.adapter == change);
            drop(state);
            if !used || self.flaw().is(Defect::UnloadsAtOnce) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn set_scale(&self, name: &str, scale: f32) -> Result<()> {
        check(scale)?;
        self.loaded(|loaded| {
            loaded.get_mut(name).map(|(info, _)| info.scale = scale).ok_or_else(|| unknown(name))
        })
    }

    fn list(&self) -> Vec<AdapterInfo> {
        self.loaded(|loaded| loaded.values().map(|(info, _)| info.clone()).collect())
    }
}
