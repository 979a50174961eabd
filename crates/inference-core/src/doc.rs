//! The smallest complete backend, for examples and tests.
//!
//! [`EchoBackend`] has one model, named `echo`. Its tokens are characters, and
//! after any prompt it expects the prompt's first character, then the second,
//! and so on, and at the end its end-of-sequence token. Being so small it reads
//! as a template of a backend: every option is honoured or refused, every
//! ability is declared or absent, and nothing is computed before it is asked
//! for.
//!
//! ```
//! use inference_core::doc::EchoBackend;
//! use inference_core::{Backend, FinishReason, GenerateOptions, LoadOptions};
//!
//! let model = EchoBackend.load_model(&"echo".into(), &LoadOptions::new())?;
//! let options = GenerateOptions::new().with_max_tokens(5);
//! let (text, completion) = model.generate("Hello, world".into(), options)?.collect_text()?;
//! assert_eq!(text, "Hello");
//! assert_eq!(completion.finish_reason, FinishReason::Length);
//! # Ok::<(), inference_core::Error>(())
//! ```

mod model;
mod source;

use std::sync::Arc;

use crate::{
    Availability, Backend, Capabilities, CapabilityId, CapabilityStatus, DeviceInfo, Error,
    LoadOptions, ModelSource, ProgressEvent, Registry, Result, TextModel, TokenId,
};

/// The longest sequence of the echo model, in tokens.
pub const CONTEXT_LEN: usize = 4096;

/// The echo model's end-of-sequence token, the character U+0000.
pub const EOS: TokenId = 0;

/// A backend that gives a prompt's own characters back.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoBackend;

/// Adds the backend to `registry`, as every backend crate offers it.
pub fn register(registry: &Registry) {
    registry.register(Arc::new(EchoBackend));
}

impl Backend for EchoBackend {
    fn name(&self) -> &str {
        "echo"
    }

    fn availability(&self) -> Availability {
        Availability::ready(vec![DeviceInfo::new("the calling thread").with_compute_units(1)])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
            .with_supported(&[
                CapabilityId::Load,
                CapabilityId::Generate,
                CapabilityId::Classify,
                CapabilityId::BatchGenerate,
                CapabilityId::Tokenizer,
                CapabilityId::Logprobs,
            ])
            .with(
                CapabilityId::Chat,
                CapabilityStatus::Experimental,
                "the last message's text is the prompt",
            )
            .with(
                CapabilityId::ChatTemplate,
                CapabilityStatus::Experimental,
                "a fixed one: the last message's text",
            )
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        refuse_load_options(options)?;
        let context_len = options.context_len.unwrap_or(CONTEXT_LEN);
        if context_len > CONTEXT_LEN {
            let expected = format!("1 to {CONTEXT_LEN}");
            return Err(Error::invalid_option("context_len", context_len, expected));
        }
        if *source != ModelSource::from("echo") {
            let found = source.to_string();
            return Err(Error::unsupported_model("the model source", "name", found, "echo"));
        }
        if let Some(progress) = &options.progress {
            let phase = || "load".to_owned();
            progress.report(&ProgressEvent::Started {
                phase: phase(),
                total: None,
                unit: "models",
            });
            progress.report(&ProgressEvent::Finished { phase: phase() });
        }
        Ok(Arc::new(model::EchoModel::new(context_len, options.probe_bus.clone())))
    }
}

/// Refuses by name what has no meaning here, unless it asks for what is the
/// case anyway.
fn refuse_load_options(options: &LoadOptions) -> Result<()> {
    let refused = [
        ("backend", options.backend.as_deref().is_some_and(|name| name != "echo")),
        ("gpu_layers", options.gpu_layers.is_some_and(|layers| layers != -1)),
        ("parallel_slots", options.parallel_slots.is_some()),
        ("adapter_path", options.adapter_path.is_some()),
        ("adapter_budget", options.adapter_budget.is_some()),
        ("quantize", options.quantize.is_some()),
        ("kv_dtype", options.kv_dtype.is_some()),
        ("kv_budget", options.kv_budget.is_some()),
        ("step_token_budget", options.step_token_budget.is_some()),
        ("max_wait", options.max_wait.is_some_and(|wait| !wait.is_zero())),
        ("max_queue", options.max_queue.is_some()),
        ("lag_timeout", options.lag_timeout.is_some()),
        ("prefix_cache", options.prefix_cache == Some(true)),
        ("threads", options.threads.is_some_and(|threads| threads != 1)),
        ("affinity", options.affinity.is_some()),
    ];
    refuse(&refused)
}

fn refuse(options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, refused)| *refused) {
        Some((name, _)) => Err(Error::unsupported("the echo backend", *name)),
        None => Ok(()),
    }
}
