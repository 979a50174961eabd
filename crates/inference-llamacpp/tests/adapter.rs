//! An adapter in GGUF, through `LoadOptions::adapter_path`, has the logits of
//! the reference.

#![cfg(feature = "llama-cpp")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use candle_core::{DType, Tensor};
use inference_core::{Backend, ErrorKind, LoadOptions, LogitRows, ModelSource, Prompt};
use inference_fixtures::{floats, ids};
use inference_gguf::{BlockType, GgufWriter};
use inference_llamacpp::{Devices, LlamaCppBackend};

/// llama.cpp's names of the maps of a layer.
const MAPS: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The adapter of `folder` as llama.cpp has them.
fn to_gguf(folder: &Path, architecture: &str, path: &Path) {
    let config = inference_fixtures::json(&folder.join("adapter_config.json"));
    let file = folder.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    let mut writer = GgufWriter::new();
    writer.set("general.type", "adapter");
    writer.set("general.architecture", architecture);
    writer.set("adapter.type", "lora");
    writer.set("adapter.lora.alpha", config["lora_alpha"].as_f64().unwrap() as f32);
    let mut named: Vec<(String, &Tensor)> = Vec::new();
    for (name, tensor) in &tensors {
        let rest = name.strip_prefix("base_model.model.model.layers.").unwrap();
        let (layer, rest) = rest.split_once('.').unwrap();
        let (module, factor) = rest.split_once(".lora_").unwrap();
        let (_, map) = MAPS.iter().find(|(theirs, _)| *theirs == module).unwrap();
        let factor = factor.strip_suffix(".weight").unwrap().to_lowercase();
        named.push((format!("blk.{layer}.{map}.weight.lora_{factor}"), tensor));
    }
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in &named {
        writer.tensor(name, tensor.dims(), BlockType::F32).unwrap();
    }
    let mut writer = writer.create(path).unwrap();
    for (_, tensor) in named {
        let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        let values = values.to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn changes_the_logits_as_the_reference_says() {
    let Some(base) = inference_fixtures::dir("gguf/qwen2/qwen2-f32.gguf") else { return };
    let Some(adapter) = inference_fixtures::dir("lora/qwen2-r4-all") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("adapter.gguf");
    to_gguf(&adapter, "qwen2", &path);
    let backend = LlamaCppBackend::new(Devices::Default);
    let expected = inference_fixtures::json(&adapter.join("expected.json"));
    for (scale, like) in [(1.0, "adapter_last_logits"), (0.0, "base_last_logits")] {
        let options = LoadOptions::new().with_threads(1).with_adapter_path(&path);
        let options = options.with_adapter_scale(scale);
        let model = backend.load_model(&ModelSource::from(base.as_path()), &options).unwrap();
        let scorer = model.as_scorer().unwrap();
        for prompt in expected["prompts"].as_array().unwrap() {
            let input = Prompt::from(ids(&prompt["input_ids"]));
            let found = scorer.prompt_logits(input, LogitRows::Last).unwrap().values;
            let away = |from: &[f32]| {
                found.iter().zip(from).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
            };
            // llama.cpp's attention rounds keys and values to f16; the adapter
            // changes them by more than 10.
            let away = away(&floats(&prompt[like]));
            assert!(away < 0.1, "{away} from the reference at scale {scale}");
        }
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let Some(base) = inference_fixtures::dir("gguf/qwen2/qwen2-f32.gguf") else { return };
    let Some(folder) = inference_fixtures::dir("lora/qwen2-r4-all") else { return };
    let backend = LlamaCppBackend::new(Devices::Default);
    for path in [folder.clone(), folder.join("adapter_config.json"), base.clone()] {
        let options = LoadOptions::new().with_adapter_path(&path);
        let Err(error) = backend.load_model(&ModelSource::from(base.as_path()), &options) else {
            unreachable!("{} was loaded", path.display());
        };
        assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
        let named = error.to_string().contains(&*path.display().to_string());
        assert!(named && error.to_string().contains("general.type"), "{error}");
    }
}
