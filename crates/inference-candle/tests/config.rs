//! What `config.json` is understood to say, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use inference_candle::{Activation, DecoderConfig, MlpSpec, RopeScaling, architectures};
use inference_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

/// A small config of an architecture, with fields changed; `null` stays.
fn config(model_type: &str, changes: Value) -> Result<DecoderConfig> {
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "intermediate_size": 96,
        "vocab_size": 300,
        "max_position_embeddings": 128,
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    DecoderConfig::from_json("config.json", config.to_string().as_bytes())
}

fn windows(config: &DecoderConfig) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn qwen2_windows_begin_at_max_window_layers() {
    let with = |changes| windows(&config("qwen2", changes).unwrap());
    let on = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 3});
    assert_eq!(with(on), [None, None, None, Some(8)]);
    let off = json!({"use_sliding_window": false, "sliding_window": 8, "max_window_layers": 0});
    assert_eq!(with(off), [None; 4]);
    let listed = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0,
        "layer_types": ["sliding_attention", "full_attention", "full_attention",
            "sliding_attention"]});
    assert_eq!(with(listed), [Some(8), None, None, Some(8)]);
}

#[test]
fn windows_of_other_architectures() {
    let with = |kind, changes| windows(&config(kind, changes).unwrap());
    assert_eq!(with("mistral", json!({})), [Some(4096); 4]);
    assert_eq!(with("mistral", json!({"sliding_window": null})), [None; 4]);
    assert_eq!(with("mixtral", json!({})), [None; 4]);
    let gemma2 = with("gemma2", json!({"sliding_window": 8}));
    assert_eq!(gemma2, [Some(8), None, Some(8), None]);
    let gemma3 = json!({"sliding_window": 8, "sliding_window_pattern": 2});
    assert_eq!(with("gemma3_text", gemma3), [Some(8), None, Some(8), None]);
    // SmolLM3 windows the layers that have no rotary embedding.
    let smol = json!({"use_sliding_window": true, "sliding_window": 8});
    assert_eq!(with("smollm3", smol), [None, None, None, Some(8)]);
}

#[test]
fn experts_are_where_the_config_puts_them() {
    let changes = json!({"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": true});
    let config = config("qwen3_moe", changes).unwrap();
    let dense = MlpSpec::Gated { intermediate: 96 };
    let moe = MlpSpec::Moe { experts: 8, experts_per_token: 3, intermediate: 32, normalize: true };
    let found: Vec<_> = config.layers.iter().map(|layer| layer.mlp.clone()).collect();
    assert_eq!(found, [dense.clone(), moe, dense.clone(), dense]);
}

/// The text part of a multimodal Gemma 3 states only what differs from its
/// class's defaults.
#[test]
fn nested_gemma3_takes_the_defaults_of_its_class() {
    let json = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
            "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}});
    let config = DecoderConfig::from_json("config.json", json.to_string().as_bytes()).unwrap();
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab_size, config.context_len), (262_208, 131_072));
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!((config.ropes[0].theta, config.ropes[1].theta), (1e6, 1e4));
    assert_eq!(config.ropes[1].scaling, RopeScaling::None);
    assert_eq!(config.layers[5].window, None);
    assert_eq!(config.layers[6].window, Some(1024));
    assert!(config.tied_head && config.activation == Activation::GeluTanh);
}

