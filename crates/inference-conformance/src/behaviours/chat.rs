//! Conversations are what the chat template makes of them.

use inference_core::{CapabilityId, ErrorKind, LogitRows, Message, Prompt};

use crate::behaviour::Behaviour;
use crate::context::{Context, SOME, ensure_kind, read, worst_difference};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, not_applicable};

const REQUIRES: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Chat, CapabilityId::ChatTemplate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "chat/template-golden",
        demand: "a conversation is answered as the text that its template gives",
        requires: REQUIRES,
        check: golden,
    },
    Behaviour {
        id: "chat/equals-prompt",
        demand: "`chat` and a prompt that is a conversation are the same",
        requires: REQUIRES,
        check: equals_prompt,
    },
    Behaviour {
        id: "chat/template-raises",
        demand: "a conversation that the template raises on is `InvalidInput`",
        requires: REQUIRES,
        check: raises,
    },
    Behaviour {
        id: "chat/without-template",
        demand: "a model without a chat template refuses conversations as `Unsupported`",
        requires: &[CapabilityId::Load, CapabilityId::Generate],
        check: without_template,
    },
];

fn golden(context: &Context) -> Check {
    let model = context.model()?;
    if !(model.info().has_chat_template && model.info().has_tokenizer) {
        return not_applicable("the model has no chat template or no tokenizer");
    }
    if context.data().templates.is_empty() {
        return not_applicable("no conversation with its text is known");
    }
    for golden in &context.data().templates {
        // The template writes the special tokens itself.
        let ids = model.encode(&golden.text, false)?;
        let expected = context.run(&*model, ids.clone(), context.greedy(SOME)?)?;
        let found = read(model.chat(golden.chat.clone(), context.greedy(SOME)?)?)?;
        let tokens = found.completion.metrics.prompt_tokens;
        ensure_eq!(tokens, ids.len(), "`prompt_tokens` of the text {:?}", golden.text);
        ensure_eq!(found.ids(), expected.ids(), "tokens after the text {:?}", golden.text);
        if let Some(scorer) = model.as_scorer() {
            let chat = scorer.prompt_logits(golden.chat.clone().into(), LogitRows::All)?;
            let text = scorer.prompt_logits(ids.into(), LogitRows::All)?;
            let difference = worst_difference(&chat.values, &text.values);
            ensure!(
                difference <= context.data().company_tolerance,
                "logits of the conversation differ by {difference:e} from those of its text"
            );
        }
    }
    Ok(Outcome::PASS)
}

fn conversation() -> Vec<Message> {
    vec![Message::user("What is 2 plus 3?")]
}

fn equals_prompt(context: &Context) -> Check {
    let model = context.model()?;
    if !model.info().has_chat_template {
        return not_applicable("the model has no chat template");
    }
    let prompt = Prompt::Chat(conversation().into());
    let by_prompt = context.run(&*model, prompt, context.greedy(SOME)?)?;
    let by_chat = read(model.chat(conversation().into(), context.greedy(SOME)?)?)?;
    ensure_eq!(by_chat.ids(), by_prompt.ids(), "tokens of `chat`");
    Ok(Outcome::PASS)
}

fn raises(context: &Context) -> Check {
    let model = context.model()?;
    if context.data().refused_chats.is_empty() {
        return not_applicable("no conversation that the template raises on is known");
    }
    for chat in &context.data().refused_chats {
        let reply = model.chat(chat.clone(), context.greedy(1)?);
        ensure_kind(reply, ErrorKind::InvalidInput, "a conversation that the template refuses")?;
    }
    Ok(Outcome::PASS)
}

fn without_template(context: &Context) -> Check {
    let model = context.model()?;
    if model.info().has_chat_template {
        return not_applicable("the model has a chat template");
    }
    let reply = model.chat(conversation().into(), context.greedy(1)?);
    ensure_kind(reply, ErrorKind::Unsupported, "a conversation without a chat template")?;
    Ok(Outcome::PASS)
}
