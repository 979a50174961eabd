//! Every architecture as llama.cpp's converter writes it: a file made from a
//! reference checkpoint computes what the checkpoint does. (Files written by
//! these rules were loaded by llama.cpp, whose logits agreed.)

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;
#[path = "support/gguf_model.rs"]
mod gguf_model;

use std::path::Path;
use std::sync::Arc;

use common::{forward, max_diff, sequence};
use gguf_model::{Form, GgufModel};
use inference_candle::{
    Decoder, DecoderConfig, GgufWeights, ModelFiles, ReferenceOps, SafetensorsFiles,
};
use inference_core::ModelSource;
use inference_gguf::GgufFile;
use serde_json::Value;

const PRE: &[(&str, &str)] =
    &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
const POST: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const PRE_POST: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Logits of all positions of the three prompts, in one pass each.
fn logits(decoder: &Decoder, prompts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let all = |ids: &Vec<u32>| {
        let rows: Vec<usize> = (0..ids.len()).collect();
        forward(decoder, ids, sequence(0, ids.len(), ids.len()), None, &rows)
    };
    prompts.iter().flat_map(all).collect()
}

/// Compares a file with the checkpoint that it is made from; `edit` changes
/// the checkpoint's config to what GGUF can say, `keys` are the file's own.
fn check(
    case: &str,
    arch: &str,
    form: &Form,
    edit: impl Fn(&mut Value),
    keys: impl Fn(&mut GgufModel, &Value),
) {
    let Some(dir) = inference_fixtures::dir(&format!("tiny/{case}")) else { return };
    let mut config = inference_fixtures::json(&dir.join("config.json"));
    edit(&mut config);
    let mut model = GgufModel::from_folder(&dir, form);
    model.set_common(arch, &config);
    keys(&mut model, &config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.write(&path);

    let expected = inference_fixtures::json(&dir.join("expected.json"));
    let prompts: Vec<Vec<u32>> = expected["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|prompt| inference_fixtures::ids(&prompt["input_ids"]))
        .collect();
    let found = logits(&from_gguf(&path), &prompts);
    let reference = logits(&from_folder(&dir, &config), &prompts);
    assert_eq!(found.len(), reference.len());
    for (row, (found, reference)) in found.iter().zip(&reference).enumerate() {
        let diff = max_diff(found, reference);
        assert!(diff < 1e-3, "{case}, row {row}: logits differ by {diff}");
    }
}

fn from_gguf(path: &Path) -> Decoder {
    let file = GgufFile::open(path).unwrap();
    let config = DecoderConfig::from_gguf(&file).unwrap();
    let weights = GgufWeights::new(file, &config).unwrap();
    Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu())).unwrap()
}

fn from_folder(dir: &Path, config: &Value) -> Decoder {
    let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
    let config = DecoderConfig::from_json("config.json", config.to_string().as_bytes()).unwrap();
    let weights = SafetensorsFiles::open(&files).unwrap();
    Decoder::new(config, &weights, Arc::new(ReferenceOps::cpu())).unwrap()
}

fn number(config: &Value, field: &str) -> f32 {
    config[field].as_f64().unwrap() as f32
}

fn size(config: &Value, field: &str) -> u32 {
    u32::try_from(config[field].as_u64().unwrap()).unwrap()
}

#[test]
fn gemma2() {
    let form = Form { norms_plus_one: true, norms: PRE_POST, ..Form::default() };
    // GGUF has no key for the scale of queries; llama.cpp takes the head's size.
    let edit = |config: &mut Value| {
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
    };
    check("gemma2", "gemma2", &form, edit, |model, config| {
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            model.writer.set(&format!("gemma2.{field}"), number(config, field));
        }
        model.writer.set("gemma2.attention.sliding_window", size(config, "sliding_window"));
    });
}

#[test]
fn gemma3_with_a_pattern_of_its_own() {
    let form = Form { norms_plus_one: true, norms: PRE_POST, ..Form::default() };
    let kinds = ["full_attention", "sliding_attention"];
    let slides = [true, true, false, true, false, true];
    let edit = |config: &mut Value| {
        config["layer_types"] = slides.iter().map(|slides| kinds[usize::from(*slides)]).collect();
    };
    check("gemma3-text", "gemma3", &form, edit, |model, config| {
        let factor = config["rope_scaling"]["factor"].as_f64().unwrap() as f32;
        model.writer.set("gemma3.rope.scaling.type", "linear");
        model.writer.set("gemma3.rope.scaling.factor", factor);
        model.writer.set("gemma3.rope.freq_base_swa", number(config, "rope_local_base_freq"));
        model.writer.set("gemma3.attention.sliding_window", size(config, "sliding_window"));
        model.writer.set_array("gemma3.attention.sliding_window_pattern", slides);
    });
}

