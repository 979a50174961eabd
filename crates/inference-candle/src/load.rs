//! The one loader of all backends on Candle.

use std::sync::Arc;

use candle_core::Device;
use inference_core::{
    Adapters as _, DEFAULT_ADAPTER, Error, LoadOptions, ModelInfo, ModelSource, Precision,
    ProgressEvent, Result, TextModel,
};
use inference_engine::{EngineModel, EngineOptions, ModelParts};

use crate::checkpoint::Checkpoint;
use crate::kv_plan::KvPlan;
use crate::quantize::QuantizedOnLoad;
use crate::training::Trainable;
use crate::weights::{Fingerprint, WeightSource as _};
use crate::{CandleRunner, Decoder, DecoderConfig, ModelFiles, Ops, ReferenceOps};

/// Loads a model and starts its engine.
///
/// `backend` is the name in [`ModelInfo`] and in errors; `ops` compute, and
/// threads, affinity and precision are theirs: the caller has applied or
/// refused [`LoadOptions::threads`], [`LoadOptions::affinity`] and
/// [`LoadOptions::precision`].
///
/// A model is a folder (or embedded files) of `config.json`, safetensors and,
/// as far as they are there, tokenizer, chat template and
/// `generation_config.json`; or a GGUF file, alone, in parts, or as the only
/// one of a folder without safetensors. The KV pool holds `parallel_slots` sequences of
/// the context, within `kv_budget` or, where that is unset, within
/// [`DEFAULT_KV_BUDGET`](crate::DEFAULT_KV_BUDGET); where the budget is too
/// small for one sequence of the model's own context, the context is reduced
/// and progress says so. Keys and values are f32 unless `kv_dtype` says
/// otherwise. The adapter at `adapter_path` is loaded under the name
/// [`DEFAULT_ADAPTER`]; see [`AdapterPool`](crate::AdapterPool).
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming file and
/// field or tensor, [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
/// naming the feature, [`InvalidOption`](inference_core::ErrorKind::InvalidOption)
/// and [`Unsupported`](inference_core::ErrorKind::Unsupported) for options,
/// [`Exhausted`](inference_core::ErrorKind::Exhausted) where the KV pool does
/// not fit, [`Io`](inference_core::ErrorKind::Io).
pub fn load_model(
    backend: &str,
    source: &ModelSource,
    options: &LoadOptions,
    ops: Arc<dyn Ops>,
) -> Result<Arc<dyn TextModel>> {
    options.validate()?;
    let engine = EngineOptions::for_load(options)?;

    #[cfg(feature = "extra-architectures")]
    if let Some(model) = crate::extra::load(backend, source, options, ops.device(), &engine)? {
        return Ok(model);
    }
    let checkpoint = Checkpoint::open(ModelFiles::new(source)?)?;
    refuse_layers(backend, options, &checkpoint.config, &*ops)?;
    let plan = KvPlan::new(&checkpoint.config, options, engine.max_batch)?;
    let weights = checkpoint.weights()?;
    let weights = QuantizedOnLoad::wrap(weights, &checkpoint.config, options)?;
    let weights = Fingerprint::new(weights, &checkpoint.config);
    let Checkpoint { config, text, generation, eos, .. } = checkpoint;

    let report = |event: ProgressEvent| {
        if let Some(progress) = &options.progress {
            progress.report(&event);
        }
    };
    for message in plan.note.clone().into_iter().chain(generation.notes) {
        report(ProgressEvent::Note { message });
    }
    let phase = "load weights";
    let total = Some(config.num_layers() as u64);
    report(ProgressEvent::Started { phase: phase.to_owned(), total, unit: "layers" });
    let decoder = Decoder::with_progress(config, &weights, Arc::clone(&ops), &mut |done| {
        report(ProgressEvent::Advanced { phase: phase.to_owned(), done: done as u64 });
    })?;
    // What was copied or packed has no need of its pages.
    weights.release_pages();
    let cache = ops.kv_cache(&plan.layout)?;
    report(ProgressEvent::Finished { phase: phase.to_owned() });

    let decoder = Arc::new(decoder);
    let mut parts = ModelParts::new(info(backend, &decoder, plan.context_len))
        .with_defaults(generation.defaults)
        .with_eos(eos)
        .with_identity(weights.digest());
    if let Some(tokenizer) = text.tokenizer {
        parts = parts.with_tokenizer(tokenizer);
    }
    if ops.device().is_cpu() {
        parts = parts.with_trainable(Arc::new(Trainable::new(&decoder, plan.context_len)));
    }
    if let Some(template) = text.template {
        parts = parts.with_template(template);
    }
    tracing::debug!(
        backend,
        model = %source,
        architecture = %decoder.config().architecture,
        parameters = decoder.parameters(),
        context_len = plan.context_len,
        kv_blocks = plan.layout.num_blocks,
        "model loaded"
    );
    let mut runner = CandleRunner::new(decoder, cache, plan.context_len);
    if let Some(budget) = options.adapter_budget {
        runner = runner.with_adapter_budget(budget);
    }
    let adapters = runner.adapters();
    if let Some(path) = &options.adapter_path {
        adapters.load(DEFAULT_ADAPTER, path, options.adapter_scale.unwrap_or(1.0))?;
    }
    let parts = parts.with_adapters(Arc::new(adapters));
    let model: Arc<dyn TextModel> = EngineModel::start(Box::new(runner), parts, engine)?;
    Ok(model)
}

