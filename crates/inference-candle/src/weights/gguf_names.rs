//! What GGUF calls the weights of a decoder, and in what form it has them.

use std::collections::HashMap;

use crate::config::gguf::GgufArchitecture;
use crate::{DecoderConfig, NormLayout};

/// A tensor of GGUF that holds a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GgufTensor {
    /// Its name.
    pub(crate) name: String,
    /// The expert whose part of the tensor it is, the first dimension's index.
    pub(crate) expert: Option<usize>,
    pub(crate) form: TensorForm,
}

/// How GGUF's values follow from those of the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorForm {
    /// They are the same.
    Same,
    /// The rows of each of so many heads are interleaved: rows `i` and
    /// `i + n/2` of a head of `n` lie at `2i` and `2i + 1`.
    Interleaved { heads: usize },
    /// One is added, where the decoder's norms have a unit offset.
    PlusOne,
}

/// The tensors of one model's weights; to be read in both directions.
#[derive(Clone, Debug)]
pub(crate) struct GgufNames {
    root: &'static str,
    /// Below the root, without `.weight`.
    model: Vec<(&'static str, &'static str, TensorForm)>,
    /// Below a layer, without `.weight` and `.bias`.
    layer: HashMap<String, (&'static str, TensorForm)>,
    head: &'static str,
    experts: &'static str,
    expert: [(&'static str, &'static str); 3],
}

impl GgufNames {
    /// The names of a decoder of that architecture.
    pub(crate) fn new(config: &DecoderConfig, architecture: &GgufArchitecture) -> Self {
        let names = &config.names;
        let norm = if architecture.unit_norms { TensorForm::PlusOne } else { TensorForm::Same };
        let rotary = |heads: usize| match architecture.permuted {
            true => TensorForm::Interleaved { heads },
            false => TensorForm::Same,
        };
        let same = TensorForm::Same;
        let fused_up = if config.fused_gate_up { "mlp.gate_up_proj" } else { "mlp.up_proj" };
        let mut layer = vec![
            ("self_attn.q_proj", "attn_q", rotary(config.num_heads)),
            ("self_attn.k_proj", "attn_k", rotary(config.num_kv_heads)),
            ("self_attn.v_proj", "attn_v", same),
            ("self_attn.qkv_proj", "attn_qkv", same),
            ("self_attn.o_proj", "attn_output", same),
            ("self_attn.q_norm", "attn_q_norm", norm),
            ("self_attn.k_norm", "attn_k_norm", norm),
            ("mlp.gate_proj", "ffn_gate", same),
            (fused_up, "ffn_up", same),
            ("mlp.down_proj", "ffn_down", same),
            (names.router, "ffn_gate_inp", same),
        ];
        if matches!(config.norms, NormLayout::Pre | NormLayout::PrePost) {
            layer.push((names.attention_norm, "attn_norm", norm));
            layer.push((names.mlp_norm, "ffn_norm", norm));
        }
        if matches!(config.norms, NormLayout::Post | NormLayout::PrePost) {
            layer.push((names.post_attention_norm, "post_attention_norm", norm));
            layer.push((names.post_mlp_norm, "post_ffw_norm", norm));
        }
        let [gate, up, down] = names.expert;
        Self {
            root: names.roots.first().copied().unwrap_or_default(),
            model: vec![
                (names.embedding, "token_embd", same),
                (names.final_norm, "output_norm", norm),
            ],
            layer: layer
                .into_iter()
                .map(|(hf, gguf, form)| (hf.to_owned(), (gguf, form)))
                .collect(),
            head: names.head,
            experts: names.experts,
            expert: [(gate, "ffn_gate_exps"), (up, "ffn_up_exps"), (down, "ffn_down_exps")],
        }
    }

    /// The tensor of a weight, which is named as in safetensors files; `None`
    /// for a name that is none of the decoder's.
    pub(crate) fn tensor(&self, weight: &str) -> Option<GgufTensor> {
        let (name, kind) = weight.rsplit_once('.')?;
        if !matches!(kind, "weight" | "bias") {
            return None;
        }
        let tensor = |name: String, expert, form| {
            let name = format!("{name}.{kind}");
            Some(GgufTensor { name, expert, form })
        };
        if name == self.head {
            return tensor("output".to_owned(), None, TensorForm::Same);
        }
        let name = name.strip_prefix(self.root)?;
        if let Some((_, gguf, form)) = self.model.iter().find(|(known, ..)| *known == name) {
            return tensor((*gguf).to_owned(), None, *form);
        }
        let (index, name) = name.strip_prefix("layers.")?.split_once('.')?;
        let index: usize = index.parse().ok()?;
        if let Some((gguf, form)) = self.layer.get(name) {
            return tensor(format!("blk.{index}.{gguf}"), None, *form);
        }
        let (expert, name) = name.strip_prefix(self.experts)?.strip_prefix('.')?.split_once('.')?;
        let expert: usize = expert.parse().ok()?;
        let (_, gguf) = self.expert.iter().find(|(known, _)| *known == name)?;
        tensor(format!("blk.{index}.{gguf}"), Some(expert), TensorForm::Same)
    }
}
