//! A model in a GGUF file, or in the parts of a split one.

use std::path::{Path, PathBuf};

use inference_core::{DiscoveredModel, Result};
use inference_gguf::GgufFile;

use crate::{StoredTensor, gguf_file_type, license, names, tensor};

/// Describes a file, or a split one by its first part.
///
/// # Errors
///
/// Those of [`GgufFile::open`], and
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming a key.
pub(crate) fn describe(path: &Path) -> Result<DiscoveredModel> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    let architecture = metadata.text("general.architecture")?.map(str::to_owned);
    let Some(architecture) = architecture else {
        return Err(metadata.invalid("general.architecture", "a text", "nothing"));
    };
    let tensors = tensors(&file);
    let mut model = DiscoveredModel::default();
    model.name = names::of_path(path);
    model.path = path.to_owned();
    model.format = "gguf".to_owned();
    model.parameters = Some(tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.elements())));
    model.bytes = tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.bytes));
    // The file's own word is finer than the types: it knows `_S`, `_M`, `_L`.
    let mix = metadata.size("general.file_type")?.and_then(gguf_file_type::name);
    model.dtype = mix.or_else(|| tensor::main_type(&tensors)).map(str::to_owned);
    model.context_len = metadata.size(&format!("{architecture}.context_length"))?;
    model.license = match metadata.text("general.license")? {
        Some(license) if !license.is_empty() => Some(license.to_owned()),
        _ => path.parent().and_then(license::of_folder),
    };
    model.has_chat_template = metadata.keys().any(|key| key == "tokenizer.chat_template");
    model.is_adapter = metadata.text("general.type")? == Some("adapter");
    if model.is_adapter {
        model.base_model = metadata.text("general.base_model.0.name")?.map(str::to_owned);
    }
    model.architecture = Some(architecture);
    Ok(model)
}

/// The tensors of a file.
pub(crate) fn tensors(file: &GgufFile) -> Vec<StoredTensor> {
    let stored = |tensor: &inference_gguf::TensorInfo| StoredTensor {
        name: tensor.name().to_owned(),
        dtype: tensor.kind().to_string(),
        shape: tensor.shape().iter().map(|dim| *dim as u64).collect(),
        bytes: tensor.byte_len(),
    };
    file.tensors().iter().map(stored).collect()
}

/// Whether a file begins as GGUF files do.
pub(crate) fn has_magic(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && (&magic == b"GGUF" || &magic == b"FUGG")
}

/// The first part that is not there, of the split file that `first` begins.
pub(crate) fn missing_part(first: &Path) -> Option<PathBuf> {
    let split = names::SplitName::parse(first.file_name()?.to_str()?)?;
    let mut parts = (1..=split.count).map(|part| first.with_file_name(split.with_part(part)));
    parts.find(|part| !part.is_file())
}
