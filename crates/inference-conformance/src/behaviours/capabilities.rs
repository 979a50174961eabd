//! What a backend declares about itself is so.

use inference_core::{Availability, CapabilityId};

use crate::behaviour::Behaviour;
use crate::context::Context;
use crate::outcome::{Check, Outcome, ensure, ensure_eq};
use crate::refusal;

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "capabilities/constant",
        demand: "`capabilities` has an entry for every ability, and is the same whenever it is \
                 asked for, before and after a load",
        requires: &[],
        check: constant,
    },
    Behaviour {
        id: "capabilities/available",
        demand: "a backend has a name of lower case, digits and underscores, and at least one \
                 device where it is ready",
        requires: &[],
        check: available,
    },
    Behaviour {
        id: "capabilities/undeclared-refused",
        demand: "an ability that is not declared usable answers `Unsupported` or `None`",
        requires: &[],
        check: undeclared_refused,
    },
    Behaviour {
        id: "capabilities/declared-present",
        demand: "the accessors of declared abilities are `Some`",
        requires: &[CapabilityId::Load],
        check: declared_present,
    },
    Behaviour {
        id: "capabilities/info",
        demand: "`info` names the backend and architecture, has a vocabulary and a context, and \
                 tells of tokenizer and chat template what is so",
        requires: &[CapabilityId::Load],
        check: info,
    },
];

fn constant(context: &Context) -> Check {
    let capabilities = context.backend().capabilities();
    for id in CapabilityId::ALL {
        ensure!(capabilities.get(*id).is_some(), "`{}` has no entry", id.as_str());
    }
    if capabilities.status(CapabilityId::Load).is_usable() {
        context.model()?;
    }
    ensure_eq!(context.backend().capabilities(), capabilities, "`capabilities`, asked for again");
    Ok(Outcome::PASS)
}

fn available(context: &Context) -> Check {
    let name = context.backend().name();
    let proper = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    ensure!(!name.is_empty() && name.chars().all(proper), "the name is {name:?}");
    match context.backend().availability() {
        Availability::Ready { devices } => {
            ensure!(!devices.is_empty(), "it is ready without a device");
        }
        Availability::Unavailable { reason } => {
            ensure!(!reason.trim().is_empty(), "it is unavailable without a reason");
        }
        other => return crate::outcome::fail(format!("unknown availability {other:?}")),
    }
    Ok(Outcome::PASS)
}

fn undeclared_refused(context: &Context) -> Check {
    let capabilities = context.backend().capabilities();
    for id in CapabilityId::ALL {
        if !capabilities.status(*id).is_usable() || context.data().lacks.contains(id) {
            refusal::check(context, *id)?;
        }
    }
    Ok(Outcome::PASS)
}

fn declared_present(context: &Context) -> Check {
    let (capabilities, model) = (context.backend().capabilities(), context.model()?);
    for (id, accessor, present) in [
        (CapabilityId::Logits, "as_scorer", model.as_scorer().is_some()),
        (CapabilityId::LoraInference, "as_adapters", model.as_adapters().is_some()),
        (CapabilityId::LoraTraining, "as_trainable", model.as_trainable().is_some()),
        (CapabilityId::KvSnapshot, "as_state", model.as_state().is_some()),
        (
            CapabilityId::AttentionProbe,
            "as_attention_inspector",
            model.as_attention_inspector().is_some(),
        ),
    ] {
        let declared = capabilities.status(id).is_usable() && !context.data().lacks.contains(&id);
        ensure!(present || !declared, "`{}` is declared, `{accessor}` is `None`", id.as_str());
    }
    Ok(Outcome::PASS)
}

fn info(context: &Context) -> Check {
    let model = context.model()?;
    let info = model.info();
    ensure_eq!(info.backend, context.backend().name(), "`info().backend`");
    ensure_eq!(model.model_type(), info.architecture, "`model_type` and `info().architecture`");
    ensure!(!info.architecture.is_empty(), "`info().architecture` is empty");
    ensure!(info.vocab_size > 0, "`info().vocab_size` is 0");
    ensure!(info.context_len > 0, "`info().context_len` is 0");
    let encodes = model.encode("a", false).is_ok();
    ensure_eq!(info.has_tokenizer, encodes, "`info().has_tokenizer`, against `encode`");
    Ok(Outcome::PASS)
}
