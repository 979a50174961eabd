//! What the backend can do, and how a model is loaded.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use inference_core::{
    Availability, Backend, Capabilities, CapabilityId, DeviceInfo, DiscoveredModel, Error,
    LoadOptions, ModelInfo, ModelSource, ProgressEvent, Result, TextModel,
};
use inference_engine::{EngineModel, EngineOptions, ModelParts};
use inference_text::{ChatTemplate, SpecialTokens};

use crate::byte_vocabulary::{EOS, tokenizer};
use crate::counts::{COUNTS_FILE, Counts, MODEL_TYPE};
use crate::runner::{BLOCK_BYTES, BLOCK_SIZE, NgramRunner};

const NAME: &str = "ngram";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The order of the counts that are taken of a text file.
const DEFAULT_ORDER: usize = 6;

/// The longest context. Nothing in the model limits it; the KV pool does.
const CONTEXT_LEN: usize = 4096;

/// Runs byte n-gram models: a folder with `counts.json` and, optionally,
/// `chat_template.jinja`; or a text file, which is counted while it loads.
#[derive(Clone, Copy, Debug, Default)]
pub struct NgramBackend;

impl Backend for NgramBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn availability(&self) -> Availability {
        Availability::ready(vec![DeviceInfo::new("one CPU thread").with_compute_units(1)])
    }

    fn capabilities(&self) -> Capabilities {
        // What the engine does for every runner; nothing that the runner itself
        // would have to do, such as quantized weights or adapters.
        Capabilities::none().with_supported(&[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::Chat,
            CapabilityId::Classify,
            CapabilityId::BatchGenerate,
            CapabilityId::Tokenizer,
            CapabilityId::ChatTemplate,
            CapabilityId::Logits,
            CapabilityId::Logprobs,
            CapabilityId::ContinuousBatching,
            CapabilityId::KvSnapshot,
            CapabilityId::PrefixCache,
            CapabilityId::SpeculativeDecoding,
        ])
    }

    fn accepts(&self, model: &DiscoveredModel) -> Result<()> {
        // Discovery knows safetensors and GGUF, which are none of ours.
        Err(Error::unsupported_model(&model.name, "format", &model.format, COUNTS_FILE))
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        refuse_options(options)?;
        let engine = EngineOptions::for_load(options)?;
        let (context_len, num_blocks) = kv_pool(options, engine.max_batch)?;

        let report = |event: ProgressEvent| {
            if let Some(progress) = &options.progress {
                progress.report(&event);
            }
        };
        let phase = || "read counts".to_owned();
        report(ProgressEvent::Started { phase: phase(), total: None, unit: "n-grams" });
        let (counts, template) = read(source)?;
        report(ProgressEvent::Advanced { phase: phase(), done: counts.ngrams() as u64 });
        report(ProgressEvent::Finished { phase: phase() });

        let mut info = ModelInfo::default();
        info.architecture = MODEL_TYPE.to_owned();
        info.backend = NAME.to_owned();
        info.parameters = counts.ngrams() as u64;
        info.weight_dtype = "u64".to_owned();
        let mut parts = ModelParts::new(info)
            .with_tokenizer(tokenizer()?)
            .with_eos(vec![EOS])
            .with_identity(counts.digest());
        if let Some(template) = template {
            parts = parts.with_template(template);
        }
        let runner = NgramRunner::new(counts, context_len, num_blocks);
        let model: Arc<dyn TextModel> = EngineModel::start(Box::new(runner), parts, engine)?;
        Ok(model)
    }
}

/// Refuses by name what has no meaning here, unless it asks for what is the
/// case anyway. Everything else is honoured, by the engine or in [`kv_pool`].
fn refuse_options(options: &LoadOptions) -> Result<()> {
    let refused = [
        ("backend", options.backend.as_deref().is_some_and(|name| name != NAME)),
        ("gpu_layers", options.gpu_layers.is_some_and(|layers| layers != -1)),
        ("adapter_path", options.adapter_path.is_some()),
        ("quantize", options.quantize.is_some()),
        ("precision", options.precision.is_some()),
        ("kv_dtype", options.kv_dtype.is_some()),
        ("threads", options.threads.is_some_and(|threads| threads != 1)),
        ("affinity", options.affinity.is_some()),
    ];
    match refused.iter().find(|(_, refused)| *refused) {
        Some((name, _)) => Err(Error::unsupported("the n-gram backend", *name)),
        None => Ok(()),
    }
}

/// Context length and KV blocks: room for every slot's full context, within
/// the budget. Where that is too small for one, the context is smaller, unless
/// it was asked for.
fn kv_pool(options: &LoadOptions, slots: usize) -> Result<(usize, usize)> {
    let context_len = options.context_len.unwrap_or(CONTEXT_LEN);
    if context_len > CONTEXT_LEN {
        let expected = format!("1 to {CONTEXT_LEN}");
        return Err(Error::invalid_option("context_len", context_len, expected));
    }
    let one = context_len.div_ceil(BLOCK_SIZE);
    let wanted = one * slots;
    let Some(budget) = options.kv_budget else { return Ok((context_len, wanted)) };
    let affordable = usize::try_from(budget / BLOCK_BYTES).unwrap_or(usize::MAX);
    let least = if options.context_len.is_some() { one } else { 1 };
    if affordable < least {
        return Err(Error::exhausted("kv_budget (bytes)", least as u64 * BLOCK_BYTES, budget));
    }
    Ok((context_len.min(affordable * BLOCK_SIZE), wanted.min(affordable)))
}

/// The counts, and the chat template where there is one.
fn read(source: &ModelSource) -> Result<(Counts, Option<ChatTemplate>)> {
    let (counts, template) = match source {
        ModelSource::Path(path) if path.is_dir() => {
            (read_file(&path.join(COUNTS_FILE))?, read_file(&path.join(CHAT_TEMPLATE))?)
        }
        ModelSource::Path(path) => {
            let missing = || {
                Error::invalid_model(
                    path.display().to_string(),
                    "path",
                    "a file or folder",
                    "nothing",
                )
            };
            let text =
                read_text(&path.display().to_string(), read_file(path)?.ok_or_else(missing)?)?;
            return Ok((Counts::of_text(&text, DEFAULT_ORDER)?, None));
        }
        ModelSource::Embedded(files) => {
            let file = |name| files.iter().find(|(file, _)| *file == name).map(|f| f.1.to_vec());
            (file(COUNTS_FILE), file(CHAT_TEMPLATE))
        }
        _ => {
            return Err(Error::unsupported_model(
                "the source",
                "kind",
                source.to_string(),
                "path, embedded",
            ));
        }
    };
    let missing = || Error::invalid_model(COUNTS_FILE, "file", "counts of n-grams", "nothing");
    let counts = Counts::from_json(&counts.ok_or_else(missing)?)?;
    let template = template.map(|bytes| {
        let text = read_text(CHAT_TEMPLATE, bytes)?;
        ChatTemplate::new(&text, CHAT_TEMPLATE, SpecialTokens::default().with_eos("</s>"))
    });
    Ok((counts, template.transpose()?))
}

/// A file's content; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, "read", error)),
    }
}

fn read_text(file: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let found = format!("another byte at {}", error.utf8_error().valid_up_to());
        Error::invalid_model(file, "text", "UTF-8", found)
    })
}
