//! Adapters written as PEFT's files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use inference_core::{Error, Result};
use safetensors::tensor::{Dtype, View};

use crate::module_patterns::ends_with_name;
use crate::peft::{PREFIX, WEIGHTS};
use crate::peft_config::CONFIG;
use crate::pieces::transposed;
use crate::replace_files::replace_files;
use crate::{AdapterWeights, BiasMode, ModuleDelta, ModuleKind, ModuleTable, PeftConfig};

/// Writes an adapter to a folder as PEFT reads it. Files that are there are
/// replaced once the new ones are whole on the disk.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput) where
/// configuration and weights do not fit together or a module is not of
/// `table`, [`ErrorKind::Io`](inference_core::ErrorKind::Io).
pub fn save_peft(
    folder: &Path,
    config: &PeftConfig,
    weights: &AdapterWeights,
    table: &ModuleTable,
) -> Result<()> {
    let (json, tensors) = peft_files(config, weights, table)?;
    replace_files(folder, &[(WEIGHTS, &tensors), (CONFIG, json.as_bytes())])
}

/// The content of `adapter_config.json` and of `adapter_model.safetensors`.
///
/// # Errors
///
/// As [`save_peft`].
pub fn peft_files(
    config: &PeftConfig,
    weights: &AdapterWeights,
    table: &ModuleTable,
) -> Result<(String, Vec<u8>)> {
    let mut tensors = BTreeMap::new();
    for (name, delta) in &weights.modules {
        let path = table.path(name);
        let Some(module) = table.get(name) else {
            return Err(Error::invalid_input("adapter", "a module of the model", name));
        };
        check(config, &path, module.kind, delta)?;
        let mut add = |ending: &str, tensor: Tensor| {
            tensors.insert(format!("{PREFIX}{path}.{ending}"), tensor);
        };
        if module.kind == ModuleKind::Embedding {
            add("lora_embedding_A", transposed("the adapter", name, &delta.b)?);
            add("lora_embedding_B", transposed("the adapter", name, &delta.a)?);
        } else {
            add("lora_A.weight", delta.a.clone());
            add("lora_B.weight", delta.b.clone());
        }
        if let Some(magnitude) = &delta.magnitude {
            add("lora_magnitude_vector", magnitude.clone());
        }
        if let Some(bias) = &delta.bias {
            add("lora_B.bias", bias.clone());
        }
    }
    for (name, tensor) in &weights.weights {
        let path = table.path(name);
        if !config.modules_to_save.iter().any(|saved| ends_with_name(&path, saved)) {
            return Err(Error::invalid_input("modules_to_save", format!("`{name}`"), "without it"));
        }
        tensors.insert(format!("{PREFIX}{path}.weight"), tensor.clone());
    }
    for (name, tensor) in &weights.biases {
        if config.bias == BiasMode::None {
            let found = format!("none, and a bias of `{name}`");
            return Err(Error::invalid_input("bias", "lora_only or all", found));
        }
        let base = if weights.modules.contains_key(name) { ".base_layer" } else { "" };
        tensors.insert(format!("{PREFIX}{}{base}.bias", table.path(name)), tensor.clone());
    }
    let views = tensors.iter().map(|(name, tensor)| Ok((name, Stored::new(name, tensor)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| Error::engine("writing the adapter's tensors", error))?;
    Ok((config.to_json(), bytes))
}

/// Checks that the configuration says of a module what its change is.
fn check(config: &PeftConfig, path: &str, kind: ModuleKind, delta: &ModuleDelta) -> Result<()> {
    let differs = |what: &str, expected: String, found: String| {
        Err(Error::invalid_input(format!("{what} of `{path}`"), expected, found))
    };
    if !config.targets(path, kind)? {
        return differs("target_modules", "a target".to_owned(), "none".to_owned());
    }
    let rank = config.rank_of(path)?;
    if delta.rank() != rank {
        return differs("rank", rank.to_string(), delta.rank().to_string());
    }
    let scaling = config.scaling_of(path)? as f32;
    if (delta.scaling - scaling).abs() > 1e-6 * scaling.abs() {
        return differs("scaling", scaling.to_string(), delta.scaling.to_string());
    }
    for (field, said, found) in [
        ("use_dora", config.dora, delta.magnitude.is_some()),
        ("lora_bias", config.factor_bias, delta.bias.is_some()),
    ] {
        if said != found {
            return differs(field, said.to_string(), found.to_string());
        }
    }
    Ok(())
}

/// A tensor as the format has it.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(name: &str, tensor: &Tensor) -> Result<Self> {
        let failed = |error| Error::engine(format!("reading tensor `{name}`"), error);
        let flat = tensor
            .to_device(&candle_core::Device::Cpu)
            .and_then(|tensor| tensor.flatten_all())
            .map_err(failed)?;
        let (dtype, bytes): (_, Vec<u8>) = match tensor.dtype() {
            DType::F32 => {
                let values = flat.to_vec1::<f32>().map_err(failed)?;
                (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            DType::F16 => {
                let values = flat.to_vec1::<f16>().map_err(failed)?;
                (Dtype::F16, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            DType::BF16 => {
                let values = flat.to_vec1::<bf16>().map_err(failed)?;
                (Dtype::BF16, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            other => {
                let found = other.as_str().to_owned();
                return Err(Error::invalid_input(
                    format!("type of tensor `{name}`"),
                    "f32, f16 or bf16",
                    found,
                ));
            }
        };
        Ok(Self { dtype, shape: tensor.dims().to_vec(), bytes })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
