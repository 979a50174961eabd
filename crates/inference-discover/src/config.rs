//! The fields of a `config.json` that describe a model.

use std::path::Path;

use inference_core::{Error, Quantization, Result};
use serde_json::{Map, Value};

use crate::bounded_file;

/// The name of the file.
pub(crate) const CONFIG: &str = "config.json";

/// Objects that hold the decoder's fields where a model is more than one.
const NESTED: [&str; 3] = ["text_config", "llm_config", "language_config"];

/// A `config.json`, with the decoder's own part of it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    file: String,
    document: Map<String, Value>,
}

impl Config {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        Self::new(path.display().to_string(), bounded_file::json(&path)?)
    }

    pub(crate) fn new(file: String, document: Value) -> Result<Self> {
        match document {
            Value::Object(document) => Ok(Self { file, document }),
            _ => Err(Error::invalid_model(file, "the document", "a JSON object", "another value")),
        }
    }

    /// The fields that hold something, those of nested objects with their path.
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        for (name, value) in &self.document {
            match value {
                Value::Null => {}
                Value::Object(nested) => {
                    let present = nested.iter().filter(|(_, value)| !value.is_null());
                    let inner = |(key, value)| (format!("{name}.{key}"), shortened(value));
                    fields.extend(present.map(inner));
                }
                value => fields.push((name.clone(), shortened(value))),
            }
        }
        fields
    }

    /// A field of the decoder: of the nested part, else of the document.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let nested = NESTED.iter().find_map(|part| self.document.get(*part)?.as_object());
        let present = |map: &'_ Map<String, Value>| map.get(name).is_some_and(|v| !v.is_null());
        match nested.filter(|map| present(map)) {
            Some(map) => map.get(name),
            None => self.document.get(name).filter(|value| !value.is_null()),
        }
    }

    /// The first of these fields that is there, as a non-negative integer.
    pub(crate) fn size(&self, names: &[&str]) -> Result<Option<u64>> {
        for name in names {
            if let Some(value) = self.get(name) {
                return value.as_u64().map(Some).ok_or_else(|| {
                    self.invalid(name, "an integer of at least 0", &value.to_string())
                });
            }
        }
        Ok(None)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().map(Some);
        text.ok_or_else(|| self.invalid(name, "a string", &value.to_string()))
    }

    /// The `model_type` of the whole, else of the decoder.
    pub(crate) fn architecture(&self) -> Result<Option<String>> {
        let whole = self.document.get("model_type").filter(|value| !value.is_null());
        match whole {
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(other) => Err(self.invalid("model_type", "a string", &other.to_string())),
            None => Ok(self.text("model_type")?.map(str::to_owned)),
        }
    }

    /// The context that the model was made for.
    pub(crate) fn context_len(&self) -> Result<Option<usize>> {
        let names = ["max_position_embeddings", "n_positions", "max_seq_len", "seq_length"];
        let Some(tokens) = self.size(&names)? else { return Ok(None) };
        let tokens = usize::try_from(tokens);
        tokens.map(Some).map_err(|_| self.invalid(names[0], "a number of tokens", "more"))
    }

    /// How the weights are quantized, if they are.
    pub(crate) fn quantized(&self) -> Result<Option<QuantizedBy>> {
        if let Some(method) = self.get("quantization_config") {
            let Some(fields) = method.as_object() else {
                return Err(self.invalid("quantization_config", "an object", &method.to_string()));
            };
            if let Some(name) = fields.get("quant_method").and_then(Value::as_str) {
                return Ok(Some(QuantizedBy::new(name, fields)));
            }
        }
        match self.get("quantization") {
            Some(Value::Object(fields)) => Ok(Some(QuantizedBy::new("mlx", fields))),
            Some(other) => Err(self.invalid("quantization", "an object", &other.to_string())),
            None => Ok(None),
        }
    }

    fn invalid(&self, name: &str, expected: &str, found: &str) -> Error {
        let found: String = found.chars().take(80).collect();
        Error::invalid_model(&*self.file, name, expected, found)
    }
}

/// A value as it fits on a line.
fn shortened(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A method of quantization and its numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QuantizedBy {
    /// The method's name, in lower case.
    pub(crate) method: String,
    pub(crate) bits: Option<u32>,
    group: Option<u32>,
}

impl QuantizedBy {
    fn new(method: &str, fields: &Map<String, Value>) -> Self {
        let number = |name: &str| fields.get(name).and_then(Value::as_u64)?.try_into().ok();
        let flag = |name: &str| fields.get(name).and_then(Value::as_bool) == Some(true);
        let bits = number("bits").or_else(|| match method {
            "bitsandbytes" if flag("load_in_4bit") || flag("_load_in_4bit") => Some(4),
            "bitsandbytes" => Some(8),
            "mxfp4" => Some(4),
            "fp8" | "fbgemm_fp8" => Some(8),
            _ => None,
        });
        Self { method: method.to_ascii_lowercase(), bits, group: number("group_size") }
    }

    /// A name for listings, such as `gptq-4bit`.
    pub(crate) fn label(&self) -> String {
        match self.bits {
            // The names of the float types say their bits.
            Some(bits) if !self.method.contains("fp") => format!("{}-{bits}bit", self.method),
            _ => self.method.clone(),
        }
    }

    pub(crate) fn quantization(&self) -> Option<Quantization> {
        Some(Quantization::new(self.bits?, self.group?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(document: Value) -> Config {
        Config::new("config.json".to_owned(), document).unwrap()
    }

    #[test]
    fn the_decoder_of_a_larger_model_is_nested() {
        let config = config(json!({
            "model_type": "gemma3", "max_position_embeddings": 1,
            "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 8192},
        }));
        assert_eq!(config.architecture().unwrap().as_deref(), Some("gemma3"));
        assert_eq!(config.context_len().unwrap(), Some(8192));
    }

    #[test]
    fn methods_of_quantization_have_a_label() {
        let label = |document| config(document).quantized().unwrap().map(|by| by.label());
        assert_eq!(label(json!({})), None);
        assert_eq!(label(json!({"quantization": null, "quantization_config": null})), None);
        let mlx = json!({"quantization": {"bits": 4, "group_size": 64}});
        assert_eq!(label(mlx.clone()).as_deref(), Some("mlx-4bit"));
        let by = config(mlx).quantized().unwrap().unwrap();
        assert_eq!(by.quantization(), Some(Quantization::new(4, 64)));
        let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
        assert_eq!(label(gptq).as_deref(), Some("gptq-4bit"));
        let fp8 = json!({"quantization_config": {"quant_method": "fp8"}});
        assert_eq!(label(fp8).as_deref(), Some("fp8"));
        let four =
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        assert_eq!(label(four).as_deref(), Some("bitsandbytes-4bit"));
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let error = config(json!({"max_position_embeddings": "long"})).context_len().unwrap_err();
        assert!(error.to_string().contains("config.json: max_position_embeddings"), "{error}");
        let error = config(json!({"quantization_config": 4})).quantized().unwrap_err();
        assert!(error.to_string().contains("quantization_config"), "{error}");
        assert!(Config::new("config.json".to_owned(), json!([1])).is_err());
    }
}
