//! Rotary embeddings in GGUF: keys, and tensors of factors.

use inference_core::{Error, Result};
use inference_gguf::{GgufFile, TensorInfo, TensorType};
use serde_json::{Map, Value, json};

use super::{GgufArchitecture, Labels, Translator};
use crate::config::{DecoderConfig, RopeScaling};

/// Factors on the wavelength of each rotated pair (Llama 3.1 and later).
pub(crate) const FREQUENCIES: &str = "rope_freqs.weight";
/// Such factors for contexts within and beyond the trained one (LongRoPE).
pub(crate) const SHORT: &str = "rope_factors_short.weight";
pub(crate) const LONG: &str = "rope_factors_long.weight";

/// Writes what the metadata says about scaling.
pub(super) fn fill(
    translator: &Translator<'_>,
    config: &mut Map<String, Value>,
    labels: &mut Labels,
) -> Result<()> {
    let metadata = translator.metadata;
    let key = |name: &str| translator.key(&format!("rope.{name}"));
    let dimensions = key("dimension_count");
    if let Some(dim) = metadata.size(&dimensions)? {
        let head_dim = config.get("head_dim").and_then(Value::as_u64).unwrap_or(0);
        if dim == 0 || dim as u64 > head_dim {
            let expected = format!("1 to the size of a head ({head_dim})");
            return Err(metadata.invalid(&dimensions, expected, dim.to_string()));
        }
        if dim as u64 != head_dim {
            // The mapping multiplies by the size of a head and truncates.
            let partial = (dim as f64 + 0.5) / head_dim as f64;
            config.insert("partial_rotary_factor".to_owned(), partial.into());
        }
        labels.push(("head_dim * partial_rotary_factor".to_owned(), dimensions));
    }
    let original_key = key("scaling.original_context_length");
    let original = metadata.size(&original_key)?;
    let mut scaling = Map::new();
    let mut insert = |field: &str, key: String, value: Option<Value>| {
        scaling.extend(value.map(|value| (field.to_owned(), value)));
        labels.push((format!("rope_scaling.{field}"), key));
    };
    let attention = metadata.number(&key("scaling.attn_factor"))?;
    let kind_key = key("scaling.type");
    let kind = metadata.text(&kind_key)?;
    let factor_key = key("scaling.factor");
    // The second is the key's older name.
    let factor = match metadata.number(&factor_key)? {
        Some(factor) => Some(factor),
        None => metadata.number(&key("scale_linear"))?,
    };
    // Zero is llama.cpp's name for none.
    let factor = factor.filter(|factor| *factor != 0.0);
    let longrope = translator.file.tensor(LONG).or(translator.file.tensor(SHORT)).is_some();
    match kind {
        _ if longrope => {
            insert("rope_type", kind_key, Some("longrope".into()));
            for (field, name) in [("short_factor", SHORT), ("long_factor", LONG)] {
                let values = factors(translator.file, name)?;
                insert(field, format!("tensor `{name}`"), Some(json!(values)));
            }
            insert("attention_factor", key("scaling.attn_factor"), attention.map(Value::from));
            insert("original_max_position_embeddings", original_key, original.map(Value::from));
        }
        Some("none") => {}
        None | Some("linear") => {
            if let Some(factor) = factor.filter(|factor| *factor != 1.0) {
                insert("rope_type", kind_key, Some("linear".into()));
                insert("factor", factor_key, Some(factor.into()));
            }
        }
        Some("yarn") => {
            let Some(factor) = factor else {
                return Err(metadata.invalid(&factor_key, "a number above 0", "nothing"));
            };
            let extrapolation = key("scaling.yarn_ext_factor");
            if let Some(other) = metadata.number(&extrapolation)?.filter(|other| *other != 1.0) {
                let (file, found) = (metadata.file(), other.to_string());
                return Err(Error::unsupported_model(file, extrapolation, found, "1"));
            }
            let multiplier = key("scaling.yarn_log_multiplier");
            if let Some(other) = metadata.number(&multiplier)?.filter(|other| *other != 0.0) {
                let (file, found) = (metadata.file(), other.to_string());
                return Err(Error::unsupported_model(file, multiplier, found, "0"));
            }
            insert("rope_type", kind_key, Some("yarn".into()));
            insert("factor", factor_key, Some(factor.into()));
            insert("original_max_position_embeddings", original_key, original.map(Value::from));
            for (field, name) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")]
            {
                let key = key(&format!("scaling.{name}"));
                let value = metadata.number(&key)?.map(Value::from);
                insert(field, key, value);
            }
            let attention_key = key("scaling.yarn_attn_factor");
            let given = metadata.number(&attention_key)?;
            // llama.cpp multiplies its own by the other key's.
            let own = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            let given = given.or(attention.map(|other| own * other));
            insert("attention_factor", attention_key, given.map(Value::from));
        }
        Some("longrope") => return Err(missing(translator.file, LONG)),
        Some(other) => {
            let supported = "none, linear, yarn, longrope";
            return Err(Error::unsupported_model(metadata.file(), kind_key, other, supported));
        }
    }
    if !scaling.is_empty() {
        config.insert("rope_scaling".to_owned(), Value::Object(scaling));
    }
    Ok(())
}

