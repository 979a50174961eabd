//! What a decoder is, as plain data, and how `config.json` and GGUF say it.
//!
//! [`DecoderConfig`] describes every architecture that the decoder computes;
//! one small file per architecture maps its `config.json`, as transformers 4
//! and 5 write it, to that description. A field that transformers' own class
//! for the architecture reads is used here or has to hold the value that
//! switches its feature off; other fields mean nothing to the reference either.

mod fields;
mod gemma2;
mod gemma3;
pub(crate) mod gguf;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod shared;
mod smollm3;
mod validate;

use inference_core::Result;

pub(crate) use fields::{Fields, parse};
pub use gguf::gguf_architectures;
pub use rope::{RopeScaling, RopeSpec};

use crate::{Activation, QuantizationScheme, extra_architectures};

/// A decoder, described completely.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// `model_type` of `config.json`.
    pub architecture: String,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Size of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_len: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Norm weights are stored as `w - 1` (Gemma).
    pub norm_unit_offset: bool,
    /// Where norms stand.
    pub norms: NormLayout,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Which affine maps have a bias.
    pub bias: Biases,
    /// The queries, keys and values are rows of one weight (Phi-3).
    pub fused_qkv: bool,
    /// Gate and up are rows of one weight (Phi-3).
    pub fused_gate_up: bool,
    /// Activation of the MLP's gate.
    pub activation: Activation,
    /// Factor on `q · k`.
    pub attention_scale: f32,
    /// Soft cap of attention scores.
    pub attention_softcap: Option<f32>,
    /// Factor on embeddings.
    pub embedding_scale: f32,
    /// Factor on what a block adds to the residual stream.
    pub residual_scale: f32,
    /// Factor on logits, before the soft cap.
    pub logit_scale: f32,
    /// Soft cap of logits.
    pub logit_softcap: Option<f32>,
    /// The output head is the embedding.
    pub tied_head: bool,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// The layers.
    pub layers: Vec<LayerSpec>,
    /// What weights are called.
    pub names: WeightNames,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormLayout {
    /// Before attention and before the MLP (Llama).
    Pre,
    /// After attention and after the MLP, inside the residual branch (OLMo 2).
    Post,
    /// Both (Gemma 2 and 3).
    PrePost,
}

/// Norms of queries and keys, before the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, weights `[head_dim]`.
    PerHead,
    /// All heads together, weights `[heads * head_dim]`.
    AllHeads,
}

/// Which affine maps have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output.
    pub output: bool,
    /// Gate, up and down.
    pub mlp: bool,
}

/// What is particular to one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Sliding window of attention, in tokens.
    pub window: Option<usize>,
    /// Index into [`DecoderConfig::ropes`]; `None`: no rotary embedding.
    pub rope: Option<usize>,
    /// The MLP.
    pub mlp: MlpSpec,
}

/// The MLP of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MlpSpec {
    /// `down(activation(gate(x)) * up(x))`.
    Gated {
        /// Size between the maps.
        intermediate: usize,
    },
    /// A mixture of such experts.
    Moe {
        /// Experts.
        experts: usize,
        /// Experts that each token goes to.
        experts_per_token: usize,
        /// Size between an expert's maps.
        intermediate: usize,
        /// The weights of a token's experts sum to 1.
        normalize: bool,
    },
}

/// What weights are called: names below [`root`](Self::roots) and below a
/// layer's own prefix, without `.weight` and `.bias`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightNames {
    /// Prefixes of everything but the head; the first that the files have.
    pub roots: Vec<&'static str>,
    /// The embedding, below the root.
    pub embedding: &'static str,
    /// The final norm, below the root.
    pub final_norm: &'static str,
    /// The output head.
    pub head: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// The norm after attention.
    pub post_attention_norm: &'static str,
    /// The norm before the MLP.
    pub mlp_norm: &'static str,
    /// The norm after the MLP.
    pub post_mlp_norm: &'static str,
    /// Router of a mixture.
    pub router: &'static str,
    /// The experts of a mixture, by number below this.
    pub experts: &'static str,
    /// Gate, up and down of an expert.
    pub expert: [&'static str; 3],
}

impl Default for WeightNames {
    /// Llama's names.
    fn default() -> Self {
        Self {
            roots: vec!["model."],
            embedding: "embed_tokens",
            final_norm: "norm",
            head: "lm_head",
            attention_norm: "input_layernorm",
            post_attention_norm: "post_attention_layernorm",
            mlp_norm: "post_attention_layernorm",
            post_mlp_norm: "post_feedforward_layernorm",
            router: "mlp.gate",
            experts: "mlp.experts",
            expert: ["gate_proj", "up_proj", "down_proj"],
        }
    }
}

type Mapping = fn(&Fields<'_>) -> Result<DecoderConfig>;

/// Every architecture: `model_type`, transformers' class, and the mapping.
const ARCHITECTURES: &[(&str, &str, Mapping)] = &[
    ("gemma2", "Gemma2ForCausalLM", gemma2::map),
    ("gemma3", "Gemma3ForConditionalGeneration", gemma3::map_nested),
    ("gemma3_text", "Gemma3ForCausalLM", gemma3::map),
    ("granite", "GraniteForCausalLM", granite::map),
    ("llama", "LlamaForCausalLM", llama::map),
    ("mistral", "MistralForCausalLM", mistral::map),
    ("mixtral", "MixtralForCausalLM", mixtral::map),
    ("olmo2", "Olmo2ForCausalLM", olmo2::map),
    ("phi3", "Phi3ForCausalLM", phi3::map),
    ("qwen2", "Qwen2ForCausalLM", qwen2::map),
    ("qwen3", "Qwen3ForCausalLM", qwen3::map),
    ("qwen3_moe", "Qwen3MoeForCausalLM", qwen3_moe::map),
    ("smollm3", "SmolLM3ForCausalLM", smollm3::map),
];

/// The architectures that are implemented, by `model_type`, sorted.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, ..)| *name)
}

impl DecoderConfig {
    /// Reads `config.json`; `file` names it in errors.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for an architecture or feature that is not implemented,
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
    /// anything malformed or out of range, both naming the field.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        Self::from_fields(&Fields::new(file, &parse(file, json)?)?)
    }

    /// As [`from_json`](Self::from_json), from the parsed file.
    pub(crate) fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let Some(name) = fields.text("model_type")? else {
            return Err(fields.invalid("model_type", format!("one of {}", known())));
        };
        if extra_architectures().any(|extra| extra == name) {
            let supported = format!("{}; others with the feature `extra-architectures`", known());
            return Err(fields.unsupported("model_type", supported));
        }
        let Some((_, class, map)) = ARCHITECTURES.iter().find(|(known, ..)| *known == name) else {
            return Err(fields.unsupported("model_type", known()));
        };
        // Another head on the same decoder, such as a classifier.
        let classes = fields.texts("architectures")?.unwrap_or_default();
        if !classes.is_empty() && !classes.contains(class) {
            return Err(fields.unsupported("architectures", *class));
        }
        // Refused here where the method is not implemented.
        QuantizationScheme::from_fields(fields)?;
        let config = map(fields)?;
        config.validate_as(fields.file(), &|field| fields.label(field))?;
        Ok(config)
    }

    /// Number of layers.
    #[must_use]
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }
}

fn known() -> String {
    architectures().collect::<Vec<_>>().join(", ")
}
