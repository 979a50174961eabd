//! The specimen: a backend that keeps every promise of the contract, unless it
//! is given a defect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use inference_core::{
    Availability, Backend, Capabilities, CapabilityId, DEFAULT_ADAPTER, DeviceInfo, Error,
    LoadOptions, ModelSource, ProgressEvent, Result, TextModel,
};

use crate::defect::{Defect, Flaw};
use crate::engine_state::{BLOCK_SIZE, LAST_WEIGHTS, Settings};
use crate::language::KV_BYTES;
use crate::model::Model;

const CONTEXT_LEN: usize = 2048;

/// The model's name, and by it its weights.
pub(crate) const MODEL: &str = "specimen";
pub(crate) const WEIGHTS: u64 = 1;
/// The same weights without tokenizer and chat template.
pub(crate) const BARE: &str = "a specimen without text";
/// Another model.
pub(crate) const OTHER: &str = "another specimen";
/// A model with a broken file.
pub(crate) const DAMAGED: &str = "a damaged specimen";
/// A model of another kind.
pub(crate) const FOREIGN: &str = "a specimen of another kind";

pub(crate) struct Specimen {
    flaw: Flaw,
    loads: AtomicUsize,
}

impl Specimen {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Self { flaw, loads: AtomicUsize::new(0) }
    }
}

impl Backend for Specimen {
    fn name(&self) -> &str {
        if self.flaw.is(Defect::NameInCapitals) { "Specimen" } else { "specimen" }
    }

    fn availability(&self) -> Availability {
        Availability::ready(vec![DeviceInfo::new("a thread").with_compute_units(1)])
    }

    fn capabilities(&self) -> Capabilities {
        let known = Capabilities::none().with_supported(&[
            CapabilityId::Load,
            CapabilityId::Generate,
            CapabilityId::Chat,
            CapabilityId::Classify,
            CapabilityId::BatchGenerate,
            CapabilityId::Tokenizer,
            CapabilityId::ChatTemplate,
            CapabilityId::Logits,
            CapabilityId::Logprobs,
            CapabilityId::KvSnapshot,
            CapabilityId::AdapterAtLoad,
            CapabilityId::LoraInference,
            CapabilityId::LoraTraining,
            CapabilityId::PrefixCache,
            CapabilityId::ContinuousBatching,
            CapabilityId::SpeculativeDecoding,
            CapabilityId::AttentionProbe,
        ]);
        if self.flaw.is(Defect::CapabilitiesGrow) && self.loads.load(Ordering::Relaxed) > 0 {
            return known.with_supported(&[CapabilityId::Embeddings]);
        }
        known
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        if !self.flaw.is(Defect::LoadUnchecked) {
            options.validate()?;
        }
        refuse(options, self.flaw)?;
        let weights = weights(source, self.flaw)?;
        let context_len = options.context_len.unwrap_or(CONTEXT_LEN);
        if context_len > CONTEXT_LEN {
            let expected = format!("1 to {CONTEXT_LEN}");
            return Err(Error::invalid_option("context_len", context_len, expected));
        }
        let slots = options.parallel_slots.filter(|_| !self.flaw.is(Defect::SlotsIgnored));
        let slots = slots.unwrap_or(8);
        let step_tokens = options.step_token_budget.unwrap_or(256.max(slots));
        if step_tokens < slots {
            let expected = format!("at least parallel_slots ({slots})");
            return Err(Error::invalid_option("step_token_budget", step_tokens, expected));
        }
        let mut blocks = context_len.div_ceil(BLOCK_SIZE) * slots;
        if let Some(budget) = options.kv_budget {
            let block_bytes = BLOCK_SIZE as u64 * KV_BYTES;
            let over = usize::from(self.flaw.is(Defect::BudgetExceeded));
            blocks = blocks.min((budget / block_bytes) as usize + over);
            if blocks == 0 {
                return Err(Error::exhausted("kv_budget (bytes)", block_bytes, budget));
            }
        }
        let context_len = context_len.min(blocks * BLOCK_SIZE);
        let loads = self.loads.fetch_add(1, Ordering::Relaxed);
        if loads > 0 && self.flaw.is(Defect::LoadsOnce) {
            return Err(Error::engine_message("the device is taken"));
        }
        if let Some(progress) = &options.progress {
            let phase = || "load".to_owned();
            progress.report(&ProgressEvent::Started {
                phase: phase(),
                total: Some(1),
                unit: "models",
            });
            progress.report(&ProgressEvent::Advanced { phase: phase(), done: 1 });
            if !self.flaw.is(Defect::PhaseUnfinished) {
                progress.report(&ProgressEvent::Finished { phase: phase() });
            }
        }
        if self.flaw.is(Defect::WeightsShared) {
            LAST_WEIGHTS.store(weights, Ordering::Relaxed);
        }
        let model = Model::start(Settings {
            flaw: self.flaw,
            weights: weights + u64::from(self.flaw.is(Defect::OtherWeights)),
            has_text: *source != ModelSource::from(BARE),
            context_len,
            slots,
            blocks,
            step_tokens,
            max_queue: options.max_queue.unwrap_or(1024),
            max_wait: options.max_wait.unwrap_or(Duration::ZERO),
            lag_timeout: options.lag_timeout.unwrap_or(Duration::from_secs(30)),
            prefix_cache: options.prefix_cache.unwrap_or(true)
                || self.flaw.is(Defect::CacheAlwaysOn),
            probe_bus: options.probe_bus.clone(),
        })?;
        let path = options.adapter_path.as_ref();
        let path = path.filter(|_| !self.flaw.is(Defect::AdapterPathIgnored));
        if let (Some(path), Some(adapters)) = (path, model.as_adapters()) {
            adapters.load(DEFAULT_ADAPTER, path, options.adapter_scale.unwrap_or(1.0))?;
        }
        Ok(model)
    }
}

