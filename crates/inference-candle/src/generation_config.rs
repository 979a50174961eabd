//! What `generation_config.json` or GGUF metadata says about sampling.

use inference_core::{GenerateOptions, Result};
use inference_gguf::Metadata;

use crate::config::{Fields, parse};

/// The file's name.
pub(crate) const FILE: &str = "generation_config.json";

/// The defaults of a model's requests.
#[derive(Debug, Default)]
pub(crate) struct GenerationConfig {
    pub(crate) defaults: GenerateOptions,
    /// Whether it names the tokens that end a text.
    pub(crate) has_eos: bool,
    /// Features it asks for that are not implemented, as sentences.
    pub(crate) notes: Vec<String>,
}

/// Fields that change what transformers generates and are not implemented,
/// with the value that switches them off.
const NOT_APPLIED: &[(&str, f64)] = &[
    ("num_beams", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
];

impl GenerationConfig {
    /// Reads the file. As in transformers, temperature and the filters count
    /// only where `do_sample` is true, and then `temperature` is 1 and `top_k`
    /// 50 unless they are given.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the
    /// field.
    pub(crate) fn read(json: &[u8]) -> Result<Self> {
        let value = parse(FILE, json)?;
        let fields = Fields::new(FILE, &value)?;
        let within =
            |name: &str, expected: &str, accept: fn(f64) -> bool| match fields.number(name)? {
                Some(value) if !accept(value) => Err(fields.invalid(name, expected)),
                other => Ok(other.map(|value| value as f32)),
            };
        let mut defaults = GenerateOptions::default();
        defaults.max_tokens = fields.length("max_new_tokens")?;
        defaults.repeat_penalty = within("repetition_penalty", "a number above 0", |p| p > 0.0)?;
        if fields.flag("do_sample")?.unwrap_or(false) {
            let share = "a number above 0, at most 1";
            let is_share = |p: f64| p > 0.0 && p <= 1.0;
            let temperature = within("temperature", "0 to 100", |t| (0.0..=100.0).contains(&t))?;
            defaults.temperature = Some(temperature.unwrap_or(1.0));
            let top_k = fields.integer("top_k")?.unwrap_or(50);
            defaults.top_k = Some(usize::try_from(top_k).unwrap_or(usize::MAX));
            defaults.top_p = within("top_p", share, is_share)?;
            defaults.typical_p = within("typical_p", share, is_share)?;
            defaults.min_p = within("min_p", "0 to 1", |p| (0.0..=1.0).contains(&p))?;
        }
        let ignored = |(name, off): &&(&str, f64)| {
            fields.get(name).is_some_and(|value| value.as_f64().is_none_or(|value| value != *off))
        };
        let note = |(name, _): &(&str, f64)| format!("{FILE}: {name} is not applied");
        let notes = NOT_APPLIED.iter().filter(ignored).map(note).collect();
        Ok(Self { defaults, has_eos: fields.get("eos_token_id").is_some(), notes })
    }

    /// Reads `general.sampling.*` of a GGUF file.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the
    /// key.
    pub(crate) fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let (defaults, notes) = inference_text::sampling_defaults(metadata)?;
        Ok(Self { defaults, has_eos: false, notes })
    }
}
