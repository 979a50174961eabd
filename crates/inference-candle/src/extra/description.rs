//! What the runner and the engine need to know of such a model.

use candle_core::Result as CandleResult;
use candle_nn::VarBuilder;
use inference_core::Result;

use super::instances::Prototype;
use crate::config::{Fields, RopeScaling, RopeSpec};

/// A model, described by `config.json`.
pub(super) struct Description {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_layers: usize,
    /// 0 where there is no attention.
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    /// Longest sequence, in tokens.
    pub(super) context_len: usize,
    /// Bytes of a sequence's state, whatever its length.
    pub(super) state_bytes: u64,
    /// The embedding's tensor.
    pub(super) embedding: &'static str,
    /// Names that candle-transformers asks for, and what files have instead.
    pub(super) renamed: &'static [(&'static str, &'static str)],
    /// Whether the output head is the embedding; a stored copy is not read.
    pub(super) tied_head: bool,
    pub(super) build: Build,
}

/// Makes the model for sequences of at most so many tokens.
pub(super) type Build =
    Box<dyn FnOnce(VarBuilder<'static>, usize) -> CandleResult<Box<dyn Prototype>>>;

impl Description {
    /// Bytes of f32 keys and values of a token.
    pub(super) fn token_bytes(&self) -> u64 {
        let size = |n: usize| n as u64;
        let heads = size(self.num_kv_heads).saturating_mul(size(self.head_dim));
        heads.saturating_mul(size(self.num_layers)).saturating_mul(8)
    }
}

/// Sizes that all of these architectures have, by the usual names.
pub(super) struct Sizes {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
}

impl Sizes {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            vocab: fields.required_size("vocab_size")?,
            hidden: fields.required_size("hidden_size")?,
            layers: fields.required_size("num_hidden_layers")?,
        })
    }
}

/// Heads, and the size of one where it is `hidden / heads`.
pub(super) fn heads(fields: &Fields<'_>, name: &str, hidden: usize) -> Result<(usize, usize)> {
    let heads = fields.required_size(name)?;
    if !hidden.is_multiple_of(heads) {
        return Err(fields.invalid(name, format!("a divisor of {hidden}")));
    }
    Ok((heads, hidden / heads))
}

/// Key/value heads: a divisor of `heads`, which is the default.
pub(super) fn kv_heads(fields: &Fields<'_>, heads: usize) -> Result<usize> {
    let name = "num_key_value_heads";
    let kv_heads = fields.size(name)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(fields.invalid(name, format!("a divisor of {heads}")));
    }
    Ok(kv_heads)
}

/// The rotary embedding, which has to be the plain one; `partial` is the part
/// of a head that is rotated where the config does not say.
pub(super) fn rope(
    fields: &Fields<'_>,
    head_dim: usize,
    context_len: usize,
    theta: f64,
    partial: f64,
) -> Result<RopeSpec> {
    let mut spec = RopeSpec::read(fields, head_dim, context_len, theta)?;
    let parameters = fields.object("rope_parameters")?;
    if spec.scaling != RopeScaling::None {
        let name = if parameters.is_some() { "rope_parameters" } else { "rope_scaling" };
        return Err(fields.unsupported(name, "no scaling"));
    }
    let says = |fields: &Fields<'_>| fields.get("partial_rotary_factor").is_some();
    if !says(fields) && !parameters.as_ref().is_some_and(says) {
        spec.dim = (head_dim as f64 * partial) as usize;
        if spec.dim == 0 || !spec.dim.is_multiple_of(2) {
            let expected = format!("heads of which {partial} is an even size, not {head_dim}");
            return Err(fields.invalid("num_attention_heads", expected));
        }
    }
    Ok(spec)
}

/// `dim / head_dim`, such that `head_dim * x` rounded down is `dim`.
pub(super) fn fraction(dim: usize, head_dim: usize) -> f64 {
    (dim as f64 + 0.5).min(head_dim as f64) / head_dim as f64
}

/// An epsilon of a norm.
pub(super) fn epsilon(fields: &Fields<'_>, name: &str, default: f64) -> Result<f64> {
    let eps = fields.number(name)?.unwrap_or(default);
    if !(0.0..1.0).contains(&eps) {
        return Err(fields.invalid(name, "a number from 0 to below 1"));
    }
    Ok(eps)
}

/// The activation, by a name that candle-nn computes as transformers does.
pub(super) fn activation<'a>(
    fields: &Fields<'a>,
    name: &str,
    default: &'static str,
) -> Result<&'a str> {
    let known = ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"];
    match fields.text(name)?.unwrap_or(default) {
        found if known.contains(&found) => Ok(found),
        _ => Err(fields.unsupported(name, known.join(", "))),
    }
}

/// Refuses a flag that is not `wanted`; `default` is what absence means.
pub(super) fn require(fields: &Fields<'_>, name: &str, wanted: bool, default: bool) -> Result<()> {
    if fields.flag(name)?.unwrap_or(default) == wanted {
        return Ok(());
    }
    Err(fields.unsupported(name, wanted.to_string()))
}

/// Refuses a size other than `wanted`, which is the default.
pub(super) fn require_size(fields: &Fields<'_>, name: &str, wanted: usize) -> Result<()> {
    if fields.size(name)?.is_none_or(|size| size == wanted) {
        return Ok(());
    }
    Err(fields.unsupported(name, wanted.to_string()))
}

/// Refuses an epsilon other than the one that is built in.
pub(super) fn require_epsilon(fields: &Fields<'_>, name: &str, wanted: f64) -> Result<()> {
    if (epsilon(fields, name, wanted)? - wanted).abs() <= wanted * 1e-6 {
        return Ok(());
    }
    Err(fields.unsupported(name, wanted.to_string()))
}

/// The configuration of candle-transformers from its JSON form.
pub(super) fn from_json<C: serde::de::DeserializeOwned>(
    fields: &Fields<'_>,
    json: serde_json::Value,
) -> Result<C> {
    serde_json::from_value(json).map_err(|e| {
        let expected = "what candle-transformers reads";
        inference_core::Error::invalid_model(fields.file(), "the document", expected, e.to_string())
    })
}
