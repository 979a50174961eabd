//! Weights with an adapter added to them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use inference_core::{Error, Result};
use inference_lora::{AdapterWeights, MergeDelta, ModuleKind, ModuleTable};
use rayon::prelude::*;

use crate::weights::AlignedBytes;
use crate::{DecoderConfig, Weight, WeightSource, WeightType};

/// Elements that a worker widens at once.
const BLOCK: usize = 1 << 16;

/// The weights of another source with an adapter added: what a decoder over
/// them computes is the model with the adapter.
///
/// A changed weight is computed when it is asked for, and has the type of the
/// original where that is dense, else f32. A changed head or embedding of a
/// model whose head is the embedding makes two of them:
/// [`unties_head`](Self::unties_head).
pub struct MergedWeights {
    source: Box<dyn WeightSource>,
    adapter: AdapterWeights,
    table: ModuleTable,
    scale: f32,
    /// The names of the head and of the embedding where they are one.
    tied: Option<[String; 2]>,
}

impl MergedWeights {
    /// The weights of `source`, which `config` describes, plus `scale` times
    /// an adapter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// for a scale that is not finite, or is not 1 where the adapter replaces
    /// whole weights or biases;
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for a bias of a module that has none.
    pub fn new(
        source: Box<dyn WeightSource>,
        config: &DecoderConfig,
        adapter: AdapterWeights,
        scale: f32,
    ) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::invalid_option("scale", scale, "a finite number"));
        }
        let replaced = adapter.weights.keys().chain(adapter.biases.keys()).next();
        if let Some(module) = replaced.filter(|_| scale != 1.0) {
            let expected = format!("1, for the adapter replaces weights of `{module}`");
            return Err(Error::invalid_option("scale", scale, expected));
        }
        let table = config.modules();
        let has_bias = |name: &str| table.get(name).is_some_and(|module| module.bias);
        let with_bias = adapter.modules.iter().filter(|(_, delta)| delta.bias.is_some());
        if let Some((module, _)) = with_bias.into_iter().find(|(name, _)| !has_bias(name)) {
            let found = format!("a bias for `{module}`");
            let supported = "modules that have one";
            return Err(Error::unsupported_model("the adapter", "lora_bias", found, supported));
        }
        let roots = &config.names.roots;
        let embedding = |root: &&&str| source.contains(&format!("{root}{}.weight", embed(config)));
        let root = roots.iter().find(embedding).or(roots.first()).copied().unwrap_or_default();
        let names =
            [format!("{}.weight", config.names.head), format!("{root}{}.weight", embed(config))];
        let tied = config.tied_head.then_some(names);
        Ok(Self { source, adapter, table, scale, tied })
    }

    /// Whether the head, which is the embedding in the original, is a weight of
    /// its own here.
    #[must_use]
    pub fn unties_head(&self) -> bool {
        let changes = |kind: ModuleKind| {
            let names = self.adapter.modules.keys().chain(self.adapter.weights.keys());
            names.into_iter().any(|name| self.table.get(name).is_some_and(|m| m.kind == kind))
        };
        self.tied.is_some() && (changes(ModuleKind::Head) || changes(ModuleKind::Embedding))
    }

    /// The names of the head and of the embedding where they are one in the
    /// original.
    pub(crate) fn tied_names(&self) -> Option<&[String; 2]> {
        self.tied.as_ref()
    }

    /// The modules' names that the adapter changes.
    pub(crate) fn changed(&self) -> BTreeSet<&str> {
        let adapter = &self.adapter;
        let names = adapter.modules.keys().chain(adapter.weights.keys());
        names.chain(adapter.biases.keys()).map(String::as_str).collect()
    }

    /// The module that the adapter changes and whose tensor `name` is, where
    /// that tensor is changed.
    pub(crate) fn changes<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let (module, part) = self.part(name)?;
        let adapter = &self.adapter;
        let delta = adapter.modules.get(module);
        let changed = match part {
            "weight" => delta.is_some() || adapter.weights.contains_key(module),
            _ => {
                delta.is_some_and(|delta| delta.bias.is_some())
                    || adapter.biases.contains_key(module)
            }
        };
        changed.then_some(module)
    }

    /// The module's name and `weight` or `bias`.
    fn part<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let (path, part) = name.rsplit_once('.')?;
        let (module, _) = self.table.find(path)?;
        matches!(part, "weight" | "bias").then_some((module, part))
    }

    /// The original under a tensor's name.
    fn original(&self, name: &str) -> Result<Weight> {
        match &self.tied {
            Some([head, embedding]) if name == head => self.source.get(embedding),
            _ => self.source.get(name),
        }
    }

    fn merged_weight(&self, module: &str, original: Weight) -> Result<Weight> {
        let kind = dense_type(&original);
        let original = match self.adapter.weights.get(module) {
            None => original,
            Some(tensor) => stored(&original, tensor)?,
        };
        let Some(delta) = self.adapter.modules.get(module) else {
            return encoded(&original, kind, |_, _| ());
        };
        let change = MergeDelta::new(delta, self.scale)?;
        if original.shape().len() != 2 || original.columns() != change.columns() {
            return Err(Error::invalid_model(
                "weights",
                format!("tensor `{}`", original.name()),
                format!("{} columns, as the adapter", change.columns()),
                format!("shape {:?}", original.shape()),
            ));
        }
        encoded(&original, kind, |first, rows| change.apply(first, rows))
    }

    fn merged_bias(&self, module: &str, original: Weight) -> Result<Weight> {
        let kind = dense_type(&original);
        let original = match self.adapter.biases.get(module) {
            None => original,
            Some(tensor) => stored(&original, tensor)?,
        };
        let change = match self.adapter.modules.get(module) {
            Some(delta) => MergeDelta::new(delta, self.scale)?.bias(),
            None => None,
        };
        let change = change.unwrap_or_default();
        encoded(&original, kind, |_, values| {
            values.iter_mut().zip(&change).for_each(|(value, change)| *value += change);
        })
    }
}

