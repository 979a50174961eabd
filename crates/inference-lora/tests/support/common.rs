//! A small model's modules, and files of adapters for it.

#![allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "a test's own")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::borrow::Cow;
use std::path::Path;

use candle_core::{Device, Tensor};
use inference_lora::{
    AdapterFiles, AdapterWeights, GgufModule, Module, ModuleDelta, ModuleKind, ModuleTable,
    PeftConfig, ReadAdapter, ReadOptions, save_peft,
};
use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};

pub const HIDDEN: usize = 8;
pub const KV: usize = 4;
pub const VOCAB: usize = 6;

/// Two layers of queries (two heads, interleaved in GGUF), values with a bias,
/// and a norm; embedding and head.
pub fn table() -> ModuleTable {
    let mut table = ModuleTable::new(["model."]);
    table.gguf_architecture = Some("llama".to_owned());
    let map = |out| Module::new(ModuleKind::Map, out, HIDDEN);
    for layer in 0..2 {
        let query = GgufModule::new(format!("blk.{layer}.attn_q")).with_interleaved_heads(Some(2));
        let value = GgufModule::new(format!("blk.{layer}.attn_v"));
        let prefix = format!("layers.{layer}.");
        table.insert(format!("{prefix}self_attn.q_proj"), map(HIDDEN).with_gguf(query));
        let value = map(KV).with_bias(true).with_gguf(value);
        table.insert(format!("{prefix}self_attn.v_proj"), value);
        table.insert(format!("{prefix}input_layernorm"), Module::new(ModuleKind::Norm, HIDDEN, 1));
    }
    let embedding = Module::new(ModuleKind::Embedding, VOCAB, HIDDEN);
    table.insert("embed_tokens", embedding.with_gguf(GgufModule::new("token_embd")));
    let head = Module::new(ModuleKind::Head, VOCAB, HIDDEN);
    table.insert("lm_head", head.with_gguf(GgufModule::new("output")));
    table
}

pub const Q0: &str = "layers.0.self_attn.q_proj";
pub const Q1: &str = "layers.1.self_attn.q_proj";
pub const V0: &str = "layers.0.self_attn.v_proj";

/// Numbers that differ from tensor to tensor.
pub fn tensor(salt: usize, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let value = |i: usize| ((i * 31 + salt * 17) % 41) as f32 / 8.0 - 2.5;
    Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A change of `module` with numbers of its own.
pub fn delta(salt: usize, module: &str, rank: usize, scaling: f32) -> ModuleDelta {
    let table = table();
    let module = table.get(module).unwrap();
    let a = tensor(salt, &[rank, module.input]);
    ModuleDelta::new(a, tensor(salt + 1, &[module.out, rank]), scaling)
}

pub fn peft_config(fields: Value) -> PeftConfig {
    PeftConfig::from_json("adapter_config.json", fields.to_string().as_bytes()).unwrap()
}

pub fn fields() -> Value {
    json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    })
}

/// Rank 2, scaled by 3, on the queries.
pub fn weights() -> AdapterWeights {
    let modules = [Q0, Q1].into_iter().enumerate();
    let modules = modules.map(|(i, name)| (name.to_owned(), delta(i * 2, name, 2, 3.0)));
    AdapterWeights::new(modules.collect())
}

/// [`weights`] as PEFT's files.
pub fn saved(folder: &Path) {
    save_peft(folder, &peft_config(fields()), &weights(), &table()).unwrap();
}

pub fn read(folder: &Path) -> inference_core::Result<ReadAdapter> {
    AdapterFiles::open(folder)?.read(&table(), ReadOptions::new())
}

/// The message of what reading the folder fails with.
pub fn failure(folder: &Path) -> String {
    read(folder).unwrap_err().to_string()
}

pub fn assert_same(found: &AdapterWeights, wanted: &AdapterWeights) {
    let keys = |weights: &AdapterWeights| weights.modules.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(wanted));
    for (name, wanted) in &wanted.modules {
        let found = &found.modules[name];
        assert_eq!(found.scaling, wanted.scaling, "{name}");
        assert_eq!(found.magnitude.is_some(), wanted.magnitude.is_some(), "{name}");
        assert_eq!(found.bias.is_some(), wanted.bias.is_some(), "{name}");
        for (found, wanted) in found.tensors().zip(wanted.tensors()) {
            assert_eq!(found.dims(), wanted.dims(), "{name}");
            assert_eq!(found.dtype(), wanted.dtype(), "{name}");
            assert_eq!(numbers(found), numbers(wanted), "{name}");
        }
    }
    for (found, wanted) in [(&found.weights, &wanted.weights), (&found.biases, &wanted.biases)] {
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (name, wanted) in wanted {
            assert_eq!(numbers(&found[name]), numbers(wanted), "{name}");
        }
    }
}

/// Replaces a field of a folder's `adapter_config.json`.
pub fn set_field(folder: &Path, name: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[name] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

/// A tensor of f32 to be written.
pub struct Entry(pub Dtype, pub Vec<usize>, pub Vec<u8>);

impl Entry {
    pub fn new(tensor: &Tensor) -> Self {
        let bytes = numbers(tensor).iter().flat_map(|value| value.to_le_bytes()).collect();
        Self(Dtype::F32, tensor.dims().to_vec(), bytes)
    }
}

impl View for &Entry {
    fn dtype(&self) -> Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.2)
    }

    fn data_len(&self) -> usize {
        self.2.len()
    }
}

pub fn write_tensors(path: &Path, tensors: &[(String, Entry)]) {
    let views = tensors.iter().map(|(name, entry)| (name, entry));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Rewrites the tensors of PEFT's file in a folder.
pub fn edit_tensors(folder: &Path, edit: impl FnOnce(&mut Vec<(String, Entry)>)) {
    let path = folder.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Entry)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (name, Entry(view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    edit(&mut tensors);
    write_tensors(&path, &tensors);
}
