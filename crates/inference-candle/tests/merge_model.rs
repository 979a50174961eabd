//! Models with adapters merged into them, as folders and as GGUF files.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use common::{forward, max_diff, sequence};
use inference_candle::{
    Decoder, DecoderConfig, FileType, GgufWeights, MergeAdapter, MergeOptions, MergedWeights,
    ModelFiles, QuantizeOptions, ReferenceOps, SafetensorsFiles, merge_model, quantize_model,
};
use inference_core::{CancelToken, ErrorKind, LoraConfig, ModelSource, Precision, Result};
use inference_fixtures::{dir, floats, ids, json};
use inference_gguf::GgufFile;
use inference_lora::{
    AdapterFiles, AdapterWeights, ModuleDelta, ModulePattern, PeftConfig, ReadOptions, save_peft,
};

type Tensors = HashMap<String, Tensor>;

fn load(folder: &Path) -> Tensors {
    safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn merge(base: &Path, adapter: &MergeAdapter, out: &Path) -> Result<()> {
    merge_model(&base.into(), adapter, out, &MergeOptions::new()).map(|_| ())
}

fn config(base: &Path) -> DecoderConfig {
    let json = std::fs::read(base.join("config.json")).unwrap();
    DecoderConfig::from_json("config.json", &json).unwrap()
}

fn gguf_decoder(path: &Path) -> Decoder {
    let file = GgufFile::open(path).unwrap();
    let config = DecoderConfig::from_gguf(&file).unwrap();
    let weights = GgufWeights::new(file, &config).unwrap();
    let ops = ReferenceOps::cpu().with_precision(Precision::Exact);
    Decoder::new(config, &weights, Arc::new(ops)).unwrap()
}

fn last_logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    forward(decoder, ids, sequence(0, ids.len(), ids.len()), None, &[ids.len() - 1]).remove(0)
}

/// Compares with the reference's merged model.
fn assert_merged(decoder: &Decoder, adapter: &Path, tolerance: f32) {
    for prompt in json(&adapter.join("expected.json"))["prompts"].as_array().unwrap() {
        let found = last_logits(decoder, &ids(&prompt["input_ids"]));
        let difference = max_diff(&found, &floats(&prompt["merged_last_logits"]));
        assert!(difference < tolerance, "{difference}");
    }
}

fn fixtures() -> Option<(PathBuf, PathBuf)> {
    Some((dir("tiny/llama-llama3rope")?, dir("lora/llama-r8-all")?))
}