/// transformers 5 writes one set of rope parameters per kind of layer.
#[test]
fn rope_parameters_per_layer_type() {
    let parameters = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
    let gemma = config("gemma3_text", parameters.clone()).unwrap();
    assert_eq!(gemma.ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((gemma.ropes[0].theta, gemma.ropes[1].theta), (5e5, 2e4));
    assert_eq!(gemma.ropes[1].scaling, RopeScaling::None);
    let llama = config("llama", parameters).unwrap_err();
    assert_eq!(llama.kind(), ErrorKind::UnsupportedModel);
    assert!(llama.to_string().contains("rope_parameters"), "{llama}");
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_ones() {
    let error = config("mamba", json!({})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.to_string().contains("feature `extra-architectures`"), "{error}");
    let error = config("gpt_neox", json!({})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    let message = error.to_string();
    assert!(message.contains("gpt_neox") && architectures().all(|name| message.contains(name)));
    assert!(architectures().is_sorted());
}

#[test]
fn features_that_are_not_implemented_are_refused_by_field() {
    for (kind, changes, field) in [
        (
            "llama",
            json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
            "quantization_config.quant_method",
        ),
        ("llama", json!({"architectures": ["LlamaForSequenceClassification"]}), "architectures"),
        ("llama", json!({"hidden_act": "mish"}), "hidden_act"),
        ("llama", json!({"rope_scaling": {"rope_type": "xpos", "factor": 2}}), "rope_type"),
        ("llama", json!({"rope_scaling": {"type": "mrope"}}), "rope_scaling.type"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("qwen3_moe", json!({"use_sliding_window": true}), "use_sliding_window"),
        ("qwen2", json!({"layer_types": ["linear_attention", "", "", ""]}), "layer_types"),
    ] {
        let error = config(kind, changes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn absurd_values_are_refused_by_field() {
    let four = |value: Value| json!([value.clone(), value.clone(), value.clone(), value]);
    let four_tiny = four(json!(1e-38));
    for (kind, changes, field) in [
        ("llama", json!({"hidden_size": 0}), "hidden_size"),
        ("llama", json!({"hidden_size": -1}), "hidden_size"),
        ("llama", json!({"hidden_size": 1_u64 << 60}), "hidden_size"),
        ("llama", json!({"hidden_size": "64"}), "hidden_size"),
        ("llama", json!({"hidden_size": null}), "hidden_size"),
        ("llama", json!({"vocab_size": 0}), "vocab_size"),
        ("llama", json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        ("llama", json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
        ("llama", json!({"num_attention_heads": 0}), "num_attention_heads"),
        ("llama", json!({"num_attention_heads": 3}), "num_attention_heads"),
        ("llama", json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        ("llama", json!({"head_dim": 15}), "head_dim"),
        ("llama", json!({"intermediate_size": 0}), "intermediate_size"),
        ("llama", json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        ("llama", json!({"max_position_embeddings": 1_u64 << 40}), "max_position_embeddings"),
        ("llama", json!({"rms_norm_eps": -1e-5}), "rms_norm_eps"),
        ("llama", json!({"rms_norm_eps": 1e300}), "rms_norm_eps"),
        ("llama", json!({"rope_theta": 0}), "rope_theta"),
        ("llama", json!({"rope_theta": 1e-300}), "rope_theta"),
        ("llama", json!({"rope_theta": 1e-38}), "rope_theta"),
        ("llama", json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        ("llama", json!({"rope_scaling": []}), "rope_scaling"),
        ("llama", json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
        ("llama", json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), "factor"),
        ("llama", json!({"rope_scaling": {"factor": 2}}), "rope_type"),
        (
            "phi3",
            json!({"rope_scaling": {"type": "longrope", "short_factor": four_tiny,
            "long_factor": four_tiny}, "head_dim": 8}),
            "rotary",
        ),
        ("phi3", json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor"),
        ("phi3", json!({"partial_rotary_factor": 0.01}), "partial_rotary_factor"),
        ("mistral", json!({"sliding_window": 0}), "sliding_window"),
        ("mixtral", json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        ("gemma2", json!({"final_logit_softcapping": 0}), "final_logit_softcapping"),
        ("gemma2", json!({"query_pre_attn_scalar": -4}), "query_pre_attn_scalar"),
        ("granite", json!({"logits_scaling": 0}), "logits_scaling"),
        ("smollm3", json!({"no_rope_layers": [1, 0]}), "no_rope_layers"),
        ("qwen2", json!({"layer_types": ["full_attention"]}), "layer_types"),
        ("qwen2", json!({"layer_types": four(json!("sliding_attention"))}), "sliding_window"),
    ] {
        let error = config(kind, changes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        let Error::InvalidModel { file, what, .. } = &error else { unreachable!("{error}") };
        assert!(file == "config.json" && what.contains(field), "{error}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for text in ["", "{", "[]", "null", "{\"model_type\": 3}", "{}"] {
        let error = DecoderConfig::from_json("config.json", text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{text}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(DecoderConfig::from_json("config.json", deep.as_bytes()).is_err());
}
