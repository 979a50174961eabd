//! Loading such a model.

use std::sync::Arc;

use candle_core::Device;
use inference_core::{
    Error, KvDtype, LoadOptions, ModelInfo, ModelSource, ProgressEvent, Result, TextModel,
};
use inference_engine::{EngineModel, EngineOptions, MemoryUsage, ModelParts};

use super::description::Description;
use super::runner::SequenceRunner;
use super::tensors::SharedTensors;
use super::{
    ARCHITECTURES, falcon, gpt_bigcode, helium, mamba, mamba2, olmo, phi, stablelm, starcoder2,
};
use crate::checkpoint::{CONFIG, Companions};
use crate::config::{Fields, parse};
use crate::{DEFAULT_KV_BUDGET, ModelFiles, SafetensorsFiles, WeightSource};

/// Loads a model of one of these architectures and starts its engine; `None`
/// where the source is none of them.
///
/// # Errors
///
/// As [`load_model`](crate::load_model). Options that have no meaning here
/// are refused: `threads` and `affinity` (candle-transformers computes on
/// Candle's own threads), `adapter_path`, `adapter_budget`, `quantize`, and a `kv_dtype` other than f32.
pub(crate) fn load(
    backend: &str,
    source: &ModelSource,
    options: &LoadOptions,
    device: &Device,
    engine: &EngineOptions,
) -> Result<Option<Arc<dyn TextModel>>> {
    let Some((runner, parts)) = open(backend, source, options, device, engine.max_batch)? else {
        return Ok(None);
    };
    let model: Arc<dyn TextModel> = EngineModel::start(Box::new(runner), parts, engine.clone())?;
    Ok(Some(model))
}

/// The runner for at most `slots` sequences, and what the engine needs beside.
pub(super) fn open(
    backend: &str,
    source: &ModelSource,
    options: &LoadOptions,
    device: &Device,
    slots: usize,
) -> Result<Option<(SequenceRunner, ModelParts)>> {
    let files = ModelFiles::new(source)?;
    if files.gguf()?.is_some() {
        return Ok(None);
    }
    let json = parse(CONFIG, &files.read_required(CONFIG)?)?;
    let fields = Fields::new(CONFIG, &json)?;
    let Some((architecture, class)) = known(&fields)? else { return Ok(None) };
    refuse(&fields, architecture, class, options)?;
    let description = describe(architecture, &fields, device)?;
    refuse_layers(backend, options, device, description.num_layers)?;
    let plan = Plan::new(&description, options, slots)?;
    let Companions { text, generation, eos } =
        Companions::read(&files, &fields, description.vocab_size)?;

    let report = |event: ProgressEvent| {
        if let Some(progress) = &options.progress {
            progress.report(&event);
        }
    };
    for message in plan.note.clone().into_iter().chain(generation.notes) {
        report(ProgressEvent::Note { message });
    }
    let phase = "load weights";
    report(ProgressEvent::Started { phase: phase.to_owned(), total: None, unit: "layers" });
    let stored = SafetensorsFiles::open(&files)?;
    let dtype = check_embedding(&stored, &description)?;
    let tensors = SharedTensors::new(stored, description.renamed, device.clone());
    let mut info = info(&description, plan.context_len);
    architecture.clone_into(&mut info.architecture);
    backend.clone_into(&mut info.backend);
    let (sequence, tied) = (plan.sequence_bytes, description.tied_head);
    let prototype = (description.build)(tensors.builder(), plan.context_len)
        .map_err(|error| tensors.explain(error))?;
    tensors.all_used(tied.then_some("lm_head.weight"))?;
    report(ProgressEvent::Finished { phase: phase.to_owned() });

    let (parameters, weights) = tensors.size();
    info.parameters = parameters;
    info.weight_dtype = dtype;
    tracing::debug!(backend, model = %source, architecture, parameters, "model loaded");
    let memory = MemoryUsage { weights, kv_block: sequence, ..MemoryUsage::default() };
    let runner =
        SequenceRunner::new(prototype, info.vocab_size, plan.context_len, plan.slots, memory);
    let mut parts = ModelParts::new(info).with_defaults(generation.defaults).with_eos(eos);
    if let Some(tokenizer) = text.tokenizer {
        parts = parts.with_tokenizer(tokenizer);
    }
    if let Some(template) = text.template {
        parts = parts.with_template(template);
    }
    Ok(Some((runner, parts)))
}

/// The architecture, where it is one of these.
fn known(fields: &Fields<'_>) -> Result<Option<(&'static str, &'static str)>> {
    let Some(name) = fields.text("model_type")? else { return Ok(None) };
    Ok(ARCHITECTURES.iter().copied().find(|(known, _)| *known == name))
}

