//! Every way to end has its reason, and what ends a text is not part of it.

use inference_core::{CapabilityId, ErrorKind, FinishReason, GenerateOptions, TextModel, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, Output, SOME, ensure_kind};
use crate::outcome::{Check, Outcome, Stop, ensure, ensure_eq, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Generate];
const WITH_TEXT: &[CapabilityId] =
    &[CapabilityId::Load, CapabilityId::Generate, CapabilityId::Tokenizer];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "endings/length",
        demand: "`max_tokens` tokens end a text as `Length`",
        requires: REQUIRES,
        check: length,
    },
    Behaviour {
        id: "endings/context-full",
        demand: "a full context ends a text as `Length`, whatever `max_tokens` is",
        requires: REQUIRES,
        check: context_full,
    },
    Behaviour {
        id: "endings/stop-token",
        demand: "a stop token ends a text as `StopToken`, counts as generated, and is not yielded",
        requires: REQUIRES,
        check: stop_token,
    },
    Behaviour {
        id: "endings/eos",
        demand: "an end-of-sequence token ends a text as `StopToken` and is not yielded",
        requires: REQUIRES,
        check: eos,
    },
    Behaviour {
        id: "endings/ignore-eos",
        demand: "with `ignore_eos` a text goes on past an end-of-sequence token",
        requires: REQUIRES,
        check: ignore_eos,
    },
    Behaviour {
        id: "endings/stop-string",
        demand: "a stop string ends a text as `StopString` before its first character, also where \
                 it spans tokens",
        requires: WITH_TEXT,
        check: stop_string,
    },
    Behaviour {
        id: "endings/min-tokens",
        demand: "before `min_tokens` no stop token ends a text",
        requires: REQUIRES,
        check: min_tokens,
    },
    Behaviour {
        id: "endings/too-long",
        demand: "a prompt longer than the context is refused as `Exhausted`, an empty one and one \
                 with an id outside the vocabulary as `InvalidInput`",
        requires: REQUIRES,
        check: too_long,
    },
];

fn length(context: &Context) -> Check {
    let model = context.model()?;
    for tokens in [1, 2, SOME] {
        let (prompt, options, tokens) = context.long_request(tokens)?;
        let output = context.run(&*model, prompt, options)?;
        ensure_eq!(output.tokens.len(), tokens, "tokens of `max_tokens` = {tokens}");
        let Output { completion, .. } = output;
        ensure_eq!(completion.finish_reason, FinishReason::Length, "the reason");
        ensure_eq!(completion.metrics.generated_tokens, tokens, "`generated_tokens`");
    }
    Ok(Outcome::PASS)
}

fn context_full(context: &Context) -> Check {
    let (prompt, _, room) = context.long_request(SOME)?;
    let context_len = prompt.len() + room.min(prompt.len()) / 2 + 1;
    let model = context.load_with(|load| load.with_context_len(context_len))?;
    ensure_eq!(model.info().context_len, context_len, "`info().context_len`");
    let options = context.greedy(10 * context_len)?;
    let output = context.run(&*model, prompt.clone(), options)?;
    ensure_eq!(output.completion.finish_reason, FinishReason::Length, "the reason");
    let all = prompt.len() + output.tokens.len();
    ensure_eq!(all, context_len, "tokens of prompt and output in a full context");
    Ok(Outcome::PASS)
}

/// Greedy ids, with the index of a token that does not occur before, not the
/// first where that can be.
fn new_token(
    context: &Context,
    model: &dyn TextModel,
) -> Result<(Vec<TokenId>, Output, usize), Stop> {
    let mut best: Option<(Vec<TokenId>, Output, usize)> = None;
    for prompt in context.prompts()? {
        let output = context.run(model, prompt.clone(), context.greedy(SOME)?)?;
        let ids = output.ids();
        let index = (0..ids.len()).rev().find(|&index| !ids[..index].contains(&ids[index]));
        if let Some(index) = index
            && best.as_ref().is_none_or(|(_, _, other)| index > *other)
        {
            best = Some((prompt, output, index));
        }
    }
    best.ok_or_else(|| Stop::NotApplicable("no prompt generates a token".to_owned()))
}

fn stop_token(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, output, index) = new_token(context, &*model)?;
    let ids = output.ids();
    let options = context.greedy(SOME)?.with_stop_token(ids[index]);
    let stopped = context.run_honoured(&*model, prompt, options)?;
    ensure_eq!(stopped.ids(), ids[..index], "tokens before the stop token {}", ids[index]);
    let reason = FinishReason::StopToken(ids[index]);
    ensure_eq!(stopped.completion.finish_reason, reason, "the reason");
    ensure_eq!(stopped.completion.metrics.generated_tokens, index + 1, "`generated_tokens`");
    let text: String = output.tokens[..index].iter().map(|token| token.text.as_str()).collect();
    ensure!(
        stopped.text().starts_with(text.as_str()),
        "the text {:?} lacks its beginning {text:?}",
        stopped.text()
    );
    Ok(Outcome::PASS)
}

fn check_eos(eos: &[TokenId], output: &Output) -> Check {
    let FinishReason::StopToken(id) = output.completion.finish_reason else {
        return crate::outcome::fail(format!(
            "expected the reason `stop_token`, found `{}`",
            output.completion.finish_reason
        ));
    };
    ensure!(eos.is_empty() || eos.contains(&id), "{id} ended it, which is none of {eos:?}");
    ensure!(!output.ids().contains(&id), "the token {id} that ended the text was yielded");
    ensure_eq!(
        output.completion.metrics.generated_tokens,
        output.tokens.len() + 1,
        "`generated_tokens`, the token that ended the text included"
    );
    Ok(Outcome::PASS)
}