/// [`load_model`] with the reference operations on an accelerator. The host's
/// `threads` and `affinity` mean nothing there and are refused, before the
/// device is opened.
///
/// # Errors
///
/// As [`load_model`], and those of `open`.
pub fn load_on_device(
    backend: &str,
    source: &ModelSource,
    options: &LoadOptions,
    open: impl FnOnce() -> Result<Device>,
) -> Result<Arc<dyn TextModel>> {
    options.validate()?;
    for (option, given) in
        [("threads", options.threads.is_some()), ("affinity", options.affinity.is_some())]
    {
        if given {
            return Err(Error::unsupported(format!("the backend `{backend}`"), option));
        }
    }
    let precision = options.precision.unwrap_or(Precision::Fast);
    let ops = ReferenceOps::new(open()?).with_precision(precision);
    load_model(backend, source, options, Arc::new(ops))
}

/// Refuses to split a model between device and host: all layers are on the
/// device of the operations, which for the CPU means none on an accelerator.
fn refuse_layers(
    backend: &str,
    options: &LoadOptions,
    config: &DecoderConfig,
    ops: &dyn Ops,
) -> Result<()> {
    let layers = config.num_layers();
    let on_cpu = ops.device().is_cpu();
    match options.gpu_layers {
        None | Some(-1) => Ok(()),
        Some(0) if on_cpu => Ok(()),
        Some(n) if !on_cpu && usize::try_from(n).is_ok_and(|n| n >= layers) => Ok(()),
        Some(n) => Err(Error::unsupported(backend, format!("gpu_layers = {n}"))),
    }
}

fn info(backend: &str, decoder: &Decoder, context_len: usize) -> ModelInfo {
    let config = decoder.config();
    let mut info = ModelInfo::default();
    info.architecture.clone_from(&config.architecture);
    backend.clone_into(&mut info.backend);
    info.vocab_size = config.vocab_size;
    info.num_layers = config.num_layers();
    info.hidden_size = config.hidden_size;
    info.num_heads = config.num_heads;
    info.num_kv_heads = config.num_kv_heads;
    info.head_dim = config.head_dim;
    info.context_len = context_len;
    info.parameters = decoder.parameters();
    info.weight_dtype = decoder.weight_type().to_string();
    info.quantization = decoder.quantization();
    info
}