fn describe(architecture: &str, fields: &Fields<'_>, device: &Device) -> Result<Description> {
    match architecture {
        "falcon" => falcon::describe(fields, device),
        "gpt_bigcode" => gpt_bigcode::describe(fields, device),
        "helium" => helium::describe(fields, device),
        "mamba" => mamba::describe(fields, device),
        "mamba2" => mamba2::describe(fields, device),
        "olmo" => olmo::describe(fields, device),
        "phi" => phi::describe(fields, device),
        "stablelm" => stablelm::describe(fields, device),
        "starcoder2" => starcoder2::describe(fields, device),
        _ => Err(fields.unsupported("model_type", "an architecture that is implemented")),
    }
}

fn refuse(fields: &Fields<'_>, name: &str, class: &str, options: &LoadOptions) -> Result<()> {
    let classes = fields.texts("architectures")?.unwrap_or_default();
    if !classes.is_empty() && !classes.contains(&class) {
        return Err(fields.unsupported("architectures", class));
    }
    for field in ["quantization_config", "quantization"] {
        if fields.get(field).is_some() {
            return Err(fields.unsupported(field, "f32, f16 and bf16 weights"));
        }
    }
    let other_cache = options.kv_dtype.is_some_and(|dtype| dtype != KvDtype::F32);
    for (option, given) in [
        ("threads", options.threads.is_some()),
        ("affinity", options.affinity.is_some()),
        ("adapter_path", options.adapter_path.is_some()),
        ("adapter_budget", options.adapter_budget.is_some()),
        ("quantize", options.quantize.is_some()),
        ("kv_dtype other than f32", other_cache),
    ] {
        if given {
            return Err(Error::unsupported(format!("the architecture `{name}`"), option));
        }
    }
    Ok(())
}

/// All layers are on one device, as in [`load_model`](crate::load_model).
fn refuse_layers(
    backend: &str,
    options: &LoadOptions,
    device: &Device,
    layers: usize,
) -> Result<()> {
    let on_cpu = device.is_cpu();
    match options.gpu_layers {
        None | Some(-1) => Ok(()),
        Some(0) if on_cpu => Ok(()),
        Some(n) if !on_cpu && usize::try_from(n).is_ok_and(|n| n >= layers) => Ok(()),
        Some(n) => Err(Error::unsupported(backend, format!("gpu_layers = {n}"))),
    }
}

/// Checks the embedding's shape, so that sizes are those of the files before
/// anything is made of them; the name of its type.
fn check_embedding(files: &SafetensorsFiles, description: &Description) -> Result<String> {
    let weight = files.get(description.embedding)?;
    let expected = [description.vocab_size, description.hidden_size];
    if weight.shape() != expected {
        return Err(Error::invalid_model(
            "weights",
            format!("tensor `{}`", description.embedding),
            format!("shape {expected:?}"),
            format!("shape {:?}", weight.shape()),
        ));
    }
    Ok(weight.kind().to_string())
}

fn info(description: &Description, context_len: usize) -> ModelInfo {
    let mut info = ModelInfo::default();
    info.vocab_size = description.vocab_size;
    info.num_layers = description.num_layers;
    info.hidden_size = description.hidden_size;
    info.num_heads = description.num_heads;
    info.num_kv_heads = description.num_kv_heads;
    info.head_dim = description.head_dim;
    info.context_len = context_len;
    info
}

/// How long sequences may be, and how many run at once.
struct Plan {
    context_len: usize,
    slots: usize,
    /// Bytes of a sequence's state at the longest.
    sequence_bytes: u64,
    note: Option<String>,
}

impl Plan {
    /// As many of `wanted` sequences of the full context as the budget holds,
    /// and always one; without `context_len` the context shrinks to that.
    fn new(description: &Description, options: &LoadOptions, wanted: usize) -> Result<Self> {
        let limit = description.context_len;
        if let Some(asked) = options.context_len.filter(|asked| !(1..=limit).contains(asked)) {
            let expected = format!("1 to the model's limit of {limit} tokens");
            return Err(Error::invalid_option("context_len", asked, expected));
        }
        let (fixed, token) = (description.state_bytes, description.token_bytes());
        let bytes = |context: usize| (context as u64).saturating_mul(token).saturating_add(fixed);
        let budget = options.kv_budget.unwrap_or(DEFAULT_KV_BUDGET);
        let mut context_len = options.context_len.unwrap_or(limit);
        let mut note = None;
        if bytes(context_len) > budget {
            let affordable = budget.saturating_sub(fixed).checked_div(token).unwrap_or(0);
            let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
            if options.context_len.is_some() || affordable == 0 {
                let needed = bytes(options.context_len.unwrap_or(1));
                return Err(Error::exhausted("kv_budget, in bytes", needed, budget));
            }
            context_len = affordable;
            note = Some(format!(
                "the context is {context_len} tokens instead of {limit}, because the KV budget \
                 of {budget} bytes holds no more; kv_budget raises it"
            ));
        }
        let sequence_bytes = bytes(context_len);
        let slots = budget.checked_div(sequence_bytes).unwrap_or(u64::MAX);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).clamp(1, wanted.max(1));
        Ok(Self { context_len, slots, sequence_bytes, note })
    }
}
