//! The sizes of a decoder.

use inference_core::Result;
use inference_gguf::Metadata;

use crate::StoredTensor;
use crate::config::Config;

/// The sizes of a decoder, where its files say them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// Decoder layers.
    pub num_layers: Option<u64>,
    /// Size of the residual stream.
    pub hidden_size: Option<u64>,
    /// Query heads per layer; the most, where layers differ.
    pub num_heads: Option<u64>,
    /// Key/value heads per layer; the most, where layers differ.
    pub num_kv_heads: Option<u64>,
    /// Size of one head's keys.
    pub head_dim: Option<u64>,
    /// Inner size of the MLP; the most, where layers differ.
    pub intermediate_size: Option<u64>,
    /// Size of the vocabulary.
    pub vocab_size: Option<u64>,
    /// Experts per layer, where there are any.
    pub num_experts: Option<u64>,
    /// Experts that a token uses.
    pub experts_per_token: Option<u64>,
    /// Longest sequence that the model was made for, in tokens.
    pub context_len: Option<u64>,
    /// Numbers that are kept per token: keys and values of all layers.
    pub kv_values_per_token: Option<u64>,
}

impl Geometry {
    /// Of a `config.json`.
    pub(crate) fn of_config(config: &Config) -> Result<Self> {
        let num_layers = config.size(&["num_hidden_layers", "n_layer", "num_layers"])?;
        let hidden_size = config.size(&["hidden_size", "n_embd", "d_model"])?;
        let num_heads = config.size(&["num_attention_heads", "n_head", "num_heads"])?;
        let num_kv_heads = config.size(&["num_key_value_heads"])?.or(num_heads);
        let derived = || hidden_size?.checked_div(num_heads?);
        let head_dim = config.size(&["head_dim"])?.or_else(derived);
        let per_head = || num_layers?.checked_mul(num_kv_heads?)?.checked_mul(head_dim?);
        Ok(Self {
            num_layers,
            hidden_size,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size: config.size(&[
                "moe_intermediate_size",
                "intermediate_size",
                "ffn_dim",
                "n_inner",
            ])?,
            vocab_size: config.size(&["vocab_size"])?,
            num_experts: config.size(&["num_local_experts", "num_experts", "n_routed_experts"])?,
            experts_per_token: config.size(&["num_experts_per_tok", "experts_per_token"])?,
            context_len: config.context_len()?.map(|tokens| tokens as u64),
            kv_values_per_token: per_head().and_then(|values| values.checked_mul(2)),
        })
    }

    /// Of the metadata of a GGUF file.
    pub(crate) fn of_metadata(metadata: &Metadata, tensors: &[StoredTensor]) -> Result<Self> {
        let architecture = metadata.text("general.architecture")?.unwrap_or_default();
        let keys = Keys { metadata, architecture };
        let num_layers = keys.most("block_count")?;
        let hidden_size = keys.most("embedding_length")?;
        let heads = keys.per_layer("attention.head_count")?;
        let kv_heads = match keys.per_layer("attention.head_count_kv")? {
            kv_heads if kv_heads.is_empty() => heads.clone(),
            kv_heads => kv_heads,
        };
        let num_heads = heads.iter().copied().max();
        let derived = || hidden_size?.checked_div(num_heads?);
        let head_dim = keys.most("attention.key_length")?.or_else(derived);
        let value_dim = keys.most("attention.value_length")?.or(head_dim);
        let kv_heads_of_all = || match kv_heads.as_slice() {
            [] => None,
            [one] => one.checked_mul(num_layers?),
            layers => layers.iter().try_fold(0_u64, |sum, heads| sum.checked_add(*heads)),
        };
        let both = || head_dim?.checked_add(value_dim?);
        let embedding = tensors.iter().find(|tensor| tensor.name == EMBEDDINGS[0]);
        Ok(Self {
            num_layers,
            hidden_size,
            num_heads,
            num_kv_heads: kv_heads.iter().copied().max(),
            head_dim,
            intermediate_size: keys.most("feed_forward_length")?,
            vocab_size: embedding.and_then(|tensor| tensor.shape.first().copied()),
            num_experts: keys.most("expert_count")?.filter(|experts| *experts > 0),
            experts_per_token: keys.most("expert_used_count")?.filter(|experts| *experts > 0),
            context_len: keys.most("context_length")?,
            kv_values_per_token: kv_heads_of_all().zip(both()).and_then(|(a, b)| a.checked_mul(b)),
        })
    }
}

/// Names of the table of embeddings, of which a token reads one row.
pub(crate) const EMBEDDINGS: [&str; 4] = [
    "token_embd.weight",
    "model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
];

/// Names of a head of its own; without one the embeddings are the head.
pub(crate) const HEADS: [&str; 3] =
    ["output.weight", "lm_head.weight", "language_model.lm_head.weight"];

struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    /// A number, or one per layer.
    fn per_layer(&self, key: &str) -> Result<Vec<u64>> {
        let key = format!("{}.{key}", self.architecture);
        let single = self.metadata.size(&key);
        if let Ok(single) = single {
            return Ok(single.map(|value| value as u64).into_iter().collect());
        }
        let numbers = self.metadata.numbers(&key)?.unwrap_or_default();
        let expected = "integers of at least 0";
        let whole = |number: &f64| {
            let valid = (0.0..9e15).contains(number) && number.fract() == 0.0;
            valid.then_some(*number as u64)
        };
        let whole: Option<Vec<u64>> = numbers.iter().map(whole).collect();
        whole.ok_or_else(|| self.metadata.invalid(&key, expected, "other numbers"))
    }

    fn most(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.per_layer(key)?.into_iter().max())
    }
}
