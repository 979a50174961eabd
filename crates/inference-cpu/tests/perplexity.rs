//! What computing with 8-bit activations costs: the perplexity of the embedded
//! model on the answers to its held-out questions, and on stories that it told
//! itself, against the same quantized file computed with in f32.
//!
//! The model's widths are not multiples of 256, so it is filled up with zeros
//! first, which changes none of its results: 256-value types take it then.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_candle::{FileType, QuantizeOptions, quantize_model};
use inference_core::{
    Backend, GenerateOptions, LoadOptions, LogitRows, ModelSource, Precision, Prompt, TextModel,
    TokenId,
};
use inference_cpu::CpuBackend;

/// The model's width, and the one that it is filled up to.
const WIDTHS: (usize, usize) = (192, 256);
/// The same of the hidden layer of its MLPs.
const HIDDEN: (usize, usize) = (448, 512);
/// Query heads per key/value head, and as many as fill up the width.
const HEADS: (usize, usize) = (3, 4);
/// Elements of a head.
const HEAD: usize = 32;

fn file(name: &str) -> &'static [u8] {
    inference_demo::FILES.iter().find(|(n, _)| *n == name).unwrap().1
}

/// A matrix or a vector in larger dimensions: `place` says where an index of
/// the first and of the second dimension goes.
fn moved(
    tensor: &Tensor,
    to: (usize, usize),
    place: (impl Fn(usize) -> usize, impl Fn(usize) -> usize),
    factor: f32,
) -> Tensor {
    let values = tensor.to_dtype(DType::F32).unwrap();
    let dims = tensor.dims().to_vec();
    let columns = *dims.last().unwrap();
    let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
    let mut out = vec![0.0; to.0 * to.1];
    for (i, value) in values.into_iter().enumerate() {
        out[place.0(i / columns) * to.1 + place.1(i % columns)] = value * factor;
    }
    let shape = if dims.len() == 1 { vec![to.1] } else { vec![to.0, to.1] };
    Tensor::from_vec(out, shape, &Device::Cpu).unwrap()
}

/// Where an element of the query heads goes: each key/value head gets another
/// query head, whose output nothing reads.
fn head_place(i: usize) -> usize {
    let (head, element) = (i / HEAD, i % HEAD);
    (head / HEADS.0 * HEADS.1 + head % HEADS.0) * HEAD + element
}

