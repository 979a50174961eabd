//! GGUF metadata as `config.json`.
//!
//! What an architecture is, its mapping from `config.json` says. Metadata is
//! translated to those fields, by the tables in [`keys`], with llama.cpp's
//! defaults for keys that are absent; an error names the key. What GGUF says
//! by the presence of tensors (a tied head, biases, fused weights, factors of
//! rotary frequencies) is taken from them.

mod keys;
mod rope;

use inference_core::{Error, Result};
use inference_gguf::{GgufFile, Metadata};
use serde_json::{Map, Value, json};

use keys::{ARCHITECTURES, Key};
pub(crate) use keys::{GgufArchitecture, KeyKind, Windows};
pub(crate) use rope::{FREQUENCIES, LONG, SHORT};

use super::{Biases, DecoderConfig, Fields};

/// The key of the architecture's name.
pub(crate) const ARCHITECTURE: &str = "general.architecture";

/// The embedding, whose rows are the vocabulary.
const EMBEDDING: &str = "token_embd.weight";

/// The architectures of GGUF that are implemented, as
/// `general.architecture` names them, sorted.
pub fn gguf_architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|known| known.name)
}

/// The architecture of a file.
pub(crate) fn architecture(metadata: &Metadata) -> Result<&'static GgufArchitecture> {
    let Some(name) = metadata.text(ARCHITECTURE)? else {
        return Err(metadata.invalid(ARCHITECTURE, "a text", "nothing"));
    };
    GgufArchitecture::by_name(name).ok_or_else(|| {
        let known = gguf_architectures().collect::<Vec<_>>().join(", ");
        Error::unsupported_model(metadata.file(), ARCHITECTURE, name, known)
    })
}

impl DecoderConfig {
    /// Reads the metadata of a GGUF file, and which tensors it has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for an architecture or feature that is not implemented,
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// anything malformed or out of range, both naming the key or tensor.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        let architecture = architecture(metadata)?;
        let (config, labels) = Translator { file, metadata, architecture }.translate()?;
        let fields = Fields::with_labels(metadata.file(), &config, &labels);
        let mut config = Self::from_fields(&fields)?;
        adapt(&mut config, file, architecture)?;
        config.validate_as(metadata.file(), &|field| fields.label(field))?;
        Ok(config)
    }
}

/// What the presence of tensors says, and what `config.json` cannot.
fn adapt(
    config: &mut DecoderConfig,
    file: &GgufFile,
    architecture: &GgufArchitecture,
) -> Result<()> {
    let has = |name: &str| file.tensor(name).is_some();
    // Weights have it added already.
    config.norm_unit_offset = false;
    config.fused_qkv = has("blk.0.attn_qkv.weight");
    config.fused_gate_up = !has("blk.0.ffn_gate.weight") && config.fused_gate_up;
    let Biases { qkv, output, mlp } = config.bias;
    config.bias = Biases {
        qkv: qkv || has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
        output: output || has("blk.0.attn_output.bias"),
        mlp: mlp || has("blk.0.ffn_down.bias"),
    };
    let metadata = file.metadata();
    if config.fused_qkv && architecture.permuted {
        let what = "tensor `blk.0.attn_qkv.weight`";
        let (found, supported) = ("fused and permuted", "attn_q, attn_k and attn_v");
        return Err(Error::unsupported_model(metadata.file(), what, found, supported));
    }
    rope::apply_factors(config, file, architecture)?;
    let finetuned = format!("{}.rope.scaling.finetuned", architecture.name);
    if architecture.name == "granite" && metadata.flag(&finetuned)? == Some(false) {
        // llama.cpp's way of saying that positions are not encoded.
        config.layers.iter_mut().for_each(|layer| layer.rope = None);
    }
    Ok(())
}

/// Writes metadata as `config.json`, and which key each field comes from.
struct Translator<'a> {
    file: &'a GgufFile,
    metadata: &'a Metadata,
    architecture: &'static GgufArchitecture,
}

/// The key that a field's path stands for.
type Labels = Vec<(String, String)>;

