//! Parsers of single values.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use inference::quantize::FileType;
use inference::{KvDtype, QuantizeType, TokenId};

/// Names of the KV types.
pub(crate) fn kv_dtype() -> impl TypedValueParser<Value = KvDtype> {
    named(&[
        ("f32", KvDtype::F32),
        ("f16", KvDtype::F16),
        ("bf16", KvDtype::Bf16),
        ("q8_0", KvDtype::Q8_0),
    ])
}

/// Names of the types that weights can be quantized to.
pub(super) fn quantize_type() -> impl TypedValueParser<Value = QuantizeType> {
    named(&[
        ("q8_0", QuantizeType::Q8_0),
        ("q4_0", QuantizeType::Q4_0),
        ("q4_k", QuantizeType::Q4K),
        ("q6_k", QuantizeType::Q6K),
    ])
}

fn named<T: Copy + Send + Sync + 'static>(
    values: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).try_map(move |given| {
        let found = values.iter().find(|(name, _)| *name == given);
        found.map(|(_, value)| *value).ok_or("unknown name")
    })
}

/// Names of the kinds of GGUF files.
pub(crate) fn file_type() -> impl TypedValueParser<Value = FileType> {
    let names = FileType::ALL.iter().map(|kind| kind.as_str());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<FileType>())
}

/// `PATH` or `PATH=SCALE`. A path that exists is one whatever it ends in.
pub(crate) fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    let whole = || (PathBuf::from(text), 1.0);
    if std::fs::symlink_metadata(text).is_ok() {
        return Ok(whole());
    }
    let Some((path, scale)) = text.rsplit_once('=') else { return Ok(whole()) };
    match scale.parse::<f32>() {
        Ok(scale) if scale.is_finite() && !path.is_empty() => Ok((path.into(), scale)),
        _ => Err("expected a path, or PATH=SCALE with a finite number".to_owned()),
    }
}

/// A number of bytes, with an optional binary suffix: `4096`, `512M`, `2GiB`.
pub(crate) fn byte_count(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("expected a number of bytes, such as 4096, 512M or 2GiB".to_owned()),
    };
    let count: u64 = digits.parse().map_err(|error| format!("`{digits}`: {error}"))?;
    count.checked_mul(1 << shift).ok_or_else(|| "more bytes than 64 bits count".to_owned())
}

/// `ID=BIAS`; the bias may be `-inf`.
pub(super) fn logit_bias(text: &str) -> Result<(TokenId, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, such as 42=-1.5 or 42=-inf")?;
    let id = id.parse().map_err(|_| format!("`{id}` is no token id"))?;
    let bias = bias.parse().map_err(|_| format!("`{bias}` is no number"))?;
    Ok((id, bias))
}

/// `KEY=JSON`.
pub(super) fn key_json(text: &str) -> Result<(String, String), String> {
    let (key, json) =
        text.split_once('=').ok_or("expected KEY=JSON, such as enable_thinking=false")?;
    if key.is_empty() {
        return Err("expected KEY=JSON, found no key".to_owned());
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(json) {
        return Err(format!("`{json}` is no JSON ({error}); a text is written '{key}=\"…\"'"));
    }
    Ok((key.to_owned(), json.to_owned()))
}

/// Seconds, greater than 0.
pub(super) fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let refused = || format!("expected more than 0 seconds, found {text}");
    wait(text).ok().filter(|duration| !duration.is_zero()).ok_or_else(refused)
}

/// Seconds, from 0 on.
pub(super) fn wait(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    let refused = |_| format!("expected 0 seconds or more, found {text}");
    std::time::Duration::try_from_secs_f64(seconds).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_binary_suffixes() {
        assert_eq!(byte_count("4096"), Ok(4096));
        assert_eq!(byte_count("512M"), Ok(512 << 20));
        assert_eq!(byte_count("2GiB"), Ok(2 << 30));
        assert!(byte_count("2 pounds").is_err());
        assert!(byte_count("-1").is_err());
        assert!(byte_count("99999999999T").is_err());
        assert!(byte_count("é").is_err());
    }

    #[test]
    fn a_bias_may_forbid_a_token() {
        assert_eq!(logit_bias("42=-inf"), Ok((42, f32::NEG_INFINITY)));
        assert_eq!(logit_bias("7=1.5"), Ok((7, 1.5)));
        for bad in ["42", "x=1", "1=x", "=1"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_is_json() {
        assert_eq!(key_json("a=[1]"), Ok(("a".to_owned(), "[1]".to_owned())));
        assert_eq!(key_json("a=\"b=c\""), Ok(("a".to_owned(), "\"b=c\"".to_owned())));
        assert!(key_json("a=yes").unwrap_err().contains("'a=\"…\"'"));
        assert!(key_json("=1").is_err());
    }

    #[test]
    fn a_timeout_is_positive_and_finite() {
        assert!(seconds("0.5").is_ok());
        for bad in ["0", "-1", "nan", "inf", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
            assert_eq!(wait(bad).is_err(), bad != "0", "{bad}");
        }
    }
}
