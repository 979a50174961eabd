//! What GGUF metadata calls the fields of `config.json`, as tables that are
//! read in both directions.
//!
//! Sources: the keys of `gguf-py/gguf/constants.py`, and what llama.cpp's
//! converter writes and its loader reads for each architecture.

/// What the value of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// An integer.
    Size,
    /// An integer, or one for each layer, all equal.
    PerLayer,
    /// A float.
    Number,
}

/// A key and its field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// The key, below the architecture's name: `attention.head_count`.
    pub(crate) key: &'static str,
    /// The field of `config.json`.
    pub(crate) field: &'static str,
    pub(crate) kind: KeyKind,
    /// There is no default.
    pub(crate) required: bool,
}

const fn key(key: &'static str, field: &'static str, kind: KeyKind) -> Key {
    Key { key, field, kind, required: false }
}

const fn required(key: &'static str, field: &'static str, kind: KeyKind) -> Key {
    Key { key, field, kind, required: true }
}

/// The keys of every architecture.
pub(crate) const COMMON: &[Key] = &[
    required("block_count", "num_hidden_layers", KeyKind::Size),
    required("context_length", "max_position_embeddings", KeyKind::Size),
    required("embedding_length", "hidden_size", KeyKind::Size),
    required("feed_forward_length", "intermediate_size", KeyKind::PerLayer),
    required("attention.head_count", "num_attention_heads", KeyKind::PerLayer),
    key("attention.head_count_kv", "num_key_value_heads", KeyKind::PerLayer),
    key("attention.key_length", "head_dim", KeyKind::Size),
    required("attention.layer_norm_rms_epsilon", "rms_norm_eps", KeyKind::Number),
    key("rope.freq_base", "rope_theta", KeyKind::Number),
];

/// Mixtral's keys.
const EXPERTS: &[Key] = &[
    key("expert_count", "num_local_experts", KeyKind::Size),
    key("expert_used_count", "num_experts_per_tok", KeyKind::Size),
];

const GEMMA2: &[Key] = &[
    key("attn_logit_softcapping", "attn_logit_softcapping", KeyKind::Number),
    key("final_logit_softcapping", "final_logit_softcapping", KeyKind::Number),
];

const GEMMA3: &[Key] = &[
    key("final_logit_softcapping", "final_logit_softcapping", KeyKind::Number),
    key("rope.freq_base_swa", "rope_local_base_freq", KeyKind::Number),
];

const GRANITE: &[Key] = &[
    key("attention.scale", "attention_multiplier", KeyKind::Number),
    key("embedding_scale", "embedding_multiplier", KeyKind::Number),
    key("residual_scale", "residual_multiplier", KeyKind::Number),
    required("logit_scale", "logits_scaling", KeyKind::Number),
];

const QWEN3_MOE: &[Key] = &[
    required("expert_count", "num_experts", KeyKind::Size),
    required("expert_used_count", "num_experts_per_tok", KeyKind::Size),
    key("expert_feed_forward_length", "moe_intermediate_size", KeyKind::Size),
];

/// An architecture of GGUF.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GgufArchitecture {
    /// `general.architecture`.
    pub(crate) name: &'static str,
    /// The `model_type` of `config.json` whose mapping describes it.
    pub(crate) model_type: &'static str,
    /// Its keys beyond the [`COMMON`] ones.
    pub(crate) keys: &'static [Key],
    /// The rows of queries and keys are in the order of a rotary embedding
    /// that turns neighbours `(2i, 2i + 1)` instead of halves `(i, i + n/2)`.
    pub(crate) permuted: bool,
    /// The weights of norms have one added.
    pub(crate) unit_norms: bool,
    /// How a sliding window is spread over the layers.
    pub(crate) windows: Windows,
}

/// Which layers slide where a file has a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// The architecture has none.
    None,
    /// All.
    All,
    /// All but each `period`-th, unless the file says otherwise; `default` is
    /// the window of a file that is silent.
    Alternating { period: usize, default: Option<usize> },
}

const fn architecture(
    name: &'static str,
    model_type: &'static str,
    keys: &'static [Key],
) -> GgufArchitecture {
    GgufArchitecture {
        name,
        model_type,
        keys,
        permuted: false,
        unit_norms: false,
        windows: Windows::None,
    }
}

/// Every architecture, sorted. llama.cpp writes Mistral and Mixtral as
/// `llama`; [`super::model_type`] tells them apart.
pub(crate) const ARCHITECTURES: &[GgufArchitecture] = &[
    GgufArchitecture {
        unit_norms: true,
        windows: Windows::Alternating { period: 2, default: Some(4096) },
        ..architecture("gemma2", "gemma2", GEMMA2)
    },
    GgufArchitecture {
        unit_norms: true,
        windows: Windows::Alternating { period: 6, default: None },
        ..architecture("gemma3", "gemma3_text", GEMMA3)
    },
    GgufArchitecture { permuted: true, ..architecture("granite", "granite", GRANITE) },
    GgufArchitecture {
        permuted: true,
        windows: Windows::All,
        ..architecture("llama", "llama", EXPERTS)
    },
    architecture("olmo2", "olmo2", &[]),
    GgufArchitecture { windows: Windows::All, ..architecture("phi3", "phi3", &[]) },
    architecture("qwen2", "qwen2", &[]),
    architecture("qwen3", "qwen3", &[]),
    architecture("qwen3moe", "qwen3_moe", QWEN3_MOE),
    GgufArchitecture { permuted: true, ..architecture("smollm3", "smollm3", &[]) },
];

impl GgufArchitecture {
    /// The architecture that GGUF calls by this name.
    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|known| known.name == name)
    }

    /// The architecture that GGUF writes a `model_type` as.
    pub(crate) fn by_model_type(model_type: &str) -> Option<&'static Self> {
        let model_type = match model_type {
            "mistral" | "mixtral" => "llama",
            "gemma3" => "gemma3_text",
            other => other,
        };
        ARCHITECTURES.iter().find(|known| known.model_type == model_type)
    }

    /// All its keys.
    pub(crate) fn all_keys(&self) -> impl Iterator<Item = &'static Key> {
        COMMON.iter().chain(self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_is_found_in_both_directions() {
        for known in ARCHITECTURES {
            let found = GgufArchitecture::by_name(known.name).map(|found| found.model_type);
            assert_eq!(found, Some(known.model_type));
            let found = GgufArchitecture::by_model_type(known.model_type).map(|found| found.name);
            assert_eq!(found, Some(known.name));
        }
        for model_type in crate::architectures() {
            assert!(GgufArchitecture::by_model_type(model_type).is_some(), "{model_type}");
        }
    }

    #[test]
    fn a_key_stands_for_one_field() {
        for known in ARCHITECTURES {
            let mut keys: Vec<_> = known.all_keys().map(|key| key.key).collect();
            let mut fields: Vec<_> = known.all_keys().map(|key| key.field).collect();
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            fields.sort_unstable();
            fields.dedup();
            assert_eq!((keys.len(), fields.len()), (count, count), "{}", known.name);
        }
    }
}
