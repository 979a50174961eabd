//! The models that backends are held to, with the reference operations as
//! their reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use inference::{ErrorKind, LoadOptions, Message, ModelSource, Precision, Role, TextModel};
use inference_candle::ReferenceOps;
use inference_conformance::{LoadRefusal, ModelUnderTest};

use crate::Result;

/// Largest difference of logits where activations are quantized too, as the
/// default precision of quantized weights does, from products in f32.
const QUANTIZED_TOLERANCE: f32 = 1.0;

/// Greedy ids that are compared with the reference.
const GREEDY: usize = 24;

/// Models below `tiny/` of the fixtures, one for each trait of architectures.
const TINY: [&str; 15] = [
    "llama-llama3rope",
    "llama-llama3rope-v5config",
    "llama-tied-bias",
    "llama-h256",
    "mistral-window8",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3-text",
    "phi3-longrope",
    "qwen3moe",
    "mixtral",
    "granite",
    "smollm3",
    "olmo2",
];

/// GGUF files of the fixtures: unquantized, and one of each kind of blocks.
const GGUF: [&str; 6] = [
    "llama/llama-f32.gguf",
    "qwen3/qwen3-q8_0.gguf",
    "gemma3/gemma3-q8_0.gguf",
    "llama-h256/llama-h256-q4_0.gguf",
    "llama-h256/llama-h256-q4_k_m.gguf",
    "stories260k/stories260k-q8_0.gguf",
];

/// The embedded model and the fixtures, where they are.
pub(super) fn usual() -> Result<Vec<ModelUnderTest>> {
    let mut models = vec![embedded()?];
    let tiny = TINY.iter().map(|name| format!("tiny/{name}"));
    let gguf = GGUF.iter().map(|name| format!("gguf/{name}"));
    for name in tiny.chain(["models/stories260k".to_owned()]).chain(gguf) {
        if let Some(path) = inference_fixtures::dir(&name) {
            models.push(folder(&name, &path)?);
        }
    }
    Ok(models)
}

/// Models that the caller names.
pub(super) fn given(paths: &[PathBuf]) -> Result<Vec<ModelUnderTest>> {
    paths.iter().map(|path| folder(&path.display().to_string(), path)).collect()
}

fn embedded() -> Result<ModelUnderTest> {
    let source = ModelSource::Embedded(inference_demo::FILES);
    let trusted = trusted(&source)?;
    let conversation = vec![Message::system("Be brief."), Message::user("What is 2 plus 3?")];
    let template = "<|bos|><|system|>Be brief.<|end|><|user|>What is 2 plus 3?<|end|><|assistant|>";
    let mut model = with_references(ModelUnderTest::new("embedded", source), &*trusted)?
        .with_eos(vec![1, 2])
        .with_template(conversation, template)
        .with_refused_chat(vec![Message::new(Role::Tool, "5")])
        .with_text("A text in English, 123 and 4.5.")
        .with_text("日本語 👩\u{200d}👧 e\u{301} \t\n");
    if let Some(other) = inference_fixtures::dir("tiny/llama-h256") {
        model = model.with_other(other);
    }
    Ok(model)
}

/// A model of the fixtures or of the caller's.
fn folder(name: &str, path: &Path) -> Result<ModelUnderTest> {
    let source = ModelSource::from(path);
    let trusted = trusted(&source)?;
    let mut model = with_references(ModelUnderTest::new(name, source), &*trusted)?
        .with_other(ModelSource::Embedded(inference_demo::FILES));
    if trusted.info().quantization.is_some() {
        model = model.with_tolerance(QUANTIZED_TOLERANCE);
    }
    if let Ok(config) = std::fs::read(path.join("config.json")) {
        let config: serde_json::Value = serde_json::from_slice(&config)?;
        model = model
            .with_eos(ids(&config["eos_token_id"]))
            .with_length_changes_positions(config["rope_scaling"]["type"] == "longrope");
        model = model.with_refusal(without_weights(name, path)?);
    }
    Ok(model)
}

/// A number or a list of them.
fn ids(value: &serde_json::Value) -> Vec<u32> {
    let one = |id: &serde_json::Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array().map_or_else(
        || one(value).into_iter().collect(),
        |many| many.iter().filter_map(one).collect(),
    )
}

/// The model's configuration alone, whose weights are missed.
fn without_weights(name: &str, path: &Path) -> Result<LoadRefusal> {
    let config: &'static [u8] = Vec::leak(std::fs::read(path.join("config.json"))?);
    let files = Vec::leak(vec![("config.json", config)]);
    let what = format!("{name} without its weights");
    let source = ModelSource::Embedded(files);
    Ok(LoadRefusal::new(what, source, ErrorKind::InvalidModel, "model.safetensors"))
}

/// The model with the reference operations, products in f32.
fn trusted(source: &ModelSource) -> Result<Arc<dyn TextModel>> {
    let ops = Arc::new(ReferenceOps::cpu().with_precision(Precision::Exact));
    let options = LoadOptions::new();
    Ok(inference_candle::load_model("reference", source, &options, ops)?)
}

/// Adds the reference's answers to prompts of unequal lengths.
fn with_references(model: ModelUnderTest, trusted: &dyn TextModel) -> Result<ModelUnderTest> {
    let mut prompts = Vec::new();
    if trusted.info().has_tokenizer {
        let texts =
            ["Once upon a time", "What is 7 plus 5?", "a", "日本語", "The fox. The fox. The"];
        for text in texts {
            prompts.push(trusted.encode(text, true)?);
        }
    } else {
        let vocab = u32::try_from(trusted.info().vocab_size)?;
        for (start, len) in [(7, 5), (11, 17), (3, 40), (5, 1)] {
            prompts.push((0..len).map(|i| (start + 29 * i) % vocab).collect());
        }
    }
    prompts.retain(|prompt: &Vec<u32>| !prompt.is_empty());
    Ok(model.with_references_of(trusted, &prompts, GREEDY)?.with_prompts(prompts))
}