impl Translator<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn translate(&self) -> Result<(Map<String, Value>, Labels)> {
        let mut config = Map::new();
        let mut labels = Labels::new();
        for entry in self.architecture.all_keys() {
            let key = self.key(entry.key);
            match self.value(&key, entry)? {
                Some(value) => {
                    config.insert(entry.field.to_owned(), value);
                }
                None if entry.required => {
                    let expected = match entry.kind {
                        KeyKind::Size | KeyKind::PerLayer => "an integer",
                        KeyKind::Number => "a number",
                    };
                    return Err(self.metadata.invalid(&key, expected, "nothing"));
                }
                None => {}
            }
            labels.push((entry.field.to_owned(), key));
        }
        self.fill_sizes(&mut config, &mut labels)?;
        self.fill_defaults(&mut config)?;
        self.fill_windows(&mut config, &mut labels)?;
        rope::fill(self, &mut config, &mut labels)?;
        labels.push(("model_type".to_owned(), ARCHITECTURE.to_owned()));
        config.insert("model_type".to_owned(), self.model_type(&config).into());
        Ok((config, labels))
    }

    fn value(&self, key: &str, entry: &Key) -> Result<Option<Value>> {
        Ok(match entry.kind {
            KeyKind::Size => self.metadata.size(key)?.map(Value::from),
            KeyKind::PerLayer => self.per_layer(key)?.map(Value::from),
            KeyKind::Number => self.metadata.number(key)?.map(Value::from),
        })
    }

    /// An integer, or an array of one for each layer, which have to be equal.
    fn per_layer(&self, key: &str) -> Result<Option<usize>> {
        let scalar = match self.metadata.size(key) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Ok(Some(values)) = self.metadata.numbers(key) else { return Err(scalar) };
        match values.split_first() {
            Some((first, rest)) if *first >= 0.0 && rest.iter().all(|value| value == first) => {
                Ok(Some(*first as usize))
            }
            Some(_) => Err(Error::unsupported_model(
                self.metadata.file(),
                key,
                "different values for the layers",
                "one value for all layers",
            )),
            None => Err(self.metadata.invalid(key, "a value", "an empty array")),
        }
    }

    /// Sizes that follow from others or from tensors.
    fn fill_sizes(&self, config: &mut Map<String, Value>, labels: &mut Labels) -> Result<()> {
        let size = |config: &Map<String, Value>, field: &str| {
            config.get(field).and_then(Value::as_u64).unwrap_or(0)
        };
        let (hidden, heads) = (size(config, "hidden_size"), size(config, "num_attention_heads"));
        config.entry("num_key_value_heads").or_insert_with(|| heads.into());
        if heads == 0 {
            let key = self.key("attention.head_count");
            return Err(self.metadata.invalid(&key, "at least 1", "0"));
        }
        if !config.contains_key("head_dim") && !hidden.is_multiple_of(heads) {
            let key = self.key("attention.head_count");
            let expected = format!("a divisor of {} ({hidden})", self.key("embedding_length"));
            return Err(self.metadata.invalid(&key, expected, heads.to_string()));
        }
        let head_dim = size(config, "head_dim");
        config.entry("head_dim").or_insert_with(|| (hidden / heads).into());
        if size(config, "head_dim") == 0 {
            let key = self.key("attention.key_length");
            return Err(self.metadata.invalid(&key, "at least 1", "0"));
        }
        let value_length = self.key("attention.value_length");
        match self.metadata.size(&value_length)? {
            Some(length) if length as u64 != size(config, "head_dim") => {
                let supported = format!("that of keys ({})", size(config, "head_dim"));
                let found = length.to_string();
                let file = self.metadata.file();
                return Err(Error::unsupported_model(file, value_length, found, supported));
            }
            _ => {}
        }
        // llama.cpp's rule for the two large Gemmas.
        let layers = size(config, "num_hidden_layers");
        let large = matches!((self.architecture.name, layers), ("gemma2", 46) | ("gemma3", 62));
        if self.architecture.name.starts_with("gemma") {
            let scalar = if large { hidden / heads } else { size(config, "head_dim") };
            config.insert("query_pre_attn_scalar".to_owned(), scalar.into());
        }
        let Some(embedding) = self.file.tensor(EMBEDDING) else {
            let what = format!("tensor `{EMBEDDING}`");
            return Err(Error::invalid_model(self.metadata.file(), what, "present", "nothing"));
        };
        let rows = embedding.shape().first().copied().unwrap_or(0);
        config.insert("vocab_size".to_owned(), rows.into());
        labels.push(("vocab_size".to_owned(), format!("rows of tensor `{EMBEDDING}`")));
        if self.architecture.name == "granite"
            && config.get("attention_multiplier").and_then(Value::as_f64).unwrap_or(0.0) == 0.0
        {
            let head_dim = if head_dim == 0 { hidden / heads } else { head_dim };
            config.insert("attention_multiplier".to_owned(), (head_dim as f64).powf(-0.5).into());
        }
        Ok(())
    }

    /// llama.cpp's defaults where transformers' are others.
    fn fill_defaults(&self, config: &mut Map<String, Value>) -> Result<()> {
        config.entry("rope_theta").or_insert_with(|| 10_000.0.into());
        let tied = self.file.tensor("output.weight").is_none();
        config.insert("tie_word_embeddings".to_owned(), tied.into());
        match self.architecture.name {
            "gemma3" => {
                config.entry("final_logit_softcapping").or_insert(Value::Null);
                config.insert("attn_logit_softcapping".to_owned(), Value::Null);
            }
            "granite" => {
                // Zero switches the factor off.
                let off = |value: &Value| value.as_f64() == Some(0.0);
                if config.get("residual_multiplier").is_some_and(off) {
                    config.remove("residual_multiplier");
                }
                if config.get("embedding_multiplier").is_some_and(off) {
                    config.remove("embedding_multiplier");
                }
            }
            "qwen3moe" => {
                config.insert("norm_topk_prob".to_owned(), true.into());
                let size = |field: &str| config.get(field).and_then(Value::as_u64).unwrap_or(0);
                let share = size("intermediate_size").checked_div(size("num_experts_per_tok"));
                let share = share.unwrap_or(0);
                config.entry("moe_intermediate_size").or_insert_with(|| share.into());
            }
            _ => {}
        }
        let scale = self.key("expert_weights_scale");
        match self.metadata.number(&scale)? {
            None | Some(0.0 | 1.0) => {}
            Some(other) => {
                let file = self.metadata.file();
                return Err(Error::unsupported_model(file, scale, other.to_string(), "1"));
            }
        }
        let shared = self.key("expert_shared_feed_forward_length");
        match self.metadata.size(&shared)? {
            None | Some(0) => Ok(()),
            Some(size) => {
                let file = self.metadata.file();
                Err(Error::unsupported_model(file, shared, size.to_string(), "no shared experts"))
            }
        }
    }

    fn fill_windows(&self, config: &mut Map<String, Value>, labels: &mut Labels) -> Result<()> {
        let key = self.key("attention.sliding_window");
        let pattern = self.key("attention.sliding_window_pattern");
        let given = self.metadata.size(&key)?;
        labels.push(("sliding_window".to_owned(), key.clone()));
        labels.push(("layer_types".to_owned(), pattern.clone()));
        let (period, default) = match self.architecture.windows {
            Windows::None => {
                if let Some(window) = given.filter(|window| *window > 0) {
                    let found = window.to_string();
                    let file = self.metadata.file();
                    return Err(Error::unsupported_model(file, key, found, "no sliding window"));
                }
                return Ok(());
            }
            Windows::All => (None, None),
            Windows::Alternating { period, default } => (Some(period), default),
        };
        let window = given.or(default).filter(|window| *window > 0);
        config.insert("sliding_window".to_owned(), window.into());
        let (Some(_), Some(period)) = (window, period) else { return Ok(()) };
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
        // Bounded here, because the mapping checks the number of layers later.
        if layers > super::shared::MAX_LAYERS {
            return Ok(());
        }
        let slides: Vec<bool> = match self.per_layer_flags(&pattern, layers)? {
            Some(flags) => flags,
            None => {
                let period = self.metadata.size(&pattern).unwrap_or(None).unwrap_or(period);
                // 0 is llama.cpp's name for a window in every layer.
                (0..layers).map(|layer| period == 0 || layer % period < period - 1).collect()
            }
        };
        let name = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
        let types: Vec<_> = slides.into_iter().map(name).collect();
        config.insert("layer_types".to_owned(), json!(types));
        Ok(())
    }

    /// An array of one truth value for each layer; `None` for an integer or
    /// an absent key.
    fn per_layer_flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let scalar = match self.metadata.size(key) {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        let Ok(Some(flags)) = self.metadata.numbers(key) else { return Err(scalar) };
        if flags.len() != layers {
            let expected = format!("{layers} values, one for each layer");
            return Err(self.metadata.invalid(key, expected, flags.len().to_string()));
        }
        Ok(Some(flags.into_iter().map(|flag| flag != 0.0).collect()))
    }

    /// llama.cpp calls Mistral and Mixtral `llama`.
    fn model_type(&self, config: &Map<String, Value>) -> &'static str {
        let positive =
            |field: &str| config.get(field).and_then(Value::as_u64).is_some_and(|n| n > 0);
        match self.architecture.name {
            "llama" if positive("num_local_experts") => "mixtral",
            "llama" if positive("sliding_window") => "mistral",
            _ => self.architecture.model_type,
        }
    }
}