fn refuse(options: &LoadOptions, flaw: Flaw) -> Result<()> {
    if flaw.is(Defect::LoadOptionIgnored) {
        return Ok(());
    }
    let refused = [
        ("backend", options.backend.as_deref().is_some_and(|name| name != "specimen")),
        ("gpu_layers", options.gpu_layers.is_some_and(|layers| layers != -1)),
        ("adapter_budget", options.adapter_budget.is_some()),
        ("quantize", options.quantize.is_some() && !flaw.is(Defect::QuantizeAccepted)),
        ("precision", options.precision.is_some()),
        ("kv_dtype", options.kv_dtype.is_some()),
        ("threads", options.threads.is_some_and(|threads| threads != 1)),
        ("affinity", options.affinity.is_some()),
    ];
    match refused.iter().find(|(_, refused)| *refused) {
        Some((name, _)) => Err(Error::unsupported("the specimen", *name)),
        None => Ok(()),
    }
}

fn weights(source: &ModelSource, flaw: Flaw) -> Result<u64> {
    let ModelSource::Path(path) = source else {
        return Err(Error::unsupported_model("the source", "kind", source.to_string(), "a name"));
    };
    match path.to_str().unwrap_or_default() {
        MODEL | BARE => Ok(WEIGHTS),
        OTHER => Ok(2),
        DAMAGED if flaw.is(Defect::DamageUnnoticed) => Ok(3),
        DAMAGED => Err(Error::invalid_model("weights.bin", "length", "8 bytes", "7 bytes")),
        FOREIGN => Err(Error::unsupported_model("model.json", "model_type", "other", MODEL)),
        _ if flaw.is(Defect::MissingUnnamed) => {
            Err(Error::invalid_model("the model", "path", "a specimen", "nothing"))
        }
        other => Err(Error::invalid_model(other, "path", "a specimen", "nothing")),
    }
}