fn eos(context: &Context) -> Check {
    let model = context.model()?;
    let eos = &context.data().eos;
    if let Some(id) = eos.first() {
        let options = GenerateOptions::new().with_max_tokens(SOME).with_logit_bias(*id, 1e6);
        let prompt = context.prompts()?.swap_remove(0);
        match model.generate(prompt.into(), options) {
            Ok(stream) => return check_eos(eos, &crate::context::read(stream)?),
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Nothing can force it: perhaps a text ends by itself.
    for prompt in context.prompts()? {
        let options = GenerateOptions::new()
            .with_max_tokens(model.info().context_len.saturating_sub(prompt.len()).max(1))
            .with_temperature(0.0);
        let output = context.run(&*model, prompt, options)?;
        if output.completion.finish_reason != FinishReason::Length {
            return check_eos(eos, &output);
        }
    }
    not_applicable("no prompt ends by itself, and the end-of-sequence tokens are not known")
}

fn ignore_eos(context: &Context) -> Check {
    let model = context.model()?;
    let Some(id) = context.data().eos.first() else {
        return not_applicable("the end-of-sequence tokens are not known");
    };
    let options = GenerateOptions::new()
        .with_max_tokens(SOME)
        .with_logit_bias(*id, 1e6)
        .with_ignore_eos(true);
    let prompt = context.prompts()?.swap_remove(0);
    let output = context.run_honoured(&*model, prompt, options)?;
    ensure_eq!(output.completion.finish_reason, FinishReason::Length, "the reason");
    ensure_eq!(output.ids(), vec![*id; SOME], "tokens");
    Ok(Outcome::PASS)
}

fn stop_string(context: &Context) -> Check {
    let model = context.model()?;
    if !model.info().has_tokenizer {
        return not_applicable("the model has no tokenizer");
    }
    let mut spanning = 0;
    for prompt in context.prompts()? {
        let output = context.run(&*model, prompt.clone(), context.greedy(2 * SOME)?)?;
        let text = output.text();
        // Ends of the tokens' texts, in bytes.
        let ends: Vec<usize> = output
            .tokens
            .iter()
            .scan(0, |end, token| {
                *end += token.text.len();
                Some(*end)
            })
            .collect();
        let inner = ends.iter().copied().filter(|end| *end > 0 && *end < text.len());
        for border in inner.skip(1).step_by(3).take(3) {
            let start = (0..border).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let mut ends = (border + 3)..text.len();
            let end = ends.find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
            let stop = &text[start..end];
            let expected = &text[..text.find(stop).unwrap_or(start)];
            let options = context.greedy(2 * SOME)?.with_stop_string(stop);
            let stopped = context.run_honoured(&*model, prompt.clone(), options)?;
            ensure_eq!(stopped.text(), expected, "the text before the stop string {stop:?}");
            let reason = FinishReason::StopString(stop.to_owned());
            ensure_eq!(stopped.completion.finish_reason, reason, "the reason");
            spanning += 1;
        }
        // A string that begins as the text goes on but never comes whole.
        let never = format!("{text}\u{10ffff}");
        let options = context.greedy(2 * SOME)?.with_stop_string(never);
        let whole = context.run_honoured(&*model, prompt, options)?;
        ensure_eq!(whole.text(), text, "the text with a stop string that does not come");
    }
    if spanning == 0 {
        return not_applicable("no prompt generates the text of two tokens");
    }
    Ok(Outcome::PASS)
}

fn min_tokens(context: &Context) -> Check {
    let model = context.model()?;
    let (prompt, output, index) = new_token(context, &*model)?;
    let (stop, least) = (output.ids()[index], index + 2);
    let options = context.greedy(SOME.max(least))?.with_stop_token(stop).with_min_tokens(least);
    let late = context.run_honoured(&*model, prompt, options)?;
    let generated = late.completion.metrics.generated_tokens;
    ensure!(generated >= least, "{generated} tokens generated, `min_tokens` being {least}");
    ensure!(
        !late.ids().contains(&stop),
        "the stop token {stop} was yielded although it is not to be sampled before `min_tokens`"
    );
    ensure_eq!(late.ids()[..index], output.ids()[..index], "tokens before the stop token");
    Ok(Outcome::PASS)
}

fn too_long(context: &Context) -> Check {
    let model = context.model()?;
    let info = model.info();
    let options = || context.greedy(1);
    let long = context.long_prompt(info.context_len + 1, 0)?;
    let result = model.generate(long.into(), options()?);
    ensure_kind(result, ErrorKind::Exhausted, "a prompt longer than the context")?;
    let empty = model.generate(Vec::<TokenId>::new().into(), options()?);
    ensure_kind(empty, ErrorKind::InvalidInput, "an empty prompt")?;
    let outside = model.generate(vec![info.vocab_size as TokenId].into(), options()?);
    ensure_kind(outside, ErrorKind::InvalidInput, "an id outside the vocabulary")?;
    ensure_eq!(model.metrics().forward_count, 0, "forward passes of refused requests");
    Ok(Outcome::PASS)
}