/// Writes the embedded model, filled up.
fn write_wide_model(folder: &Path) {
    let tensors = candle_core::safetensors::load_buffer(file("model.safetensors"), &Device::Cpu);
    let same = |i: usize| i;
    let mut wide = HashMap::new();
    for (name, tensor) in tensors.unwrap() {
        let part = name.rsplit('.').nth(1).unwrap();
        let (width, hidden) = (WIDTHS.1, HIDDEN.1);
        let tensor = match part {
            "embed_tokens" => moved(&tensor, (tensor.dims()[0], width), (same, same), 1.0),
            // The mean of the squares is over more elements.
            "norm" | "input_layernorm" | "post_attention_layernorm" => {
                let factor = (WIDTHS.0 as f32 / WIDTHS.1 as f32).sqrt();
                moved(&tensor, (1, width), (same, same), factor)
            }
            "q_proj" => moved(&tensor, (width, width), (head_place, same), 1.0),
            "k_proj" | "v_proj" => moved(&tensor, (tensor.dims()[0], width), (same, same), 1.0),
            "o_proj" => moved(&tensor, (width, width), (same, head_place), 1.0),
            "gate_proj" | "up_proj" => moved(&tensor, (hidden, width), (same, same), 1.0),
            "down_proj" => moved(&tensor, (width, hidden), (same, same), 1.0),
            other => panic!("{other}"),
        };
        wide.insert(name, tensor);
    }
    candle_core::safetensors::save(&wide, folder.join("model.safetensors")).unwrap();
    for (name, bytes) in inference_demo::FILES {
        if Path::new(name).extension().is_none_or(|kind| kind != "safetensors") {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let mut config: serde_json::Value = serde_json::from_slice(file("config.json")).unwrap();
    assert_eq!(config["hidden_size"], WIDTHS.0);
    assert_eq!(config["intermediate_size"], HIDDEN.0);
    config["hidden_size"] = WIDTHS.1.into();
    config["intermediate_size"] = HIDDEN.1.into();
    config["num_attention_heads"] = (WIDTHS.1 / HEAD).into();
    let eps = config["rms_norm_eps"].as_f64().unwrap();
    config["rms_norm_eps"] = (eps * WIDTHS.0 as f64 / WIDTHS.1 as f64).into();
    config["torch_dtype"] = "float32".into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn load(path: &Path, precision: Precision) -> Arc<dyn TextModel> {
    let options = LoadOptions::new().with_threads(2).with_precision(precision);
    CpuBackend::new().load_model(&ModelSource::from(path), &options).unwrap()
}

/// Token ids, and the first of them that the model is to predict.
type Text = (Vec<TokenId>, usize);

/// Held-out conversations as the model was trained on them, of which it
/// predicts the answers.
fn conversations(model: &dyn TextModel) -> Vec<Text> {
    let questions: Vec<serde_json::Value> = serde_json::from_str(inference_demo::HELD_OUT).unwrap();
    let encode = |question: &serde_json::Value, field: &str| {
        model.encode(question[field].as_str().unwrap(), false).unwrap()
    };
    let [bos, end, user, assistant] = [0, 2, 4, 5];
    let conversation = |question: &serde_json::Value| {
        let mut ids = vec![bos, user];
        ids.extend(encode(question, "prompt"));
        ids.extend([end, assistant]);
        let start = ids.len();
        ids.extend(encode(question, "answer"));
        ids.push(end);
        (ids, start)
    };
    questions.iter().step_by(4).map(conversation).collect()
}

/// Stories sampled from the model.
fn stories(model: &dyn TextModel) -> Vec<Text> {
    let story = |seed| {
        let options = GenerateOptions::new()
            .with_max_tokens(160)
            .with_temperature(1.0)
            .with_seed(seed)
            .with_ignore_eos(true);
        let mut ids = vec![0];
        let stream = model.generate(Prompt::from(ids.clone()), options).unwrap();
        ids.extend(stream.map(|token| token.unwrap().id));
        (ids, 1)
    };
    (0..8).map(story).collect()
}

fn perplexity(model: &dyn TextModel, texts: &[Text]) -> f64 {
    let scorer = model.as_scorer().unwrap();
    let (mut losses, mut count) = (0.0, 0);
    for (ids, first) in texts {
        let logits = scorer.prompt_logits(Prompt::from(ids.clone()), LogitRows::All).unwrap();
        for (row, target) in logits.rows().zip(&ids[1..]).skip(first - 1) {
            let largest = row.iter().fold(f32::MIN, |m, x| m.max(*x));
            let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            losses += sum.ln() + f64::from(largest - row[*target as usize]);
            count += 1;
        }
    }
    (losses / f64::from(count)).exp()
}

#[test]
fn eight_bit_activations_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = folder.path().join("narrow");
    std::fs::create_dir(&narrow).unwrap();
    for (name, bytes) in inference_demo::FILES {
        std::fs::write(narrow.join(name), bytes).unwrap();
    }
    let original = load(&narrow, Precision::Exact);
    let texts = [conversations(&*original), stories(&*original)];
    let perplexities =
        |model: Arc<dyn TextModel>| texts.each_ref().map(|texts| perplexity(&*model, texts));
    let original = perplexities(original);
    let wide = folder.path().join("wide");
    std::fs::create_dir(&wide).unwrap();
    write_wide_model(&wide);
    let filled = perplexities(load(&wide, Precision::Exact));
    println!("dense {original:.5?}, filled up {filled:.5?}");
    for (a, b) in original.into_iter().zip(filled) {
        assert!((a / b - 1.0).abs() < 1e-4, "filling up changed {original:?} to {filled:?}");
    }
    for (kind, allowed) in [
        (FileType::Q8_0, 0.005),
        (FileType::Q6K, 0.01),
        (FileType::Q5KM, 0.03),
        (FileType::Q4KM, 0.03),
        (FileType::Q4_0, 0.03),
    ] {
        let path = folder.path().join(format!("{}.gguf", kind.as_str()));
        // The name does not matter: texts are token ids already.
        let options = QuantizeOptions::new(kind).with_threads(2).with_pre_tokenizer("gpt-2");
        let report = quantize_model(&ModelSource::from(wide.as_path()), &path, &options).unwrap();
        assert!(report.types.iter().any(|(block, ..)| *block == kind.base()), "{report:?}");
        let exact = perplexities(load(&path, Precision::Exact));
        let fast = perplexities(load(&path, Precision::Fast));
        let change: Vec<f64> = fast.iter().zip(exact).map(|(a, b)| a / b - 1.0).collect();
        println!("{}: exact {exact:.5?}, fast {fast:.5?}, change {change:.5?}", kind.as_str());
        assert_ne!(exact, fast, "{}: the same path twice", kind.as_str());
        for change in change {
            assert!(change.abs() < allowed, "{}: {exact:?}, {fast:?}", kind.as_str());
        }
    }
}
