//! Loading a GGUF file into llama.cpp, and its text parts beside it.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use inference_core::{
    Error, KvDtype, LoadOptions, ModelInfo, ModelSource, ProgressEvent, ProgressSink, Result,
    TextModel,
};
use inference_engine::{EngineModel, EngineOptions, MemoryUsage, ModelParts};
use inference_gguf::{BlockType, GgufFile, Metadata, TensorType, is_gguf, model_in_folder};
use inference_text::{TextParts, sampling_defaults};
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};

use crate::device::Devices;
use crate::identity::identity;
use crate::kv_plan::{KvPlan, KvShape};
use crate::log_capture::explained;
use crate::options;
use crate::runner::LlamaRunner;
use crate::session::Session;

/// Tokens that llama.cpp computes at once; its own default.
const MICRO_BATCH: usize = 512;

/// The key of the architecture's name.
const ARCHITECTURE: &str = "general.architecture";

/// llama.cpp, initialized once for the process, with its log in `tracing`.
pub(crate) fn library() -> Result<&'static LlamaBackend, String> {
    static LIBRARY: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let open = || {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().map_err(|error| format!("llama.cpp: {error}"))
    };
    LIBRARY.get_or_init(open).as_ref().map_err(Clone::clone)
}

/// Loads a model and starts its engine.
pub(crate) fn load_model(
    devices: Devices,
    source: &ModelSource,
    options: &LoadOptions,
) -> Result<Arc<dyn TextModel>> {
    options.validate()?;
    let name = devices.backend_name();
    let unavailable = |reason| Error::BackendUnavailable { name: name.to_owned(), reason };
    let library = library().map_err(unavailable)?;
    let gpus: Vec<usize> = devices.accelerators().iter().map(|device| device.index).collect();
    if gpus.is_empty() && devices != Devices::Default {
        return Err(unavailable("llama.cpp finds no such device".to_owned()));
    }
    options::refuse(devices, options, !gpus.is_empty())?;
    let threads = options::threads(options)?;
    let engine = EngineOptions::for_load(options)?;

    let path = gguf_path(source)?;
    let file = GgufFile::open(&path)?;
    let metadata = file.metadata();
    let Some(architecture) = metadata.text(ARCHITECTURE)? else {
        return Err(metadata.invalid(ARCHITECTURE, "a text", "nothing"));
    };
    let shape = KvShape::read(metadata, architecture)?;
    let text = TextParts::from_gguf(metadata)?;
    let (defaults, mut notes) = sampling_defaults(metadata)?;
    let shares = engine.prefix_cache;
    let mut plan = KvPlan::new(&shape, options, engine.max_batch, shares)?;
    notes.extend(plan.notes.iter().cloned());
    let report = |event: ProgressEvent| {
        if let Some(progress) = &options.progress {
            progress.report(&event);
        }
    };
    for message in notes {
        report(ProgressEvent::Note { message });
    }

    let phase = || "load weights".to_owned();
    report(ProgressEvent::Started { phase: phase(), total: Some(100), unit: "%" });
    let gpu_layers = options::gpu_layers(options, !gpus.is_empty());
    let params = model_params(&gpus, gpu_layers, options.progress.clone(), phase())?;
    let load = || LlamaModel::load_from_file(library, &path, &params);
    let shown = path.display().to_string();
    let model = explained("no reason", load, |reason| {
        Error::unsupported_model(&*shown, "model", reason, "what llama.cpp loads")
    })?;
    report(ProgressEvent::Finished { phase: phase() });
    if let Some(why) = cannot_share(metadata, architecture, &model)? {
        if options.prefix_cache == Some(true) {
            return Err(Error::unsupported(format!("{why} on `{name}`"), "prefix_cache"));
        }
        plan.shares = false;
    }

    let mut info = info(&shape, &file, &model);
    name.clone_into(&mut info.backend);
    architecture.clone_into(&mut info.architecture);
    let vocab_size = usize::try_from(model.n_vocab()).unwrap_or(0);
    let memory = MemoryUsage {
        weights: model.size(),
        kv_block: plan.sequence_bytes,
        ..MemoryUsage::default()
    };
    tracing::debug!(
        backend = name,
        model = %source,
        architecture,
        parameters = info.parameters,
        context_len = plan.context_len,
        sequences = plan.sequences,
        threads,
        "model loaded"
    );
    let capacity = engine.step_token_budget;
    let params = context_params(options, &plan, threads, capacity)?;
    let adapter = options.adapter_path.as_deref().map(adapter_file).transpose()?;
    let adapter = adapter.map(|path| (path, options.adapter_scale.unwrap_or(1.0)));
    let identity = identity(&file, adapter.as_ref().map(|(path, scale)| (&**path, *scale)))?;
    let open = || Session::open(library, model, params, adapter);
    let session = explained("no reason", open, |reason| {
        let dtype = options.kv_dtype.map(|dtype| format!(" (kv_dtype = {dtype})"));
        Error::engine_message(format!(
            "llama.cpp made no context of {} positions{}: {reason}",
            plan.cells * plan.sequences,
            dtype.unwrap_or_default(),
        ))
    })?;

    let mut parts = ModelParts::new(info)
        .with_defaults(defaults)
        .with_eos(text.eos_ids)
        .with_identity(identity);
    if let Some(tokenizer) = text.tokenizer {
        parts = parts.with_tokenizer(tokenizer);
    }
    if let Some(template) = text.template {
        parts = parts.with_template(template);
    }
    let kv_format = options.kv_dtype.unwrap_or(KvDtype::F16).to_string();
    let runner = LlamaRunner::new(session, vocab_size, &plan, capacity, memory, kv_format)?;
    let model: Arc<dyn TextModel> = EngineModel::start(Box::new(runner), parts, engine)?;
    Ok(model)
}

