//! The same adapter in the formats of mlx-lm and llama.cpp, and how formats
//! are told apart.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/common.rs"]
mod common;

use std::path::Path;

use candle_core::Tensor;
use common::*;
use inference_gguf::{BlockType, GgufWriter};
use inference_lora::{AdapterFiles, AdapterFormat, AdapterWeights};
use serde_json::{Value, json};

fn mlx_config() -> Value {
    json!({
        "fine_tune_type": "lora", "num_layers": 2, "seed": 0, "model": "m",
        "lora_parameters":
            {"rank": 2, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    })
}

/// Factors transposed, as mlx-lm has them.
fn write_mlx(folder: &Path, config: &Value, weights: &AdapterWeights) {
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut tensors = Vec::new();
    for (name, delta) in &weights.modules {
        let path = table().path(name);
        let (a, b) = match &**name {
            "embed_tokens" => (delta.b.clone(), delta.a.clone()),
            _ => (delta.a.t().unwrap(), delta.b.t().unwrap()),
        };
        tensors.push((format!("{path}.lora_a"), Entry::new(&a.contiguous().unwrap())));
        tensors.push((format!("{path}.lora_b"), Entry::new(&b.contiguous().unwrap())));
        if let Some(magnitude) = &delta.magnitude {
            tensors.push((format!("{path}.m"), Entry::new(magnitude)));
        }
    }
    write_tensors(&folder.join("adapters.safetensors"), &tensors);
}

#[test]
fn mlx_factors_are_turned() {
    let folder = tempfile::tempdir().unwrap();
    write_mlx(folder.path(), &mlx_config(), &weights());
    let files = AdapterFiles::open(folder.path()).unwrap();
    assert_eq!(files.format(), AdapterFormat::MlxLm);
    assert_same(&read(folder.path()).unwrap().weights, &weights());
}

#[test]
fn mlx_embeddings_and_dora_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = mlx_config();
    config["lora_parameters"]["keys"] = json!(["model.embed_tokens"]);
    let delta_of = delta(7, "embed_tokens", 2, 3.0);
    let wanted = AdapterWeights::new([("embed_tokens".to_owned(), delta_of)].into());
    write_mlx(folder.path(), &config, &wanted);
    assert_same(&read(folder.path()).unwrap().weights, &wanted);

    let mut wanted = weights();
    for delta in wanted.modules.values_mut() {
        *delta = delta.clone().with_magnitude(tensor(3, &[HIDDEN]));
    }
    let mut config = mlx_config();
    write_mlx(folder.path(), &config, &wanted);
    assert!(failure(folder.path()).contains("fine_tune_type"));
    config["fine_tune_type"] = json!("dora");
    write_mlx(folder.path(), &config, &wanted);
    assert_same(&read(folder.path()).unwrap().weights, &wanted);
}

#[test]
fn mlx_fields_are_refused_by_name() {
    let set = |change: fn(&mut Value)| {
        let mut config = mlx_config();
        change(&mut config);
        config
    };
    for (config, named) in [
        (set(|c| c["fine_tune_type"] = json!("full")), "fine_tune_type"),
        (set(|c| c["lora_parameters"] = json!(3)), "lora_parameters"),
        (set(|c| c["lora_parameters"]["rank"] = json!(0)), "lora_parameters.rank"),
        (set(|c| c["lora_parameters"]["rank"] = json!(3)), "[3, 8]"),
        (set(|c| c["lora_parameters"]["scale"] = Value::Null), "lora_parameters.scale"),
        (set(|c| c["lora_parameters"]["alpha"] = json!(16)), "lora_parameters.alpha"),
        (
            set(|c| c["lora_parameters"]["keys"] = json!(["self_attn.q_proj", "self_attn.v_proj"])),
            "lora_parameters.keys",
        ),
        (set(|c| c["fine_tune_type"] = json!("dora")), "fine_tune_type"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_mlx(folder.path(), &config, &weights());
        let error = failure(folder.path());
        assert!(error.contains(named), "{named} in {error}");
    }
}

/// As many of the last layers as the configuration says.
#[test]
fn mlx_layers_are_counted_from_the_last() {
    let mut last = weights();
    last.modules.remove(Q0);
    for (field, count, fits) in
        [("num_layers", 1, true), ("lora_layers", 1, true), ("num_layers", -1, false)]
    {
        let mut config = mlx_config();
        config["num_layers"] = Value::Null;
        config[field] = json!(count);
        let folder = tempfile::tempdir().unwrap();
        write_mlx(folder.path(), &config, &last);
        assert_eq!(read(folder.path()).is_ok(), fits, "{field} {count}");
    }
}

/// Rows of each head as llama.cpp has them: `i` and `i + n/2` side by side.
fn interleaved(b: &Tensor, heads: usize) -> Tensor {
    let (rows, _) = b.dims2().unwrap();
    let head = rows / heads;
    let mut order = Vec::new();
    for first in (0..rows).step_by(head) {
        for i in 0..head / 2 {
            order.extend([(first + i) as u32, (first + head / 2 + i) as u32]);
        }
    }
    let order = Tensor::new(order, b.device()).unwrap();
    b.index_select(&order, 0).unwrap()
}

fn write_gguf(path: &Path, alpha: Option<f32>, tensors: &[(&str, Tensor, BlockType)]) {
    write_gguf_as(path, "llama", "adapter", alpha, tensors);
}

fn write_gguf_as(
    path: &Path,
    architecture: &str,
    kind: &str,
    alpha: Option<f32>,
    tensors: &[(&str, Tensor, BlockType)],
) {
    let mut writer = GgufWriter::new();
    writer.set("general.type", kind);
    writer.set("general.architecture", architecture);
    writer.set("adapter.type", "lora");
    if let Some(alpha) = alpha {
        writer.set("adapter.lora.alpha", alpha);
    }
    for (name, tensor, kind) in tensors {
        writer.tensor(name, tensor.dims(), *kind).unwrap();
    }
    let mut file = writer.create(path).unwrap();
    for (name, tensor, kind) in tensors {
        let values = numbers(tensor);
        let mut bytes = vec![0; kind.row_bytes(values.len()).unwrap()];
        kind.encode(name, &values, None, &mut bytes).unwrap();
        file.write(&bytes).unwrap();
    }
    file.finish().unwrap();
}

fn gguf_tensors(weights: &AdapterWeights) -> Vec<(&'static str, Tensor, BlockType)> {
    let (first, second) = (&weights.modules[Q0], &weights.modules[Q1]);
    let f32 = BlockType::F32;
    vec![
        ("blk.0.attn_q.weight.lora_a", first.a.clone(), f32),
        ("blk.0.attn_q.weight.lora_b", interleaved(&first.b, 2), f32),
        ("blk.1.attn_q.weight.lora_a", second.a.clone(), f32),
        ("blk.1.attn_q.weight.lora_b", interleaved(&second.b, 2), f32),
    ]
}

#[test]
fn gguf_rows_are_put_back_into_halves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    write_gguf(&path, Some(6.0), &gguf_tensors(&weights()));
    // The file, or a folder with nothing else.
    for path in [&*path, folder.path()] {
        assert_eq!(AdapterFiles::open(path).unwrap().format(), AdapterFormat::Gguf);
        assert_same(&read(path).unwrap().weights, &weights());
    }
    // Without alpha the factors are as they are.
    for alpha in [None, Some(0.0)] {
        write_gguf(&path, alpha, &gguf_tensors(&weights()));
        assert_eq!(read(&path).unwrap().weights.modules[Q0].scaling, 1.0);
    }
}