/// Applies [`FREQUENCIES`], where a file of a llama or granite has them.
pub(super) fn apply_factors(
    config: &mut DecoderConfig,
    file: &GgufFile,
    architecture: &GgufArchitecture,
) -> Result<()> {
    if file.tensor(FREQUENCIES).is_none() {
        return Ok(());
    }
    let unsupported = |found: &str, supported: &str| {
        let what = format!("tensor `{FREQUENCIES}`");
        Err(Error::unsupported_model(file.metadata().file(), what, found, supported))
    };
    // The others do not use them in llama.cpp.
    if !matches!(architecture.name, "llama" | "granite") {
        return unsupported(architecture.name, "the architectures llama and granite");
    }
    let mut factors = factors(file, FREQUENCIES)?;
    for rope in &mut config.ropes {
        if factors.len() != rope.dim / 2 {
            let expected = format!("{} factors, one for each rotated pair", rope.dim / 2);
            let what = format!("tensor `{FREQUENCIES}`");
            let found = factors.len().to_string();
            return Err(Error::invalid_model(file.metadata().file(), what, expected, found));
        }
        match rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => factors.iter_mut().for_each(|own| *own *= factor),
            _ => return unsupported("with another scaling", "alone or with linear scaling"),
        }
        rope.scaling = RopeScaling::Factors { factors: factors.clone() };
    }
    Ok(())
}

fn missing(file: &GgufFile, name: &str) -> Error {
    let what = format!("tensor `{name}`");
    Error::invalid_model(file.metadata().file(), what, "present", "nothing")
}

/// Most rotated pairs of a head.
const MAX_FACTORS: usize = 1 << 20;

/// The values of a vector of factors, all above 0.
fn factors(file: &GgufFile, name: &str) -> Result<Vec<f64>> {
    let tensor = file.tensor(name).ok_or_else(|| missing(file, name))?;
    let invalid = |expected: &str, found: String| {
        let what = format!("tensor `{name}`");
        Err(Error::invalid_model(file.metadata().file(), what, expected, found))
    };
    if tensor.shape().len() != 1 || tensor.elem_count() > MAX_FACTORS as u64 {
        return invalid("a vector, one factor for each rotated pair", shape(tensor));
    }
    let TensorType::Known(kind) = tensor.kind() else {
        return invalid("floats", tensor.kind().to_string());
    };
    let (bytes, range) = file.data(tensor)?;
    let mut values = vec![0.0; tensor.shape().iter().product()];
    kind.decode((*bytes).as_ref().get(range).unwrap_or_default(), &mut values)?;
    if let Some(bad) = values.iter().find(|value| !value.is_finite() || **value <= 0.0) {
        return invalid("numbers above 0", bad.to_string());
    }
    Ok(values.into_iter().map(f64::from).collect())
}

fn shape(tensor: &TensorInfo) -> String {
    format!("shape {:?}", tensor.shape())
}
