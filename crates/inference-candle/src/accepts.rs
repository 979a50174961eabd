//! Which discovered models the loader could load.

use inference_core::{DiscoveredModel, Error, Result};

use crate::{architectures, gguf_architectures, quantization_methods};

/// Whether [`load_model`](crate::load_model) knows the format, architecture
/// and weight type of a model that is described by its headers. What only the
/// load reads (settings of a rotary embedding, missing tensors) may still be
/// refused then.
///
/// # Errors
///
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) naming
/// the format, architecture or quantization.
pub fn accepts(model: &DiscoveredModel) -> Result<()> {
    let refuse = |what: &str, found: &str, supported: String| {
        Err(Error::unsupported_model(model.path.display().to_string(), what, found, supported))
    };
    if model.is_adapter {
        return refuse("format", "an adapter", "a model".to_owned());
    }
    let known: Vec<&str> = match model.format.as_str() {
        "gguf" => gguf_architectures().collect(),
        "safetensors" => architectures().collect(),
        other => return refuse("format", other, "safetensors, gguf".to_owned()),
    };
    match model.architecture.as_deref() {
        Some(architecture) if known.contains(&architecture) => {}
        other => return refuse("architecture", other.unwrap_or("not named"), known.join(", ")),
    }
    let dtype = model.dtype.as_deref().unwrap_or("not named");
    if model.format == "gguf" {
        // The name of a type that the reader does not know.
        return match dtype.strip_prefix("type ") {
            Some(_) => refuse("weight type", dtype, "ggml's types".to_owned()),
            None => Ok(()),
        };
    }
    match model.quant_method.as_deref() {
        None if ["f32", "f16", "bf16"].contains(&dtype) => Ok(()),
        None => refuse("weight type", dtype, "f32, f16, bf16".to_owned()),
        Some(method) if quantization_methods().contains(&method) => {
            let bits = model.quantization.map(|quantization| quantization.bits);
            let supported: &[u32] = match method {
                "mlx" => &[4, 8],
                "gptq" | "awq" => &[4],
                _ => return Ok(()),
            };
            match bits {
                Some(bits) if !supported.contains(&bits) => refuse(
                    "quantization",
                    &format!("{method}, {bits} bits"),
                    format!("{supported:?}"),
                ),
                _ => Ok(()),
            }
        }
        Some(other) => refuse("quant_method", other, quantization_methods().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use inference_core::Quantization;

    use super::*;

    fn model(format: &str, architecture: &str, dtype: &str) -> DiscoveredModel {
        let mut model = DiscoveredModel::default();
        format.clone_into(&mut model.format);
        model.architecture = Some(architecture.to_owned());
        model.dtype = Some(dtype.to_owned());
        model
    }

    fn refusal(model: &DiscoveredModel) -> String {
        accepts(model).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_loads_is_accepted() {
        assert_eq!(refusal(&model("gguf", "qwen3moe", "Q4_K_M")), "");
        assert_eq!(refusal(&model("safetensors", "qwen3_moe", "bf16")), "");
        let mut mlx = model("safetensors", "llama", "mlx 4 bit");
        mlx.quant_method = Some("mlx".to_owned());
        mlx.quantization = Some(Quantization::new(4, 64));
        assert_eq!(refusal(&mlx), "");
    }

    #[test]
    fn what_does_not_is_named() {
        let mut cases = vec![
            (model("peft", "llama", "f32"), "peft"),
            (model("gguf", "qwen3_moe", "F16"), "qwen3_moe"),
            (model("gguf", "llama", "type 99"), "type 99"),
            (model("safetensors", "rwkv", "f32"), "rwkv"),
            (model("safetensors", "llama", "i8"), "i8"),
        ];
        let mut adapter = model("gguf", "llama", "F16");
        adapter.is_adapter = true;
        cases.push((adapter, "adapter"));
        let mut method = model("safetensors", "llama", "bitsandbytes");
        method.quant_method = Some("bitsandbytes".to_owned());
        cases.push((method.clone(), "bitsandbytes"));
        method.quant_method = Some("gptq".to_owned());
        method.quantization = Some(Quantization::new(3, 128));
        cases.push((method, "3 bits"));
        for (model, name) in cases {
            let message = refusal(&model);
            assert!(message.contains(name), "{message}");
        }
    }
}
