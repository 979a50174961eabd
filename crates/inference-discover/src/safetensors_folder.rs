//! A folder of `config.json` and safetensors files.

use std::path::Path;

use inference_core::{DiscoveredModel, Error, Result};

use crate::config::{CONFIG, Config};
use crate::{StoredTensor, bounded_file, license, names, parameters, safetensors_header};
use crate::{tensor, weight_files};

/// Describes a folder from its headers.
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file and
/// field, tensor or missing shard, [`Io`](inference_core::ErrorKind::Io).
pub(crate) fn describe(folder: &Path) -> Result<DiscoveredModel> {
    if !folder.join(CONFIG).is_file() {
        let folder = folder.display().to_string();
        return Err(Error::invalid_model(folder, CONFIG, "a file", "nothing"));
    }
    let config = Config::read(folder)?;
    let mut model = of_config(&config, &tensors(folder)?)?;
    model.name = names::of_path(folder);
    model.path = folder.to_owned();
    model.license = license::of_folder(folder);
    model.has_chat_template = has_chat_template(folder)?;
    Ok(model)
}

/// What configuration and tensors say.
pub(crate) fn of_config(config: &Config, tensors: &[StoredTensor]) -> Result<DiscoveredModel> {
    let quantized = config.quantized()?;
    let mut model = DiscoveredModel::default();
    model.format = "safetensors".to_owned();
    model.architecture = config.architecture()?;
    model.parameters = Some(parameters::count(tensors, quantized.as_ref()));
    model.bytes = tensors.iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.bytes));
    model.dtype = match &quantized {
        Some(by) => Some(by.label()),
        None => tensor::main_type(tensors).map(str::to_ascii_lowercase),
    };
    model.quantization = quantized.as_ref().and_then(|by| by.quantization());
    model.quant_method = quantized.map(|by| by.method);
    model.context_len = config.context_len()?;
    Ok(model)
}

/// The tensors of all weight files, from their headers.
pub(crate) fn tensors(folder: &Path) -> Result<Vec<StoredTensor>> {
    let mut tensors = Vec::new();
    for file in weight_files::find(folder)? {
        tensors.extend(safetensors_header::read(&file)?);
    }
    Ok(tensors)
}

fn has_chat_template(folder: &Path) -> Result<bool> {
    let names = ["chat_template.jinja", "chat_template.json"];
    if names.iter().any(|name| folder.join(name).is_file()) {
        return Ok(true);
    }
    bounded_file::has_member(&folder.join("tokenizer_config.json"), "chat_template")
}
