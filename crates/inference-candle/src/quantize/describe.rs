//! A decoder as GGUF metadata, by the tables that reading uses.

use inference_core::{Error, Result};
use inference_gguf::GgufWriter;

use crate::config::gguf::{ARCHITECTURE, GgufArchitecture, KeyKind, Windows};
use crate::{DecoderConfig, MlpSpec, RopeScaling, RopeSpec};

/// Writes the keys of the architecture.
///
/// # Errors
///
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for what
/// GGUF cannot say of this architecture.
pub(super) fn describe(
    writer: &mut GgufWriter,
    config: &DecoderConfig,
    architecture: &GgufArchitecture,
) -> Result<()> {
    writer.set(ARCHITECTURE, architecture.name);
    let key = |name: &str| format!("{}.{name}", architecture.name);
    for entry in architecture.all_keys() {
        let Some(value) = value_of(config, architecture, entry.field) else { continue };
        let key = key(entry.key);
        match entry.kind {
            KeyKind::Number => writer.set(&key, value as f32),
            KeyKind::Size | KeyKind::PerLayer => {
                let size = u32::try_from(value as u64).map_err(|_| {
                    Error::unsupported_model(
                        "config.json",
                        entry.field,
                        value.to_string(),
                        "32 bits",
                    )
                })?;
                writer.set(&key, size);
            }
        }
    }
    let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    writer.set(&key("attention.value_length"), size(config.head_dim));
    writer.set(&key("vocab_size"), size(config.vocab_size));
    windows(writer, config, architecture)?;
    if let Some(rope) = full_rope(config) {
        writer.set(&key("rope.dimension_count"), size(rope.dim));
        scaling(writer, rope, &|name| key(&format!("rope.{name}")));
    }
    Ok(())
}

/// What a field of `config.json` would hold.
fn value_of(config: &DecoderConfig, architecture: &GgufArchitecture, field: &str) -> Option<f64> {
    let mut gated = None;
    let mut moe = None;
    for layer in &config.layers {
        match layer.mlp {
            MlpSpec::Gated { intermediate } => gated = Some(intermediate),
            MlpSpec::Moe { experts, experts_per_token, intermediate, .. } => {
                moe = Some((experts, experts_per_token, intermediate));
            }
        }
    }
    let size = |size: usize| Some(size as f64);
    let number = |number: f32| Some(f64::from(number));
    match field {
        "num_hidden_layers" => size(config.layers.len()),
        "max_position_embeddings" => size(config.context_len),
        "hidden_size" => size(config.hidden_size),
        "intermediate_size" => gated.or(moe.map(|(.., intermediate)| intermediate)).and_then(size),
        "num_attention_heads" => size(config.num_heads),
        "num_key_value_heads" => size(config.num_kv_heads),
        "head_dim" => size(config.head_dim),
        "rms_norm_eps" => number(config.norm_eps),
        "rope_theta" => full_rope(config).map(|rope| rope.theta),
        "rope_local_base_freq" => {
            let local = config.layers.iter().find(|layer| layer.window.is_some());
            local.and_then(|layer| config.ropes.get(layer.rope?)).map(|rope| rope.theta)
        }
        "num_local_experts" | "num_experts" => moe.and_then(|(experts, ..)| size(experts)),
        "num_experts_per_tok" => moe.and_then(|(_, used, _)| size(used)),
        "moe_intermediate_size" => moe.and_then(|(.., intermediate)| size(intermediate)),
        "attn_logit_softcapping" => config.attention_softcap.and_then(number),
        "final_logit_softcapping" => config.logit_softcap.and_then(number),
        "attention_multiplier" => number(config.attention_scale),
        "embedding_multiplier" => number(config.embedding_scale),
        "residual_multiplier" => number(config.residual_scale),
        // Logits are divided by it.
        "logits_scaling" if architecture.name == "granite" => number(1.0 / config.logit_scale),
        _ => None,
    }
}

/// The rotary embedding of layers without a window, if there is one.
fn full_rope(config: &DecoderConfig) -> Option<&RopeSpec> {
    let layers = || config.layers.iter().filter(|layer| layer.rope.is_some());
    let layer = layers().find(|layer| layer.window.is_none()).or_else(|| layers().next())?;
    config.ropes.get(layer.rope?)
}

fn windows(
    writer: &mut GgufWriter,
    config: &DecoderConfig,
    architecture: &GgufArchitecture,
) -> Result<()> {
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let slides: Vec<bool> = config.layers.iter().map(|layer| layer.window.is_some()).collect();
    let Some(window) = config.layers.iter().find_map(|layer| layer.window) else {
        return Ok(());
    };
    let refuse = |found: &str, supported: &str| {
        Err(Error::unsupported_model("config.json", "sliding_window", found, supported))
    };
    if config.layers.iter().any(|layer| layer.window.is_some_and(|own| own != window)) {
        return refuse("of different lengths", "one length");
    }
    match architecture.windows {
        Windows::None => return refuse(&window.to_string(), "none, as GGUF has none here"),
        Windows::All if slides.contains(&false) => {
            return refuse("in some layers", "one in all layers, as GGUF has it here");
        }
        Windows::All => {}
        Windows::Alternating { period, .. } => {
            let usual = |layer: usize| layer % period < period - 1;
            if slides.iter().enumerate().any(|(layer, slides)| *slides != usual(layer)) {
                writer.set_array(&key("attention.sliding_window_pattern"), slides);
            }
        }
    }
    writer.set(&key("attention.sliding_window"), u32::try_from(window).unwrap_or(u32::MAX));
    Ok(())
}

fn scaling(writer: &mut GgufWriter, rope: &RopeSpec, key: &dyn Fn(&str) -> String) {
    let original = |writer: &mut GgufWriter, context: usize| {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        writer.set(&key("scaling.original_context_length"), context);
    };
    match &rope.scaling {
        RopeScaling::Linear { factor } => {
            writer.set(&key("scaling.type"), "linear");
            writer.set(&key("scaling.factor"), *factor as f32);
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            attention_factor,
            original_context,
            ..
        } => {
            writer.set(&key("scaling.type"), "yarn");
            writer.set(&key("scaling.factor"), *factor as f32);
            writer.set(&key("scaling.yarn_beta_fast"), *beta_fast as f32);
            writer.set(&key("scaling.yarn_beta_slow"), *beta_slow as f32);
            writer.set(&key("scaling.yarn_attn_factor"), *attention_factor as f32);
            original(writer, *original_context);
        }
        RopeScaling::LongRope { attention_factor, original_context, .. } => {
            writer.set(&key("scaling.attn_factor"), *attention_factor as f32);
            original(writer, *original_context);
        }
        // In tensors, or refused with them.
        RopeScaling::None
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Factors { .. } => {}
    }
}