/// What keeps sequences of a model from sharing positions, if anything does.
fn cannot_share(
    metadata: &Metadata,
    architecture: &str,
    model: &LlamaModel,
) -> Result<Option<&'static str>> {
    if model.is_recurrent() || model.is_hybrid() {
        // Its state forgets no single positions.
        return Ok(Some("a recurrent model"));
    }
    // llama.cpp gives positions that have left their sequence's window away,
    // also those that are in the window of a shorter one.
    let window = metadata.size(&format!("{architecture}.attention.sliding_window"))?;
    Ok(window.filter(|window| *window > 0).map(|_| "a model with sliding windows"))
}

/// The GGUF file of an adapter; llama.cpp reads no other format.
fn adapter_file(path: &Path) -> Result<PathBuf> {
    let refused = |found: &str| {
        let expected = "a GGUF file whose `general.type` is `adapter`";
        Err(Error::unsupported_model(path.display().to_string(), "format", found, expected))
    };
    let facts = std::fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
    if facts.is_dir() {
        return refused("a folder");
    }
    if !is_gguf(path)? {
        return refused("another file");
    }
    match GgufFile::open(path)?.metadata().text("general.type")? {
        Some("adapter") => Ok(path.to_owned()),
        found => refused(&format!("`general.type` of {found:?}")),
    }
}

/// The file that llama.cpp is to open.
fn gguf_path(source: &ModelSource) -> Result<PathBuf> {
    let refused =
        |found: &str| Error::unsupported_model(source.to_string(), "format", found, "a GGUF file");
    let ModelSource::Path(path) = source else {
        return Err(refused("no file"));
    };
    let facts = std::fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
    if facts.is_dir() {
        return model_in_folder(path)?.ok_or_else(|| refused("a folder without one"));
    }
    if is_gguf(path)? { Ok(path.clone()) } else { Err(refused("another file")) }
}

fn model_params(
    gpus: &[usize],
    gpu_layers: u32,
    progress: Option<ProgressSink>,
    phase: String,
) -> Result<LlamaModelParams> {
    let mut params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers).with_use_mmap(true);
    if !gpus.is_empty() {
        params = params
            .with_devices(gpus)
            .map_err(|error| Error::engine("choosing the devices of llama.cpp", error))?;
    }
    let Some(progress) = progress else { return Ok(params) };
    let mut shown = 0;
    Ok(params.with_progress_callback(move |part| {
        let done = (part.clamp(0.0, 1.0) * 100.0) as u64;
        if done > shown {
            shown = done;
            progress.report(&ProgressEvent::Advanced { phase: phase.clone(), done });
        }
        true
    }))
}

fn context_params(
    options: &LoadOptions,
    plan: &KvPlan,
    threads: i32,
    step_tokens: usize,
) -> Result<LlamaContextParams> {
    let count = |what: &'static str, value: usize| {
        u32::try_from(value)
            .map_err(|_| Error::invalid_option(what, value, format!("at most {}", u32::MAX)))
    };
    let positions = count("context_len", plan.cells.saturating_mul(plan.sequences))?;
    let step_tokens = count("step_token_budget", step_tokens)?;
    let dtype = options.kv_dtype.unwrap_or(KvDtype::F16);
    let (kv_type, _) = options::kv_type(dtype)?;
    Ok(LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(positions))
        .with_n_seq_max(count("parallel_slots", plan.sequences)?)
        .with_n_batch(step_tokens)
        .with_n_ubatch(step_tokens.min(MICRO_BATCH as u32))
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(kv_type)
        .with_type_v(kv_type)
        .with_flash_attention_policy(options::flash_attention(dtype))
        .with_kv_unified(plan.shares)
        .with_swa_full(plan.shares)
        .with_no_perf(true))
}

fn info(shape: &KvShape, file: &GgufFile, model: &LlamaModel) -> ModelInfo {
    let mut info = ModelInfo::default();
    info.num_layers = shape.num_layers;
    info.hidden_size = shape.hidden_size;
    info.num_heads = shape.num_heads;
    info.num_kv_heads = shape.num_kv_heads;
    info.head_dim = shape.head_dim;
    info.parameters = model.n_params();
    if let Some(kind) = usual_type(file) {
        info.weight_dtype = kind.to_string();
        info.quantization = kind.quantization();
    }
    info
}

/// The type of most weights.
fn usual_type(file: &GgufFile) -> Option<BlockType> {
    let mut elements: Vec<(BlockType, usize)> = Vec::new();
    for tensor in file.tensors() {
        let TensorType::Known(kind) = tensor.kind() else { continue };
        let count = tensor.shape().iter().product::<usize>();
        match elements.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += count,
            None => elements.push((kind, count)),
        }
    }
    elements.into_iter().max_by_key(|(_, sum)| *sum).map(|(kind, _)| kind)
}
