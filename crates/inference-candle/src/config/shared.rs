//! What the architectures' configs have in common.

use inference_core::Result;

use super::{Biases, DecoderConfig, Fields, LayerSpec, MlpSpec, NormLayout, RopeSpec, WeightNames};
use crate::Activation;

/// What an architecture's class assumes where `config.json` is silent.
pub(super) struct Defaults {
    pub(super) head_dim: Option<usize>,
    pub(super) num_heads: Option<usize>,
    pub(super) num_kv_heads: Option<usize>,
    pub(super) vocab_size: Option<usize>,
    pub(super) context_len: usize,
    pub(super) norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) tied_head: bool,
    /// The field that names the activation, and its default.
    pub(super) activation: (&'static str, &'static str),
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            head_dim: None,
            num_heads: None,
            num_kv_heads: None,
            vocab_size: None,
            context_len: 2048,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied_head: false,
            activation: ("hidden_act", "silu"),
        }
    }
}

/// A Llama-like decoder without biases, every layer alike: what an
/// architecture's mapping starts from.
pub(super) fn decoder(fields: &Fields<'_>, defaults: &Defaults) -> Result<DecoderConfig> {
    let or_required = |name: &str, default: Option<usize>| match (fields.size(name)?, default) {
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => fields.required_size(name),
    };
    let hidden_size = fields.required_size("hidden_size")?;
    let num_heads = or_required("num_attention_heads", defaults.num_heads)?;
    let default_kv_heads = defaults.num_kv_heads.unwrap_or(num_heads);
    let num_kv_heads = fields.size("num_key_value_heads")?.unwrap_or(default_kv_heads);
    let head_dim = match (fields.size("head_dim")?, defaults.head_dim) {
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) if hidden_size % num_heads == 0 => hidden_size / num_heads,
        (None, None) => {
            let expected = format!("a divisor of hidden_size ({hidden_size})");
            return Err(fields.invalid("num_attention_heads", expected));
        }
    };
    let context_len = fields.length("max_position_embeddings")?.unwrap_or(defaults.context_len);
    let rope = RopeSpec::read(fields, head_dim, context_len, defaults.rope_theta)?;
    let intermediate = fields.required_size("intermediate_size")?;
    let layer = LayerSpec { window: None, rope: Some(0), mlp: MlpSpec::Gated { intermediate } };
    let num_layers = fields.required_size("num_hidden_layers")?;
    if num_layers > MAX_LAYERS {
        return Err(fields.invalid("num_hidden_layers", format!("at most {MAX_LAYERS}")));
    }
    Ok(DecoderConfig {
        architecture: fields.text("model_type")?.unwrap_or_default().to_owned(),
        vocab_size: or_required("vocab_size", defaults.vocab_size)?,
        hidden_size,
        num_heads,
        num_kv_heads,
        head_dim,
        context_len: rope.context_len(context_len),
        norm_eps: norm_eps(fields, defaults.norm_eps)?,
        norm_unit_offset: false,
        norms: NormLayout::Pre,
        qk_norm: None,
        bias: Biases::default(),
        fused_qkv: false,
        fused_gate_up: false,
        activation: activation(fields, defaults.activation)?,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        attention_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: None,
        tied_head: fields.flag("tie_word_embeddings")?.unwrap_or(defaults.tied_head),
        ropes: vec![rope],
        layers: vec![layer; num_layers],
        names: WeightNames::default(),
    })
}

/// More layers than any model has.
pub(super) const MAX_LAYERS: usize = 4096;

fn norm_eps(fields: &Fields<'_>, default: f64) -> Result<f32> {
    let eps = fields.number("rms_norm_eps")?.unwrap_or(default);
    if !(0.0..1.0).contains(&eps) {
        return Err(fields.invalid("rms_norm_eps", "a number from 0 to below 1"));
    }
    Ok(eps as f32)
}

fn activation(fields: &Fields<'_>, (name, default): (&str, &str)) -> Result<Activation> {
    match fields.text(name)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        "relu" => Ok(Activation::Relu),
        _ => Err(fields
            .unsupported(name, "silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu")),
    }
}

/// Sets the biases that `attention_bias` and, where the architecture has it,
/// `mlp_bias` ask for.
pub(super) fn read_biases(
    config: &mut DecoderConfig,
    fields: &Fields<'_>,
    has_mlp_bias: bool,
) -> Result<()> {
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    let mlp = has_mlp_bias && fields.flag("mlp_bias")?.unwrap_or(false);
    config.bias = Biases { qkv: attention, output: attention, mlp };
    Ok(())
}

/// Gives layers their window: those that `layer_types` says, or where that is
/// absent those for which `windowed` holds.
pub(super) fn set_windows(
    config: &mut DecoderConfig,
    fields: &Fields<'_>,
    window: Option<usize>,
    windowed: impl Fn(usize) -> bool,
) -> Result<()> {
    let types = layer_types(fields, config.layers.len())?;
    for (index, layer) in config.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or_else(|| windowed(index), |types| types[index]);
        if !slides {
            continue;
        }
        if types.is_some() && window.is_none() {
            let expected = "a window, because layer_types has sliding_attention";
            return Err(fields.invalid("sliding_window", expected));
        }
        layer.window = window;
    }
    Ok(())
}

/// Whether each layer of `layer_types` slides.
pub(super) fn layer_types(fields: &Fields<'_>, num_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = fields.texts("layer_types")? else { return Ok(None) };
    if types.len() != num_layers {
        return Err(fields.invalid("layer_types", format!("{num_layers} entries, one a layer")));
    }
    let slides = |name: &&str| match *name {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        _ => Err(fields.unsupported("layer_types", "full_attention, sliding_attention")),
    };
    types.iter().map(slides).collect::<Result<_>>().map(Some)
}

/// A cap: `null` is none, absent is `default`.
pub(super) fn softcap(
    fields: &Fields<'_>,
    name: &str,
    default: Option<f32>,
) -> Result<Option<f32>> {
    if !fields.has(name) {
        return Ok(default);
    }
    Ok(fields.positive(name)?.map(|cap| cap as f32))
}

/// Refuses a flag that is set.
pub(super) fn refuse_flag(fields: &Fields<'_>, name: &str) -> Result<()> {
    match fields.flag(name)? {
        Some(true) => Err(fields.unsupported(name, "false")),
        _ => Ok(()),
    }
}
