//! A model in detail, from its headers.

use std::path::Path;

use inference_core::{DiscoveredModel, Error, KvDtype, ModelSource, Result};
use inference_gguf::{GgufFile, Value};

use crate::config::{CONFIG, Config};
use crate::geometry::{EMBEDDINGS, HEADS};
use crate::{Geometry, StoredTensor, describe, gguf_model, safetensors_folder};
use crate::{safetensors_header, weight_files};

/// Tokens of a prompt that are computed at once.
const STEP_TOKENS: u64 = 512;

/// A model in detail, from its headers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// What a listing shows.
    pub model: DiscoveredModel,
    /// The fields of `config.json`, or the metadata of a GGUF file, in the
    /// file's order; long values are cut, arrays of a GGUF file counted.
    pub fields: Vec<(String, String)>,
    /// The sizes.
    pub geometry: Geometry,
    /// The tensors, in the order of the files.
    pub tensors: Vec<StoredTensor>,
}

/// The memory that a model needs to run, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// The weights, as they are stored.
    pub weights: u64,
    /// Keys and values of one sequence at the context length.
    pub kv_cache: u64,
    /// Intermediate results of a step of 512 tokens, about.
    pub activations: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.activations)
    }
}

/// Looks into a model's headers.
///
/// # Errors
///
/// Those of [`describe`], and [`Unsupported`](inference_core::ErrorKind::Unsupported)
/// for an adapter and for a source that is neither a path nor embedded.
pub fn inspect(source: &ModelSource) -> Result<Inspection> {
    match source {
        ModelSource::Path(path) => of_path(path),
        ModelSource::Embedded(files) => {
            let file = |name: &str| {
                let found = files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes);
                let embedded = || source.to_string();
                found.ok_or_else(|| Error::invalid_model(embedded(), name, "a file", "nothing"))
            };
            let document = serde_json::from_slice(file(CONFIG)?).map_err(|e| {
                Error::invalid_model(CONFIG, "the document", "valid JSON", e.to_string())
            })?;
            let config = Config::new(CONFIG.to_owned(), document)?;
            let weights = file(weight_files::SINGLE)?;
            let name = Path::new(weight_files::SINGLE);
            let tensors = safetensors_header::parse(name, weights, weights.len() as u64)?;
            let mut model = safetensors_folder::of_config(&config, &tensors)?;
            model.name = source.to_string();
            model.has_chat_template = file("chat_template.jinja").is_ok();
            of_safetensors(model, &config, tensors)
        }
        other => Err(Error::unsupported(other.to_string(), "inspection")),
    }
}

fn of_path(path: &Path) -> Result<Inspection> {
    let model = describe(path)?;
    match &*model.format {
        "gguf" => {
            let file = GgufFile::open(path)?;
            let tensors = gguf_model::tensors(&file);
            let geometry = Geometry::of_metadata(file.metadata(), &tensors)?;
            Ok(Inspection { model, fields: metadata_fields(&file)?, geometry, tensors })
        }
        "safetensors" => {
            let tensors = safetensors_folder::tensors(path)?;
            of_safetensors(model, &Config::read(path)?, tensors)
        }
        other => Err(Error::unsupported(format!("an adapter ({other})"), "inspection")),
    }
}

fn of_safetensors(
    model: DiscoveredModel,
    config: &Config,
    tensors: Vec<StoredTensor>,
) -> Result<Inspection> {
    let geometry = Geometry::of_config(config)?;
    Ok(Inspection { model, fields: config.fields(), geometry, tensors })
}

fn metadata_fields(file: &GgufFile) -> Result<Vec<(String, String)>> {
    let metadata = file.metadata();
    let mut fields = Vec::new();
    for key in metadata.keys() {
        let value = match metadata.get(key)? {
            None => continue,
            Some(Value::Text(text)) => {
                let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
                match line.char_indices().nth(100) {
                    Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
                    None => line,
                }
            }
            Some(Value::Array(_)) => {
                format!("{} values", metadata.array_len(key)?.unwrap_or_default())
            }
            Some(other) => other.describe(),
        };
        fields.push((key.to_owned(), value));
    }
    Ok(fields)
}

impl Inspection {
    /// The memory that one sequence of `context` tokens needs; `None` where the
    /// files do not say the sizes.
    ///
    /// Weights count as they are stored. Keys and values are
    /// `context x kv_values_per_token` numbers of the type: windows do not make
    /// the cache smaller, because every layer keeps the whole context. Of the
    /// intermediate results, in f32, the larger ones are counted: four rows of
    /// the residual stream, queries, keys and values, two rows of the MLP per
    /// token of a step, and the logits of one.
    #[must_use]
    pub fn memory(&self, context: u64, kv_dtype: KvDtype) -> Option<Memory> {
        let sizes = &self.geometry;
        let kv_cache = bytes(kv_dtype, context.checked_mul(sizes.kv_values_per_token?)?)?;
        let heads = sizes.num_heads?.checked_add(sizes.num_kv_heads?.checked_mul(2)?)?;
        let mlp = sizes.intermediate_size.unwrap_or(0).checked_mul(2)?;
        let mlp = mlp.checked_mul(sizes.experts_per_token.unwrap_or(1))?;
        let row = sizes.hidden_size?.checked_mul(4)?;
        let row = row.checked_add(heads.checked_mul(sizes.head_dim?)?)?.checked_add(mlp)?;
        let values = row.checked_mul(STEP_TOKENS)?.checked_add(sizes.vocab_size?)?;
        let activations = values.checked_mul(4)?;
        Some(Memory { weights: self.model.bytes, kv_cache, activations })
    }

    /// The bytes of weights that a token needs: of experts its share, of a
    /// table of embeddings that is not the head as well nothing to speak of.
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> u64 {
        let has_head = self.tensors.iter().any(|tensor| HEADS.contains(&&*tensor.name));
        let share = self.geometry.experts_per_token.zip(self.geometry.num_experts);
        let share = share.filter(|(used, all)| used <= all && *all > 0);
        let of = |tensor: &StoredTensor| {
            if has_head && EMBEDDINGS.contains(&&*tensor.name) {
                return 0;
            }
            match share {
                Some((used, all)) if is_expert(&tensor.name) => {
                    (u128::from(tensor.bytes) * u128::from(used) / u128::from(all)) as u64
                }
                _ => tensor.bytes,
            }
        };
        self.tensors.iter().fold(0, |sum: u64, tensor| sum.saturating_add(of(tensor)))
    }

    /// The most tokens per second that one sequence of `context` tokens can
    /// decode where memory delivers `bandwidth` bytes per second: every token
    /// reads its weights and the whole KV cache once. `None` where the files do
    /// not say the sizes.
    #[must_use]
    pub fn decode_limit(&self, bandwidth: f64, context: u64, kv_dtype: KvDtype) -> Option<f64> {
        let kv_cache = self.memory(context, kv_dtype)?.kv_cache;
        let read = self.weight_bytes_per_token() as f64 + kv_cache as f64;
        (read > 0.0).then(|| bandwidth / read)
    }
}

/// Whether a tensor belongs to experts that a token chooses among.
fn is_expert(name: &str) -> bool {
    name.contains(".experts.") || name.contains("_exps.")
}

/// The bytes of so many numbers in the KV cache.
fn bytes(dtype: KvDtype, values: u64) -> Option<u64> {
    match dtype {
        KvDtype::F32 => values.checked_mul(4),
        KvDtype::F16 | KvDtype::Bf16 => values.checked_mul(2),
        // Blocks of 32 with a 16-bit scale.
        KvDtype::Q8_0 => values.div_ceil(32).checked_mul(34),
        _ => None,
    }
}