#[test]
fn a_merged_folder_is_the_reference() {
    let Some((base, adapter)) = fixtures() else { return };
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let report =
        merge_model(&(*base).into(), &MergeAdapter::new(&adapter), &out, &MergeOptions::new());
    let report = report.unwrap();
    assert_eq!((report.changed, report.untied_head), (14, false));
    assert_merged(&common::decoder(&out), &adapter, 2e-4);
    let (before, after) = (load(&base), load(&out));
    assert_eq!(before.len(), after.len());
    for (name, tensor) in &before {
        let same = values(tensor) == values(&after[name]);
        assert_eq!(same, !name.contains("_proj"), "{name}");
    }
    for file in ["config.json", "tokenizer.json"].map(Path::new) {
        if base.join(file).exists() {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert_eq!(read(&base), read(&out), "{file:?}");
        }
    }
    // Nothing is left of what was temporary, and nothing is replaced.
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    let error = merge(&base, &MergeAdapter::new(&adapter), &out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// The base in another type and in two shards.
fn sharded(base: &Path, out: &Path, dtype: DType) {
    std::fs::create_dir(out).unwrap();
    std::fs::copy(base.join("config.json"), out.join("config.json")).unwrap();
    let tensors: BTreeMap<_, _> = load(base).into_iter().collect();
    let half = tensors.len() / 2;
    let mut map = BTreeMap::new();
    for index in 0..2 {
        let name = format!("model-{:05}-of-00002.safetensors", index + 1);
        let part: Tensors = tensors
            .iter()
            .skip(index * half)
            .take(if index == 0 { half } else { tensors.len() })
            .map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap()))
            .collect();
        map.extend(part.keys().map(|tensor| (tensor.clone(), name.clone())));
        safetensors::save(&part, out.join(&name)).unwrap();
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(out.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn types_and_shards_stay() {
    let Some((base, adapter)) = fixtures() else { return };
    for dtype in [DType::F16, DType::BF16] {
        let place = tempfile::tempdir().unwrap();
        let (half, out) = (place.path().join("half"), place.path().join("out"));
        sharded(&base, &half, dtype);
        merge(&half, &MergeAdapter::new(&adapter), &out).unwrap();
        let index = |folder: &Path| json(&folder.join("model.safetensors.index.json"));
        assert_eq!(index(&half)["weight_map"], index(&out)["weight_map"]);
        let files = AdapterFiles::open(&adapter).unwrap();
        let weights = files.read(&config(&base).modules(), ReadOptions::new()).unwrap().weights;
        let delta = &weights.modules["layers.1.mlp.down_proj"];
        let change = (delta.b.matmul(&delta.a).unwrap() * f64::from(delta.scaling)).unwrap();
        let name = "model.layers.1.mlp.down_proj.weight";
        let shard = index(&out)["weight_map"][name].as_str().unwrap().to_owned();
        let read = |folder: &Path| {
            safetensors::load(folder.join(&shard), &Device::Cpu).unwrap()[name].clone()
        };
        let wanted = (read(&half).to_dtype(DType::F32).unwrap() + change).unwrap();
        let found = read(&out);
        assert_eq!(found.dtype(), dtype);
        let step = if dtype == DType::F16 { 1e-3 } else { 8e-3 };
        for (found, wanted) in values(&found).iter().zip(values(&wanted)) {
            assert!((found - wanted).abs() <= step * wanted.abs() + 1e-6, "{found} {wanted}");
        }
    }
}

/// An adapter of the head or of the embedding alone.
fn adapter_of(base: &Path, module: &str, folder: &Path) -> AdapterWeights {
    let table = config(base).modules();
    let known = table.get(module).unwrap();
    let number = |i: usize| ((i * 13) % 19) as f32 / 60.0 - 0.15;
    let matrix = |rows: usize, columns: usize| {
        let values: Vec<f32> = (0..rows * columns).map(number).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    };
    let delta = ModuleDelta::new(matrix(2, known.input), matrix(known.out, 2), 2.0);
    let weights = AdapterWeights::new([(module.to_owned(), delta)].into());
    let config = PeftConfig::new(&LoraConfig::new().with_rank(2).with_alpha(4.0)).unwrap();
    let config = config.with_target_modules(ModulePattern::names([module]));
    save_peft(folder, &config, &weights, &table).unwrap();
    weights
}

/// A changed head leaves the embedding as it is, and the other way round.
#[test]
fn a_tied_head_becomes_a_weight_of_its_own() {
    let Some(base) = dir("tiny/llama-tied-bias") else { return };
    let embedding = "model.embed_tokens.weight";
    let plain = values(&load(&base)[embedding]);
    for (module, [changed, same]) in [
        ("lm_head", ["lm_head.weight", embedding]),
        ("embed_tokens", [embedding, "lm_head.weight"]),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (adapter, out) = (place.path().join("adapter"), place.path().join("out"));
        let weights = adapter_of(&base, module, &adapter);
        merge(&base, &MergeAdapter::new(&adapter), &out).unwrap();
        let tensors = load(&out);
        assert_eq!(values(&tensors[same]), plain, "{module}");
        assert_ne!(values(&tensors[changed]), plain, "{module}");
        assert_eq!(json(&out.join("config.json"))["tie_word_embeddings"], false);

        let files = ModelFiles::new(&ModelSource::from(&*base)).unwrap();
        let source = Box::new(SafetensorsFiles::open(&files).unwrap());
        let mut config = config(&base);
        let merged = MergedWeights::new(source, &config, weights, 1.0).unwrap();
        assert!(merged.unties_head());
        config.tied_head = false;
        let merged = Decoder::new(config, &merged, Arc::new(ReferenceOps::cpu())).unwrap();
        let wanted = last_logits(&merged, &[3, 1, 4]);
        let written = last_logits(&common::decoder(&out), &[3, 1, 4]);
        assert_eq!(wanted, written, "{module}");
        assert!(max_diff(&wanted, &last_logits(&common::decoder(&base), &[3, 1, 4])) > 1e-2);

        // And through GGUF, from the folder and from GGUF.
        let plain = place.path().join("plain.gguf");
        let f32 = || QuantizeOptions::new(FileType::F32);
        quantize_model(&(*base).into(), &plain, &f32()).unwrap();
        for (index, source) in [&base, &plain].into_iter().enumerate() {
            let gguf = place.path().join(format!("{index}.gguf"));
            let options = f32().with_adapter(MergeAdapter::new(&adapter));
            quantize_model(&(**source).into(), &gguf, &options).unwrap();
            let found = last_logits(&gguf_decoder(&gguf), &[3, 1, 4]);
            let difference = max_diff(&found, &wanted);
            assert!(difference < 1e-4, "{module}, {source:?}: {difference}");
        }
    }
}

/// Rows of queries and keys are interleaved there.
#[test]
fn a_merged_gguf_is_the_reference() {
    for (base, adapter) in
        [("llama-llama3rope", "llama-r8-all"), ("qwen2", "qwen2-dora"), ("qwen2", "qwen2-bias")]
    {
        let Some(base) = dir(&format!("tiny/{base}")) else { return };
        let Some(adapter) = dir(&format!("lora/{adapter}")) else { return };
        let place = tempfile::tempdir().unwrap();
        let plain = place.path().join("plain.gguf");
        let f32 = || QuantizeOptions::new(FileType::F32);
        quantize_model(&(*base).into(), &plain, &f32()).unwrap();
        let merging = || f32().with_adapter(MergeAdapter::new(&adapter));
        let [first, second] = ["folder.gguf", "gguf.gguf"].map(|name| place.path().join(name));
        quantize_model(&(*base).into(), &first, &merging()).unwrap();
        quantize_model(&(*plain).into(), &second, &merging()).unwrap();
        let (a, b) = (GgufFile::open(&first).unwrap(), GgufFile::open(&second).unwrap());
        assert_eq!(a.tensors().len(), b.tensors().len());
        for tensor in a.tensors() {
            let other = b.tensor(tensor.name()).unwrap();
            assert_eq!(a.bytes(tensor).unwrap(), b.bytes(other).unwrap(), "{}", tensor.name());
        }
        assert_merged(&gguf_decoder(&second), &adapter, 2e-4);
        // Quantized ones are merged on request only.
        let quantized = place.path().join("quantized.gguf");
        quantize_model(&(*base).into(), &quantized, &QuantizeOptions::new(FileType::Q8_0)).unwrap();
        let third = place.path().join("third.gguf");
        let options =
            || QuantizeOptions::new(FileType::Q8_0).with_adapter(MergeAdapter::new(&adapter));
        let error = quantize_model(&(*quantized).into(), &third, &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        let options = options().with_requantize(true);
        quantize_model(&(*quantized).into(), &third, &options).unwrap();
        assert_merged(&gguf_decoder(&third), &adapter, 2.0);
    }
}

#[test]
fn what_cannot_be_merged_is_an_error_and_no_folder() {
    let Some((base, adapter)) = fixtures() else { return };
    let Some(saved) = dir("lora/llama-modules-to-save") else { return };
    let Some(qwen) = dir("lora/qwen2-r4-all") else { return };
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let check = |base: &Path, adapter: MergeAdapter, named: &str| {
        let error = merge(base, &adapter, &out).unwrap_err().to_string();
        assert!(error.contains(named), "{named} in {error}");
        assert!(!out.exists());
    };
    check(&base, MergeAdapter::new(&adapter).with_scale(f32::NAN), "scale");
    check(&base, MergeAdapter::new(&saved).with_scale(0.5), "lm_head");
    check(&base, MergeAdapter::new(place.path()), "adapter_config.json");
    let Some(other) = dir("tiny/llama-h256") else { return };
    check(&other, MergeAdapter::new(&qwen), "shape");
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = MergeOptions::new().with_cancel(cancel);
    merge_model(&(*base).into(), &MergeAdapter::new(&adapter), &out, &options).unwrap_err();
    // The temporary folder is gone too.
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);

    let gguf = place.path().join("base.gguf");
    quantize_model(&(*base).into(), &gguf, &QuantizeOptions::new(FileType::F16)).unwrap();
    check(&gguf, MergeAdapter::new(&adapter), "GGUF");
    // What 16 bits cannot hold.
    let half = place.path().join("half");
    sharded(&base, &half, DType::F16);
    check(&half, MergeAdapter::new(&adapter).with_scale(1e9), "f16");
}

#[test]
fn a_scale_multiplies_the_change() {
    let Some((base, adapter)) = fixtures() else { return };
    let place = tempfile::tempdir().unwrap();
    let name = "model.layers.0.self_attn.k_proj.weight";
    let at = |scale: f32| {
        let out = place.path().join(scale.to_string());
        merge(&base, &MergeAdapter::new(&adapter).with_scale(scale), &out).unwrap();
        values(&load(&out)[name])
    };
    let (none, whole, half) = (at(0.0), at(1.0), at(0.5));
    assert_eq!(none, values(&load(&base)[name]));
    for ((none, whole), half) in none.iter().zip(&whole).zip(&half) {
        assert!((half - (none + whole) / 2.0).abs() < 1e-6);
    }
}
