//! Adapters: folders of PEFT and of mlx-lm.

use std::path::Path;

use inference_core::{DiscoveredModel, Error, Result};
use serde_json::Value;

use crate::{bounded_file, license, names, safetensors_header, tensor};

/// The description that both tools write.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The weights of PEFT.
pub(crate) const PEFT: &str = "adapter_model.safetensors";

/// The weights of mlx-lm.
pub(crate) const MLX_LM: &str = "adapters.safetensors";

/// Describes a folder with an adapter.
pub(crate) fn describe(folder: &Path) -> Result<DiscoveredModel> {
    let path = folder.join(CONFIG);
    let file = path.display().to_string();
    if !path.is_file() {
        let folder = folder.display().to_string();
        return Err(Error::invalid_model(folder, CONFIG, "a file", "nothing"));
    }
    let document = bounded_file::json(&path)?;
    let text = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => {
            let found: String = other.to_string().chars().take(80).collect();
            Err(Error::invalid_model(&*file, name, "a string", found))
        }
    };
    if !document.is_object() {
        return Err(Error::invalid_model(file, "the document", "a JSON object", "another value"));
    }
    let (format, weights, base) = match (folder.join(PEFT), folder.join(MLX_LM)) {
        (peft, _) if peft.is_file() => ("peft", peft, text("base_model_name_or_path")?),
        (_, mlx) if mlx.is_file() => ("mlx-lm", mlx, text("model")?),
        _ => {
            let folder = folder.display().to_string();
            let expected = format!("{PEFT} or {MLX_LM}");
            return Err(Error::invalid_model(folder, "weights", expected, "neither"));
        }
    };
    let tensors = safetensors_header::read(&weights)?;
    let mut model = DiscoveredModel::default();
    model.name = names::of_path(folder);
    model.path = folder.to_owned();
    model.format = format.to_owned();
    // PEFT names the method, mlx-lm the kind of layer: `LORA`, `lora`, `dora`.
    let kind = text("peft_type")?.or(text("fine_tune_type")?);
    model.architecture = kind.map(|kind| kind.to_ascii_lowercase());
    model.parameters = Some(tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.elements())));
    model.bytes = tensors.iter().fold(0, |sum: u64, t| sum.saturating_add(t.bytes));
    model.dtype = tensor::main_type(&tensors).map(str::to_ascii_lowercase);
    model.license = license::of_folder(folder);
    model.is_adapter = true;
    model.base_model = base;
    Ok(model)
}