impl WeightSource for MergedWeights {
    fn contains(&self, name: &str) -> bool {
        let head = self.tied.as_ref().is_some_and(|[head, _]| head == name);
        self.source.contains(name) || head && self.unties_head()
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let original = self.original(name)?;
        let Some(module) = self.changes(name) else { return Ok(original) };
        let merged = match name.ends_with(".bias") {
            true => self.merged_bias(module, original.clone()),
            false => self.merged_weight(module, original.clone()),
        };
        original.release_pages();
        merged
    }

    fn release_pages(&self) {
        self.source.release_pages();
    }
}

impl fmt::Debug for MergedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergedWeights").field("scale", &self.scale).finish_non_exhaustive()
    }
}

fn embed(config: &DecoderConfig) -> &'static str {
    config.names.embedding
}

/// The type of a merged weight.
fn dense_type(original: &Weight) -> DType {
    match original.kind() {
        WeightType::Dense(dtype) => dtype,
        WeightType::Blocks(_) | WeightType::Coded(_) => DType::F32,
    }
}

/// A tensor in the place of a weight.
fn stored(original: &Weight, tensor: &Tensor) -> Result<Weight> {
    let values: Vec<f32> = tensor
        .to_device(&Device::Cpu)
        .and_then(|tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1())
        .map_err(|error| Error::engine(format!("reading `{}`", original.name()), error))?;
    if tensor.dims() != original.shape() {
        return Err(Error::invalid_model(
            "the adapter",
            format!("the weight of `{}`", original.name()),
            format!("shape {:?}", original.shape()),
            format!("shape {:?}", tensor.dims()),
        ));
    }
    let mut bytes = AlignedBytes::zeroed(values.len() * 4);
    for (to, value) in bytes.as_mut().as_chunks_mut::<4>().0.iter_mut().zip(&values) {
        *to = value.to_le_bytes();
    }
    let (shape, kind) = (original.shape().to_vec(), WeightType::Dense(DType::F32));
    Weight::stored(original.name(), shape, kind, Arc::new(bytes), 0..values.len() * 4)
}

/// The weight in a dense type, after `change` was given its rows in f32, some
/// at a time with the number of the first.
fn encoded(
    original: &Weight,
    dtype: DType,
    change: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Weight> {
    let columns = original.columns().max(1);
    let width = dtype.size_in_bytes();
    let len = original.elem_count() * width;
    let mut bytes = AlignedBytes::zeroed(len);
    let rows = (BLOCK / columns).max(1);
    let blocks = bytes.as_mut().par_chunks_mut(rows * columns * width).enumerate();
    blocks.try_for_each(|(index, out)| {
        let mut values = vec![0.0; out.len() / width];
        original.decode_rows(index * rows, &mut values)?;
        change(index * rows, &mut values);
        let is_finite = encode(dtype, &values, out);
        if is_finite {
            return Ok(());
        }
        let what = format!("tensor `{}` with the adapter", original.name());
        let expected = format!("values that {} can hold", dtype.as_str());
        Err(Error::invalid_model("weights", what, expected, "larger ones"))
    })?;
    let kind = WeightType::Dense(dtype);
    Weight::stored(original.name(), original.shape().to_vec(), kind, Arc::new(bytes), 0..len)
}

/// Writes values in a type; whether all of them are finite there.
fn encode(dtype: DType, values: &[f32], out: &mut [u8]) -> bool {
    let mut finite = true;
    match dtype {
        DType::F16 => {
            for (to, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                let value = f16::from_f32(*value);
                finite &= value.is_finite();
                *to = value.to_le_bytes();
            }
        }
        DType::BF16 => {
            for (to, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                let value = bf16::from_f32(*value);
                finite &= value.is_finite();
                *to = value.to_le_bytes();
            }
        }
        _ => {
            for (to, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                finite &= value.is_finite();
                *to = value.to_le_bytes();
            }
        }
    }
    finite
}
