//! Text comes as whole characters and is, put together, the full decode.

use inference_core::{CapabilityId, ErrorKind, GenerateOptions, TextModel, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, Output, SOME, TEXTS, ensure_kind, read};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Tokenizer];
const STREAMED: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Tokenizer, CapabilityId::Generate];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "text/stream-equals-decode",
        demand: "the texts of a stream, put together, are the decode of all its tokens",
        requires: STREAMED,
        check: stream_equals_decode,
    },
    Behaviour {
        id: "text/hard-characters",
        demand: "so they are for tokens of CJK, joined emoji, combining marks and parts of \
                 characters in any order",
        requires: STREAMED,
        check: hard_characters,
    },
    Behaviour {
        id: "text/round-trip",
        demand: "ids decode to the text that they encode; texts that must come back unchanged do",
        requires: REQUIRES,
        check: round_trip,
    },
    Behaviour {
        id: "text/encodings",
        demand: "texts encode to the ids that the model's makers' tokenizer gives",
        requires: REQUIRES,
        check: encodings,
    },
    Behaviour {
        id: "text/prompt-equals-ids",
        demand: "a prompt of text answers as a prompt of its ids, special tokens included",
        requires: STREAMED,
        check: prompt_equals_ids,
    },
    Behaviour {
        id: "text/special-tokens",
        demand: "special tokens that encoding adds are left out of a decode that skips them",
        requires: REQUIRES,
        check: special_tokens,
    },
    Behaviour {
        id: "text/unknown-id",
        demand: "decoding an id outside the vocabulary is `InvalidInput`",
        requires: REQUIRES,
        check: unknown_id,
    },
    Behaviour {
        id: "text/without-tokenizer",
        demand: "a model without a tokenizer answers ids, and refuses text as `Unsupported`",
        requires: &[CapabilityId::Load, CapabilityId::Generate],
        check: without_tokenizer,
    },
];

fn tokenizing(context: &Context) -> Result<std::sync::Arc<dyn TextModel>, Stop> {
    let model = context.model()?;
    if !model.info().has_tokenizer {
        return not_applicable("the model has no tokenizer");
    }
    Ok(model)
}

fn ensure_full_decode(model: &dyn TextModel, output: &Output, what: &str) -> Result<(), Stop> {
    let (ids, text) = (output.ids(), output.text());
    let full = model.decode(&ids, true)?;
    ensure_eq!(text, full, "the text of a stream of {what} ({ids:?}), against the full decode");
    Ok(())
}

fn stream_equals_decode(context: &Context) -> Check {
    let model = tokenizing(context)?;
    for prompt in context.prompts()? {
        let output = context.run(&*model, prompt, context.greedy(4 * SOME)?)?;
        ensure_full_decode(&*model, &output, "greedy tokens")?;
    }
    Ok(Outcome::PASS)
}

fn hard_characters(context: &Context) -> Check {
    let model = tokenizing(context)?;
    let (vocab, mut streamed) = (model.info().vocab_size, 0);
    let texts = TEXTS.iter().copied().chain(context.data().texts.iter().map(String::as_str));
    for (seed, text) in texts.enumerate() {
        let ids: Vec<TokenId> = model.encode(text, false)?;
        if ids.is_empty() || ids.len() * 2 > model.info().context_len {
            continue;
        }
        ensure!(ids.iter().all(|id| (*id as usize) < vocab), "{text:?} has ids outside of {vocab}");
        let len = (2 * ids.len()).min(model.info().context_len - ids.len());
        // Nothing but the text's own tokens, in any order: broken characters.
        let mut options = GenerateOptions::new()
            .with_max_tokens(len)
            .with_temperature(100.0)
            .with_seed(seed as u64)
            .with_ignore_eos(true);
        for id in &ids {
            options = options.with_logit_bias(*id, 1e5);
        }
        match model.generate(ids.clone().into(), options) {
            Ok(stream) => {
                let output = read(stream)?;
                ensure_full_decode(&*model, &output, "hard tokens")?;
                streamed += output.tokens.len();
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                // What cannot be forced may come by itself.
                let output = context.run(&*model, ids.clone(), context.greedy(len)?)?;
                ensure_full_decode(&*model, &output, "tokens")?;
                streamed += output.tokens.len();
            }
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(streamed > 0, "nothing was generated");
    Ok(Outcome::PASS)
}

fn round_trip(context: &Context) -> Check {
    let model = tokenizing(context)?;
    for text in TEXTS {
        let once = model.decode(&model.encode(text, false)?, false)?;
        let twice = model.decode(&model.encode(&once, false)?, false)?;
        ensure_eq!(twice, once, "the text that the ids of the text of the ids stand for");
    }
    for text in &context.data().texts {
        let back = model.decode(&model.encode(text, false)?, false)?;
        ensure_eq!(back, *text, "the text that came back");
    }
    ensure_eq!(model.encode("", false)?, Vec::<TokenId>::new(), "ids of the empty text");
    ensure_eq!(model.decode(&[], false)?, "", "the text of no ids");
    Ok(Outcome::PASS)
}

fn encodings(context: &Context) -> Check {
    let model = tokenizing(context)?;
    if context.data().encodings.is_empty() {
        return not_applicable("no texts with their ids are known");
    }
    for (text, ids) in &context.data().encodings {
        ensure_eq!(model.encode(text, false)?, *ids, "ids of {text:?}");
    }
    Ok(Outcome::PASS)
}

fn prompt_equals_ids(context: &Context) -> Check {
    let model = tokenizing(context)?;
    for text in &TEXTS[..4] {
        let ids = model.encode(text, true)?;
        if ids.is_empty() || ids.len() + SOME > model.info().context_len {
            continue;
        }
        let by_ids = context.run(&*model, ids.clone(), context.greedy(SOME)?)?;
        let by_text = context.run(&*model, *text, context.greedy(SOME)?)?;
        ensure_eq!(by_text.ids(), by_ids.ids(), "tokens after the text {text:?}");
        let tokens = by_text.completion.metrics.prompt_tokens;
        ensure_eq!(tokens, ids.len(), "`prompt_tokens` of the text {text:?}");
    }
    Ok(Outcome::PASS)
}

fn special_tokens(context: &Context) -> Check {
    let model = tokenizing(context)?;
    for text in TEXTS {
        let (plain, added) = (model.encode(text, false)?, model.encode(text, true)?);
        let (expected, found) = (model.decode(&plain, true)?, model.decode(&added, true)?);
        ensure_eq!(found, expected, "the text of {added:?} without special tokens");
    }
    Ok(Outcome::PASS)
}

fn unknown_id(context: &Context) -> Check {
    let model = tokenizing(context)?;
    let outside = model.decode(&[TokenId::MAX], true);
    ensure_kind(outside, ErrorKind::InvalidInput, "decoding an id outside the vocabulary")?;
    Ok(Outcome::PASS)
}

fn without_tokenizer(context: &Context) -> Check {
    let model = context.model()?;
    if model.info().has_tokenizer {
        return not_applicable("the model has a tokenizer");
    }
    let text = model.generate("text".into(), GenerateOptions::new());
    ensure_kind(text, ErrorKind::Unsupported, "a prompt of text")?;
    ensure_kind(model.encode("a", true), ErrorKind::Unsupported, "`encode`")?;
    ensure_kind(model.decode(&[0], true), ErrorKind::Unsupported, "`decode`")?;
    let prompt = context.prompts()?.swap_remove(0);
    let output = context.run(&*model, prompt, context.greedy(SOME)?)?;
    ensure_eq!(output.text(), "", "text without a tokenizer");
    Ok(Outcome::PASS)
}
