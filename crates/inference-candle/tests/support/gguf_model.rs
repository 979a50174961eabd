//! GGUF files that tests write: from a safetensors folder by rules of their
//! own, as llama.cpp's converter does it, or from another file with changes.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; each uses its part")]

use std::path::Path;

use inference_candle::{ModelFiles, SafetensorsFiles, WeightSource};
use inference_core::ModelSource;
use inference_gguf::{BlockType, GgufFile, GgufWriter, TensorType};
use serde_json::Value;

/// A file before it is written.
pub(crate) struct GgufModel {
    pub(crate) writer: GgufWriter,
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: BlockType,
    pub(crate) bytes: Vec<u8>,
}

impl GgufModel {
    /// The content of a file, without the keys that `dropped` names.
    pub(crate) fn copy(path: &Path, dropped: impl Fn(&str) -> bool) -> Self {
        let file = GgufFile::open(path).unwrap();
        let mut writer = GgufWriter::new();
        writer.copy(file.metadata(), |key| !dropped(key));
        let tensor = |info: &inference_gguf::TensorInfo| {
            let TensorType::Known(kind) = info.kind() else { unreachable!("a known type") };
            let bytes = file.bytes(info).unwrap().to_vec();
            Tensor { name: info.name().to_owned(), shape: info.shape().to_vec(), kind, bytes }
        };
        Self { writer, tensors: file.tensors().iter().map(tensor).collect() }
    }

    /// The tensors of a folder, f32; keys are the caller's part.
    pub(crate) fn from_folder(dir: &Path, form: &Form) -> Self {
        let config = inference_fixtures::json(&dir.join("config.json"));
        let size = |field: &str| config[field].as_u64().map(|n| n as usize);
        let heads = size("num_attention_heads").unwrap();
        let kv_heads = size("num_key_value_heads").unwrap_or(heads);
        let files = ModelFiles::new(&ModelSource::from(dir)).unwrap();
        let weights = SafetensorsFiles::open(&files).unwrap();
        let read = |name: &str| {
            let weight = weights.get(name).unwrap();
            let mut values = vec![0.0; weight.elem_count()];
            weight.decode_rows(0, &mut values).unwrap();
            (weight.shape().to_vec(), values)
        };
        let mut model = Self { writer: GgufWriter::new(), tensors: Vec::new() };
        let mut add = |from: &str, to: &str| {
            if !weights.contains(from) {
                return;
            }
            let (shape, mut values) = read(from);
            if form.norms_plus_one && from.ends_with("norm.weight") {
                values.iter_mut().for_each(|value| *value += 1.0);
            }
            if form.interleaved && from.contains("q_proj.") {
                values = interleave(&values, shape[0], heads);
            }
            if form.interleaved && from.contains("k_proj.") {
                values = interleave(&values, shape[0], kv_heads);
            }
            model.push(to, shape, &values);
        };
        add("model.embed_tokens.weight", "token_embd.weight");
        add("model.norm.weight", "output_norm.weight");
        add("lm_head.weight", "output.weight");
        let layers = size("num_hidden_layers").unwrap();
        for layer in 0..layers {
            for (from, to) in LAYER.iter().chain(form.norms) {
                for kind in ["weight", "bias"] {
                    let from = format!("model.layers.{layer}.{from}.{kind}");
                    add(&from, &format!("blk.{layer}.{to}.{kind}"));
                }
            }
        }
        for layer in 0..layers {
            for (name, to) in form.experts {
                let one = |expert: usize| {
                    let name = name.replace('#', &expert.to_string());
                    format!("model.layers.{layer}.{name}.weight")
                };
                let count = (0..).take_while(|expert| weights.contains(&one(*expert))).count();
                let parts: Vec<_> = (0..count).map(|expert| read(&one(expert))).collect();
                let shape = [vec![count], parts[0].0.clone()].concat();
                let values: Vec<f32> = parts.into_iter().flat_map(|(_, values)| values).collect();
                model.push(&format!("blk.{layer}.{to}.weight"), shape, &values);
            }
        }
        model
    }

    pub(crate) fn push(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.to_owned(), shape, kind: BlockType::F32, bytes });
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Writes the keys that every architecture has.
    pub(crate) fn set_common(&mut self, arch: &str, config: &Value) {
        let size = |field: &str| config[field].as_u64().unwrap() as u32;
        self.writer.set("general.architecture", arch);
        for (key, field) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ] {
            self.writer.set(&format!("{arch}.{key}"), size(field));
        }
        let number = |field: &str| config[field].as_f64().unwrap() as f32;
        let eps = format!("{arch}.attention.layer_norm_rms_epsilon");
        self.writer.set(&eps, number("rms_norm_eps"));
        self.writer.set(&format!("{arch}.rope.freq_base"), number("rope_theta"));
        if let Some(size) = config["head_dim"].as_u64() {
            self.writer.set(&format!("{arch}.attention.key_length"), size as u32);
            self.writer.set(&format!("{arch}.attention.value_length"), size as u32);
        }
    }

    pub(crate) fn write(mut self, path: &Path) {
        for tensor in &self.tensors {
            self.writer.tensor(&tensor.name, &tensor.shape, tensor.kind).unwrap();
        }
        let mut file = self.writer.create(path).unwrap();
        for tensor in &self.tensors {
            file.write(&tensor.bytes).unwrap();
        }
        file.finish().unwrap();
    }
}

/// What the converter does to an architecture's weights.
#[derive(Default)]
pub(crate) struct Form {
    /// Rows of queries and keys are interleaved.
    pub(crate) interleaved: bool,
    /// One is added to norms.
    pub(crate) norms_plus_one: bool,
    pub(crate) norms: &'static [(&'static str, &'static str)],
    /// `#` is the expert's number.
    pub(crate) experts: &'static [(&'static str, &'static str)],
}

/// Names below a layer that all architectures share.
const LAYER: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
];

/// Row `j * n/2 + i` of each head of `n` rows to row `2i + j`.
fn interleave(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (row, head) = (values.len() / rows, rows / heads);
    let from = |to: usize| {
        let (base, within) = (to / head * head, to % head);
        base + (within % 2) * (head / 2) + within / 2
    };
    (0..rows).flat_map(|to| values[from(to) * row..][..row].to_vec()).collect()
}
