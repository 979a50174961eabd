//! Weights for candle-transformers: found by its names, widened to f32, and
//! shared by all instances of a model.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error as CandleError, Result as CandleResult, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use inference_core::{Error, Result};

use crate::{SafetensorsFiles, WeightSource};

/// Names that checkpoints have for tensors that hold no weights.
const NO_WEIGHTS: [&str; 3] = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];

/// The tensors of a model.
#[derive(Clone)]
pub(super) struct SharedTensors {
    inner: Arc<Inner>,
}

struct Inner {
    files: SafetensorsFiles,
    renamed: &'static [(&'static str, &'static str)],
    device: Device,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// By the name in the files.
    tensors: HashMap<String, Tensor>,
    /// The first thing that was wrong.
    error: Option<Error>,
}

impl SharedTensors {
    pub(super) fn new(
        files: SafetensorsFiles,
        renamed: &'static [(&'static str, &'static str)],
        device: Device,
    ) -> Self {
        let loaded = Mutex::default();
        Self { inner: Arc::new(Inner { files, renamed, device, loaded }) }
    }

    /// What candle-transformers builds a model from.
    pub(super) fn builder(&self) -> VarBuilder<'static> {
        let device = self.inner.device.clone();
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device)
    }

    /// The error behind one of candle, where it was about a tensor.
    pub(super) fn explain(&self, error: CandleError) -> Error {
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.error.take().unwrap_or_else(|| Error::engine("building the model", error))
    }

    /// Elements of all tensors in use, and their bytes in memory.
    pub(super) fn size(&self) -> (u64, u64) {
        let loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let elements = loaded.tensors.values().map(|tensor| tensor.elem_count() as u64).sum();
        (elements, 4 * elements)
    }

    /// Checks that the model uses every tensor of the files but `spare`: one
    /// that it does not know, such as a bias, would be missing from its
    /// results.
    pub(super) fn all_used(&self, spare: Option<&str>) -> Result<()> {
        let loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let no_weights = |name: &str| NO_WEIGHTS.iter().any(|end| name.ends_with(end));
        let unused: BTreeSet<&str> = self
            .inner
            .files
            .names()
            .filter(|name| !loaded.tensors.contains_key(*name))
            .filter(|name| !no_weights(name) && spare != Some(*name))
            .collect();
        match unused.first() {
            None => Ok(()),
            Some(name) => Err(Error::unsupported_model(
                self.inner.files.file(),
                format!("tensor `{name}`"),
                "present",
                "models without it",
            )),
        }
    }

    fn load(&self, name: &str, shape: Option<&Shape>) -> Result<Tensor> {
        let inner = &*self.inner;
        let stored = inner.stored_name(name);
        let mut loaded = inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let tensor = match loaded.tensors.get(&stored) {
            Some(tensor) => tensor.clone(),
            None => {
                let weight = inner.files.get(&stored)?;
                check(&stored, weight.shape(), shape)?;
                let widened = weight.to_tensor(&inner.device)?.to_dtype(DType::F32);
                let error = |e| Error::engine(format!("widening tensor `{stored}`"), e);
                let tensor = widened.map_err(error)?;
                if let Some(raw) = inner.files.raw(&stored) {
                    raw.release();
                }
                loaded.tensors.insert(stored.clone(), tensor.clone());
                tensor
            }
        };
        check(&stored, tensor.dims(), shape)?;
        Ok(tensor)
    }

    fn find(&self, name: &str, shape: Option<&Shape>) -> CandleResult<Tensor> {
        self.load(name, shape).map_err(|error| {
            let message = error.to_string();
            let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.error.get_or_insert(error);
            CandleError::Msg(message)
        })
    }
}

impl Inner {
    /// The name in the files: that which is asked for, or else with its
    /// beginning renamed.
    fn stored_name(&self, name: &str) -> String {
        if self.files.contains(name) {
            return name.to_owned();
        }
        let renamed = self.renamed.iter().find_map(|(asked, stored)| {
            let rest = name.strip_prefix(asked)?;
            Some(format!("{stored}{rest}"))
        });
        renamed.unwrap_or_else(|| name.to_owned())
    }
}

fn check(name: &str, found: &[usize], expected: Option<&Shape>) -> Result<()> {
    match expected.map(Shape::dims).filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => Err(Error::invalid_model(
            "weights",
            format!("tensor `{name}`"),
            format!("shape {expected:?}"),
            format!("shape {found:?}"),
        )),
    }
}

impl SimpleBackend for SharedTensors {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> CandleResult<Tensor> {
        self.find(name, Some(&shape))
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        self.find(name, None)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.files.contains(&self.inner.stored_name(name))
    }
}