#[test]
fn gguf_embeddings_and_blocks_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let wanted = delta(9, "embed_tokens", 2, 3.0);
    let a = wanted.a.t().unwrap().contiguous().unwrap();
    let tensors = [
        ("token_embd.weight.lora_a", wanted.b.clone(), BlockType::F32),
        ("token_embd.weight.lora_b", a, BlockType::F32),
    ];
    write_gguf(&path, Some(6.0), &tensors);
    let wanted = AdapterWeights::new([("embed_tokens".to_owned(), wanted)].into());
    assert_same(&read(&path).unwrap().weights, &wanted);

    let (a, b) = (tensor(1, &[32, HIDDEN]), tensor(2, &[KV, 32]));
    let tensors = [
        ("blk.0.attn_v.weight.lora_a", a, BlockType::F16),
        ("blk.0.attn_v.weight.lora_b", b.clone(), BlockType::Q8_0),
    ];
    write_gguf(&path, Some(32.0), &tensors);
    let found = read(&path).unwrap().weights;
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 0.02;
    assert!(numbers(&found.modules[V0].b).iter().zip(&numbers(&b)).all(near));
}

#[test]
fn gguf_faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let good = gguf_tensors(&weights());
    for (architecture, kind, tensors, named) in [
        ("qwen2", "adapter", good.clone(), "general.architecture"),
        ("llama", "model", good.clone(), "general.type"),
        ("llama", "adapter", good[..3].to_vec(), "factor B"),
        (
            "llama",
            "adapter",
            vec![("blk.7.attn_q.weight.lora_a", tensor(0, &[2, HIDDEN]), BlockType::F32)],
            "blk.7.attn_q.weight.lora_a",
        ),
        (
            "llama",
            "adapter",
            vec![("blk.0.attn_norm.weight", tensor(0, &[HIDDEN]), BlockType::F32)],
            "blk.0.attn_norm.weight",
        ),
        (
            "llama",
            "adapter",
            vec![
                ("blk.0.attn_q.weight.lora_a", tensor(0, &[2, 16]), BlockType::F32),
                ("blk.0.attn_q.weight.lora_b", tensor(0, &[HIDDEN, 2]), BlockType::F32),
            ],
            "[2, 16]",
        ),
        (
            "llama",
            "adapter",
            vec![
                ("blk.0.attn_q.weight.lora_a", tensor(0, &[2, HIDDEN]), BlockType::F32),
                ("blk.0.attn_q.weight.lora_b", tensor(0, &[7, 2]), BlockType::F32),
            ],
            "2 heads",
        ),
    ] {
        write_gguf_as(&path, architecture, kind, Some(6.0), &tensors);
        let error = failure(&path);
        assert!(error.contains(named) && error.contains("adapter.gguf"), "{named} in {error}");
    }
}

#[test]
fn the_format_is_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("adapter_config.json");
    for (json, named) in [
        (json!({"r": 8}), "neither"),
        (json!({"peft_type": "LORA", "lora_parameters": {}}), "mlx-lm"),
        (json!({"lora_parameters": {}}), "adapters.safetensors"),
        (json!({"peft_type": "LORA"}), "adapter_model.safetensors"),
    ] {
        std::fs::write(&config, json.to_string()).unwrap();
        let error = AdapterFiles::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{named} in {error}");
    }
    let other = folder.path().join("weights.safetensors");
    std::fs::write(&other, "").unwrap();
    let error = AdapterFiles::open(&other).unwrap_err().to_string();
    assert!(error.contains("weights.safetensors"), "{error}");
}
