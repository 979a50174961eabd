//! What is not declared has to be refused: the counterpart of every check that
//! needs an ability.

use inference_core::{
    BatchItem, CapabilityId, ClassifyOptions, ErrorKind, GenerateOptions, Message, Prompt,
    QuantizeType, TokenEvent,
};

use crate::context::{Context, ensure_kind};
use crate::outcome::{Check, Outcome, Stop, ensure};

/// Checks that an ability which is not declared answers
/// [`ErrorKind::Unsupported`], or `None` where an accessor would give it.
pub(crate) fn check(context: &Context, id: CapabilityId) -> Check {
    if id == CapabilityId::Load {
        let loaded = context.backend().load_model(&context.data().source, &context.data().load);
        ensure_kind(loaded, ErrorKind::Unsupported, "loading, which is not declared")?;
        return Ok(Outcome::PASS);
    }
    if !context.backend().capabilities().status(CapabilityId::Load).is_usable() {
        return Ok(Outcome::PASS);
    }
    let model = context.model()?;
    let prompt = || -> Result<Prompt, Stop> { Ok(context.prompts()?.swap_remove(0).into()) };
    let absent = |what: &str, present: bool| -> Result<(), Stop> {
        ensure!(!present, "`{what}` is `Some`, but `{}` is not declared", id.as_str());
        Ok(())
    };
    let refused = |what: &str, options: GenerateOptions| -> Result<(), Stop> {
        let what = format!("`generate` with {what}, `{}` not being declared", id.as_str());
        ensure_kind(model.generate(prompt()?, options), ErrorKind::Unsupported, &what)
    };
    let conversation = || vec![Message::user("Hello")];
    let options = GenerateOptions::new;
    let usable = |other| context.backend().capabilities().status(other).is_usable();
    match id {
        CapabilityId::Generate => refused("a prompt", options())?,
        CapabilityId::Chat | CapabilityId::ChatTemplate => {
            let reply = model.chat(conversation().into(), options());
            ensure_kind(reply, ErrorKind::Unsupported, "`chat`, which is not declared")?;
        }
        CapabilityId::Classify => {
            let result = model.classify(vec![prompt()?], &ClassifyOptions::new());
            ensure_kind(result, ErrorKind::Unsupported, "`classify`, which is not declared")?;
        }
        CapabilityId::BatchGenerate => {
            let stream = model.batch_generate(vec![BatchItem::new(prompt()?)]);
            let result = stream.and_then(|events| {
                let failed = events.map(|(_, event)| event).find_map(|event| match event {
                    TokenEvent::Failed(error) => Some(error),
                    _ => None,
                });
                failed.map_or(Ok(()), Err)
            });
            ensure_kind(result, ErrorKind::Unsupported, "`batch_generate`, not declared")?;
        }
        CapabilityId::Tokenizer => {
            ensure_kind(model.encode("a", true), ErrorKind::Unsupported, "`encode`")?;
            ensure_kind(model.decode(&[0], true), ErrorKind::Unsupported, "`decode`")?;
        }
        CapabilityId::Logits => {
            absent("as_scorer", model.as_scorer().is_some())?;
            if usable(CapabilityId::Generate) {
                refused("`logits`", options().with_logits(true))?;
            }
            if usable(CapabilityId::Classify) {
                let with_logits = ClassifyOptions::new().with_logits(true);
                let result = model.classify(vec![prompt()?], &with_logits);
                ensure_kind(result, ErrorKind::Unsupported, "`classify` with `logits`")?;
            }
        }
        CapabilityId::Logprobs => refused("`logprobs`", options().with_logprobs(1))?,
        CapabilityId::LoraInference => {
            absent("as_adapters", model.as_adapters().is_some())?;
            refused("`adapter`", options().with_adapter("none"))?;
        }
        CapabilityId::AdapterAtLoad => {
            let load = context.data().load.clone().with_adapter_path("none");
            let loaded = context.backend().load_model(&context.data().source, &load);
            ensure_kind(loaded, ErrorKind::Unsupported, "loading with `adapter_path`")?;
        }
        CapabilityId::LoraTraining => absent("as_trainable", model.as_trainable().is_some())?,
        CapabilityId::KvSnapshot => absent("as_state", model.as_state().is_some())?,
        CapabilityId::SpeculativeDecoding => {
            refused("`prompt_lookup`", options().with_prompt_lookup(4))?;
        }
        CapabilityId::AttentionProbe => {
            absent("as_attention_inspector", model.as_attention_inspector().is_some())?;
        }
        CapabilityId::PrefixCache => {
            let load = context.data().load.clone().with_prefix_cache(true);
            let loaded = context.backend().load_model(&context.data().source, &load);
            ensure_kind(loaded, ErrorKind::Unsupported, "loading with `prefix_cache`")?;
        }
        CapabilityId::QuantizedWeights => {
            let load = context.data().load.clone().with_quantize(QuantizeType::Q8_0);
            let loaded = context.backend().load_model(&context.data().source, &load);
            ensure_kind(loaded, ErrorKind::Unsupported, "loading with `quantize`")?;
        }
        // The contract has no call that would need them.
        _ => {}
    }
    Ok(Outcome::PASS)
}