#[test]
fn granite() {
    let form = Form { interleaved: true, norms: PRE, ..Form::default() };
    check(
        "granite",
        "granite",
        &form,
        |_| (),
        |model, config| {
            for (key, field) in [
                ("attention.scale", "attention_multiplier"),
                ("embedding_scale", "embedding_multiplier"),
                ("residual_scale", "residual_multiplier"),
                ("logit_scale", "logits_scaling"),
            ] {
                model.writer.set(&format!("granite.{key}"), number(config, field));
            }
        },
    );
}

#[test]
fn llama_with_biases_and_a_tied_head() {
    let form = Form { interleaved: true, norms: PRE, ..Form::default() };
    check("llama-tied-bias", "llama", &form, |_| (), |_, _| ());
}

#[test]
fn llama_with_yarn() {
    let form = Form { interleaved: true, norms: PRE, ..Form::default() };
    let edit = |config: &mut Value| {
        config["rope_scaling"] = serde_json::json!({"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 64, "beta_fast": 16.0, "attention_factor": 0.9});
    };
    check("llama-tied-bias", "llama", &form, edit, |model, _| {
        model.writer.set("llama.rope.scaling.type", "yarn");
        model.writer.set("llama.rope.scaling.factor", 4.0_f32);
        model.writer.set("llama.rope.scaling.original_context_length", 64_u32);
        model.writer.set("llama.rope.scaling.yarn_beta_fast", 16.0_f32);
        model.writer.set("llama.rope.scaling.yarn_attn_factor", 0.9_f32);
    });
}

#[test]
fn mistral() {
    let form = Form { interleaved: true, norms: PRE, ..Form::default() };
    check(
        "mistral-window8",
        "llama",
        &form,
        |_| (),
        |model, config| {
            model.writer.set("llama.attention.sliding_window", size(config, "sliding_window"));
        },
    );
}

#[test]
fn mixtral() {
    const EXPERTS: &[(&str, &str)] = &[
        ("block_sparse_moe.experts.#.w1", "ffn_gate_exps"),
        ("block_sparse_moe.experts.#.w2", "ffn_down_exps"),
        ("block_sparse_moe.experts.#.w3", "ffn_up_exps"),
    ];
    let form = Form { interleaved: true, norms: PRE, experts: EXPERTS, ..Form::default() };
    check(
        "mixtral",
        "llama",
        &form,
        |_| (),
        |model, config| {
            model.writer.set("llama.expert_count", size(config, "num_local_experts"));
            model.writer.set("llama.expert_used_count", size(config, "num_experts_per_tok"));
        },
    );
}

#[test]
fn olmo2() {
    let form = Form { norms: POST, ..Form::default() };
    check("olmo2", "olmo2", &form, |_| (), |_, _| ());
}

#[test]
fn phi3_longrope() {
    let form = Form { norms: PRE, ..Form::default() };
    check(
        "phi3-longrope",
        "phi3",
        &form,
        |_| (),
        |model, config| {
            let scaling = &config["rope_scaling"];
            let factors = |field: &str| inference_fixtures::floats(&scaling[field]);
            let (short, long) = (factors("short_factor"), factors("long_factor"));
            let original = size(config, "original_max_position_embeddings");
            let stretch = f64::from(size(config, "max_position_embeddings")) / f64::from(original);
            let attention = (1.0 + stretch.ln() / f64::from(original).ln()).sqrt() as f32;
            let rotated = 2 * u32::try_from(short.len()).unwrap();
            model.writer.set("phi3.rope.dimension_count", rotated);
            model.writer.set("phi3.rope.scaling.original_context_length", original);
            model.writer.set("phi3.rope.scaling.attn_factor", attention);
            model.writer.set("phi3.attention.sliding_window", 0_u32);
            model.push("rope_factors_short.weight", vec![short.len()], &short);
            model.push("rope_factors_long.weight", vec![long.len()], &long);
        },
    );
}

#[test]
fn qwen3_moe() {
    const EXPERTS: &[(&str, &str)] = &[
        ("mlp.experts.#.gate_proj", "ffn_gate_exps"),
        ("mlp.experts.#.up_proj", "ffn_up_exps"),
        ("mlp.experts.#.down_proj", "ffn_down_exps"),
    ];
    let form = Form { norms: PRE, experts: EXPERTS, ..Form::default() };
    check(
        "qwen3moe",
        "qwen3moe",
        &form,
        |_| (),
        |model, config| {
            model.writer.set("qwen3moe.expert_count", size(config, "num_experts"));
            model.writer.set("qwen3moe.expert_used_count", size(config, "num_experts_per_tok"));
            let expert = size(config, "moe_intermediate_size");
            model.writer.set("qwen3moe.expert_feed_forward_length", expert);
        },
    );
}

#[test]
fn smollm3() {
    let form = Form { interleaved: true, norms: PRE, ..Form::default() };
    check("smollm3", "smollm3", &form, |_| (), |_, _| ());
}
