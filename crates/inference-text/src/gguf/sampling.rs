//! How a GGUF file wants its model sampled.

use inference_core::{GenerateOptions, Result};
use inference_gguf::Metadata;

/// The defaults of a model's requests, from `general.sampling.*`, and what the
/// file asks for besides that is not applied, as sentences.
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the key.
pub fn sampling_defaults(metadata: &Metadata) -> Result<(GenerateOptions, Vec<String>)> {
    let key = |name: &str| format!("general.sampling.{name}");
    let within = |name: &str, expected: &str, accept: fn(f64) -> bool| {
        let key = key(name);
        match metadata.number(&key)? {
            Some(value) if !accept(value) => {
                Err(metadata.invalid(&key, expected, value.to_string()))
            }
            other => Ok(other.map(|value| value as f32)),
        }
    };
    let mut defaults = GenerateOptions::default();
    defaults.temperature = within("temp", "0 to 100", |t| (0.0..=100.0).contains(&t))?;
    defaults.top_k = metadata.size(&key("top_k"))?;
    let share = "a number above 0, at most 1";
    defaults.top_p = within("top_p", share, |p| p > 0.0 && p <= 1.0)?;
    defaults.min_p = within("min_p", "0 to 1", |p| (0.0..=1.0).contains(&p))?;
    defaults.repeat_penalty = within("penalty_repeat", "a number above 0", |p| p > 0.0)?;
    defaults.penalty_window = metadata.size(&key("penalty_last_n"))?;
    let mut notes = Vec::new();
    for name in ["xtc_probability", "mirostat"] {
        let key = key(name);
        if metadata.number(&key)?.is_some_and(|value| value != 0.0) {
            notes.push(format!("{}: {key} is not applied", metadata.file()));
        }
    }
    Ok((defaults, notes))
}
