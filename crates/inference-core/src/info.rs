//! What a loaded or discovered model is.

use std::path::PathBuf;

use crate::TokenId;

/// Bits per weight and how many weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Quantization {
    /// Bits per weight, scales not counted.
    pub bits: u32,
    /// Weights that share a scale.
    pub group: u32,
}

impl Quantization {
    /// A quantization of `bits` per weight in groups of `group`.
    #[must_use]
    pub fn new(bits: u32, group: u32) -> Self {
        Self { bits, group }
    }
}

/// Facts about a loaded model.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct ModelInfo {
    /// The architecture's name, as in `config.json`'s `model_type`.
    pub architecture: String,
    /// The backend that runs it.
    pub backend: String,
    /// Size of the output vocabulary.
    pub vocab_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Size of the residual stream.
    pub hidden_size: usize,
    /// Query heads per layer.
    pub num_heads: usize,
    /// Key/value heads per layer.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Longest sequence of this load, in tokens.
    pub context_len: usize,
    /// Number of parameters; tied ones count once.
    pub parameters: u64,
    /// How most of the weights are stored, for example `bf16` or `q4_k`.
    pub weight_dtype: String,
    /// The quantization, where the weights are quantized.
    pub quantization: Option<Quantization>,
    /// Whether a chat template came with the model.
    pub has_chat_template: bool,
    /// Whether a tokenizer came with the model.
    pub has_tokenizer: bool,
    /// The tokens that end a text, the usual one first.
    pub eos_tokens: Vec<TokenId>,
}

/// A model found on disk, described from its headers alone.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct DiscoveredModel {
    /// What to call it: a folder's or file's name or, in a store of another
    /// tool, the name by which that tool and `--model` know it.
    pub name: String,
    /// The folder or file; the first one of a split file.
    pub path: PathBuf,
    /// `safetensors`, `gguf`, `peft` or `mlx-lm`.
    pub format: String,
    /// The architecture's name, where the files say it.
    pub architecture: Option<String>,
    /// Number of parameters, where it is known.
    pub parameters: Option<u64>,
    /// Size of the weights on disk.
    pub bytes: u64,
    /// The weights' type or quantization, for example `bf16` or `Q4_K_M`.
    pub dtype: Option<String>,
    /// How a safetensors model is quantized, as its `config.json` names the
    /// method (`gptq`, `awq`, `fp8`, …); `mlx` where it names none.
    pub quant_method: Option<String>,
    /// Bits and group of a quantized safetensors model, where it says them.
    pub quantization: Option<Quantization>,
    /// Longest sequence the model was made for, in tokens.
    pub context_len: Option<usize>,
    /// The license, where the files say it.
    pub license: Option<String>,
    /// Whether a chat template is present.
    pub has_chat_template: bool,
    /// Whether it is an adapter for another model, not a model of its own.
    pub is_adapter: bool,
    /// The model that an adapter is for, where its files say it.
    pub base_model: Option<String>,
    /// Backends that could load it, or why not: name and reason, `None` = can.
    pub backends: Vec<(String, Option<String>)>,
}
