//! Classification is the distribution of the first token that generation would
//! choose from.

use std::time::{Duration, Instant};

use inference_core::{
    CancelToken, CapabilityId, ClassifyOptions, Error, ErrorKind, FinishReason, Prompt, Token,
    TokenId,
};

use crate::behaviour::Behaviour;
use crate::context::{Context, ensure_kind, honoured, worst_difference};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, fail, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::Classify];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "classify/first-token",
        demand: "the likeliest token of a classification is the first one that greedy generation \
                 chooses",
        requires: &[CapabilityId::Load, CapabilityId::Classify, CapabilityId::Generate],
        check: first_token,
    },
    Behaviour {
        id: "classify/first-logits",
        demand: "its logits are those of the first token of generation",
        requires: &[
            CapabilityId::Load,
            CapabilityId::Classify,
            CapabilityId::Generate,
            CapabilityId::Logits,
        ],
        check: first_logits,
    },
    Behaviour {
        id: "classify/without-logits",
        demand: "without `logits` there are none, and everything else is the same",
        requires: &[CapabilityId::Load, CapabilityId::Classify, CapabilityId::Logits],
        check: without_logits,
    },
    Behaviour {
        id: "classify/top",
        demand: "`top` alternatives come best first, the likeliest token being the first",
        requires: REQUIRES,
        check: top,
    },
    Behaviour {
        id: "classify/labels",
        demand: "labels are scored by their first tokens, sum to 1, and come most likely first",
        requires: &[CapabilityId::Load, CapabilityId::Classify, CapabilityId::Tokenizer],
        check: labels,
    },
    Behaviour {
        id: "classify/failing-item",
        demand: "a prompt that fails does not disturb the others; an invalid option fails all",
        requires: REQUIRES,
        check: failing_item,
    },
    Behaviour {
        id: "classify/cancel",
        demand: "a token or deadline of a classification ends what has no answer yet as \
                 `Cancelled`, with the reason",
        requires: REQUIRES,
        check: cancel,
    },
    Behaviour {
        id: "classify/forward-count",
        demand: "many prompts take fewer forward passes than there are prompts, and generate \
                 nothing",
        requires: &[CapabilityId::Load, CapabilityId::Classify, CapabilityId::ContinuousBatching],
        check: forward_count,
    },
];

fn prompts(context: &Context) -> Result<Vec<Prompt>, crate::outcome::Stop> {
    Ok(context.prompts()?.into_iter().map(Prompt::Tokens).collect())
}

fn first_token(context: &Context) -> Check {
    let model = context.model()?;
    let results = model.classify(prompts(context)?, &ClassifyOptions::new())?;
    ensure_eq!(results.len(), context.prompts()?.len(), "results");
    for (prompt, result) in context.prompts()?.into_iter().zip(results) {
        let classification = result?;
        ensure_eq!(classification.prompt_tokens, prompt.len(), "`prompt_tokens`");
        let output = context.run(&*model, prompt, context.greedy(1)?)?;
        let Some(first) = output.tokens.first() else { continue };
        ensure_eq!(classification.token.id, first.id, "the likeliest token");
    }
    Ok(Outcome::PASS)
}

fn first_logits(context: &Context) -> Check {
    let model = context.model()?;
    let (vocab, tolerance) = (model.info().vocab_size, context.data().company_tolerance);
    let results = model.classify(prompts(context)?, &ClassifyOptions::new().with_logits(true))?;
    for (prompt, result) in context.prompts()?.into_iter().zip(results) {
        let classification = result?;
        let Some(found) = classification.token.logits else { return fail("no logits") };
        ensure_eq!(found.len(), vocab, "logits");
        let output = context.run(&*model, prompt, context.greedy(1)?.with_logits(true))?;
        let Some(token) = output.tokens.first() else { continue };
        let Some(expected) = &token.logits else { return fail("no logits of a generated token") };
        let difference = worst_difference(&found, expected);
        ensure!(
            difference <= tolerance,
            "logits differ by {difference:e} from those that generation has, {tolerance:e} allowed"
        );
    }
    Ok(Outcome::PASS)
}

fn without_logits(context: &Context) -> Check {
    let model = context.model()?;
    let with = model.classify(prompts(context)?, &ClassifyOptions::new().with_logits(true))?;
    let without = model.classify(prompts(context)?, &ClassifyOptions::new())?;
    for (with, without) in with.into_iter().zip(without) {
        let (mut with, without) = (with?, without?);
        ensure!(without.token.logits.is_none(), "logits that were not asked for");
        ensure!(with.token.logits.take().is_some(), "no logits");
        overlook_company(&mut with.token, &without.token, context.data().company_tolerance);
        ensure_eq!(without, with, "a classification without logits");
    }
    Ok(Outcome::PASS)
}

/// Takes over the log-probabilities of `other` that differ by no more than the
/// company of other prompts may make out.
fn overlook_company(token: &mut Token, other: &Token, tolerance: f32) {
    let near = |a: f32, b: f32| (a - b).abs() <= tolerance;
    if let (Some(own), Some(other)) = (&mut token.logprob, other.logprob)
        && near(*own, other)
    {
        *own = other;
    }
    for (own, other) in token.top_logprobs.iter_mut().zip(&other.top_logprobs) {
        if own.id == other.id && near(own.logprob, other.logprob) {
            own.logprob = other.logprob;
        }
    }
}

fn top(context: &Context) -> Check {
    let model = context.model()?;
    for top in [0, 1, 7] {
        let options = ClassifyOptions::new().with_top(top);
        for result in model.classify(prompts(context)?, &options)? {
            let token = result?.token;
            let Some(logprob) = token.logprob else { return fail("no log-probability") };
            ensure!(logprob <= 0.0, "a log-probability of {logprob}");
            let alternatives = &token.top_logprobs;
            ensure_eq!(alternatives.len(), top.min(model.info().vocab_size), "alternatives");
            ensure!(
                alternatives.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob),
                "alternatives are not sorted: {alternatives:?}"
            );
            if let Some(best) = alternatives.first() {
                ensure_eq!(best.id, token.id, "the first alternative");
                ensure_eq!(best.logprob, logprob, "the first alternative's log-probability");
            }
        }
    }
    Ok(Outcome::PASS)
}

fn labels(context: &Context) -> Check {
    let model = context.model()?;
    if !model.info().has_tokenizer {
        return not_applicable("the model has no tokenizer");
    }
    let mut scored = None;
    // Labels that begin with the same token, perhaps that of the space
    // between, are refused; which do is the tokenizer's to know.
    for (prompts, labels) in [
        (["Once upon a time", "1 + 1 ="], ["42", "no", "yes"]),
        (["Once upon a time ", "1 + 1 = "], ["42", "no", "yes"]),
        (["Once upon a time", "1 + 1 ="], ["7", "a", "é"]),
    ] {
        let options = ClassifyOptions::new().with_labels(labels);
        match model.classify(prompts.into_iter().map(Prompt::from).collect(), &options) {
            Ok(results) => {
                scored = Some((labels, results));
                break;
            }
            Err(error) => match error.kind() {
                ErrorKind::InvalidOption | ErrorKind::InvalidInput => {}
                _ => return Err(error.into()),
            },
        }
    }
    let Some((expected, results)) = scored else {
        return not_applicable("all labels of the check begin with the same token");
    };
    for result in results {
        let classification = result?;
        let labels = &classification.labels;
        let mut names: Vec<&str> = labels.iter().map(|label| label.label.as_str()).collect();
        names.sort_unstable();
        ensure_eq!(names, expected, "labels");
        let sum: f32 = labels.iter().map(|label| label.probability).sum();
        ensure!((sum - 1.0).abs() < 1e-4, "the probabilities of the labels sum to {sum}");
        ensure!(
            labels.windows(2).all(|pair| pair[0].probability >= pair[1].probability),
            "labels are not sorted: {labels:?}"
        );
        // A label's share is its token's probability among the labels' tokens.
        let total: f32 = labels.iter().map(|label| label.logprob.exp()).sum();
        for label in labels {
            let expected = label.logprob.exp() / total;
            ensure!(
                total == 0.0 || (label.probability - expected).abs() < 1e-3,
                "`{}` has the probability {}, by its log-probability {expected}",
                label.label,
                label.probability
            );
        }
    }
    let twice = ClassifyOptions::new().with_labels(["yes", "yes"]);
    let result = model.classify(vec!["a".into()], &twice);
    ensure_kind(result, ErrorKind::InvalidOption, "the same label twice")?;
    Ok(Outcome::PASS)
}

fn failing_item(context: &Context) -> Check {
    let model = context.model()?;
    let good = prompts(context)?;
    let expected = model.classify(good.clone(), &ClassifyOptions::new())?;
    let mut mixed = good.clone();
    mixed.insert(1, Prompt::Tokens(vec![model.info().vocab_size as TokenId]));
    mixed.insert(0, Prompt::Tokens(Vec::new()));
    let mut found = model.classify(mixed, &ClassifyOptions::new())?;
    ensure_eq!(found.len(), good.len() + 2, "results");
    ensure_kind(found.remove(2), ErrorKind::InvalidInput, "an id outside the vocabulary")?;
    ensure_kind(found.remove(0), ErrorKind::InvalidInput, "an empty prompt")?;
    for (found, expected) in found.into_iter().zip(expected) {
        ensure_eq!(found?.token.id, expected?.token.id, "the likeliest token");
    }
    let result = model.classify(good, &ClassifyOptions::new().with_top(101));
    ensure_kind(result, ErrorKind::InvalidOption, "`top` of 101")?;
    Ok(Outcome::PASS)
}

fn cancel(context: &Context) -> Check {
    let model = context.model()?;
    let expected = model.classify(prompts(context)?, &ClassifyOptions::new())?;
    let forwards = model.metrics().forward_count;
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let options = ClassifyOptions::new;
    for (options, expected) in [
        (options().with_cancel(cancelled), FinishReason::Cancelled),
        (options().with_deadline(Instant::now()), FinishReason::Deadline),
    ] {
        let results = honoured(model.classify(prompts(context)?, &options))?;
        ensure_eq!(results.len(), context.prompts()?.len(), "results");
        for result in results {
            match result {
                Ok(_) => return fail("an answer after the request had to end"),
                Err(Error::Cancelled { reason }) => ensure_eq!(reason, expected, "the reason"),
                Err(error) => return fail(format!("not `Cancelled`: {error}")),
            }
        }
    }
    ensure_eq!(model.metrics().forward_count, forwards, "forward passes afterwards");
    let held = options().with_cancel(CancelToken::new()).with_timeout(Duration::from_secs(86_400));
    for (result, expected) in model.classify(prompts(context)?, &held)?.into_iter().zip(expected) {
        ensure_eq!(result?.token.id, expected?.token.id, "the likeliest token");
    }
    Ok(Outcome::PASS)
}

fn forward_count(context: &Context) -> Check {
    let model = context.load_with(|load| load.with_parallel_slots(4))?;
    let prompts = prompts(context)?;
    let count = prompts.len() as u64;
    for result in model.classify(prompts, &ClassifyOptions::new())? {
        result?;
    }
    let metrics = model.metrics();
    ensure!(
        metrics.forward_count < count,
        "{count} prompts took {} forward passes",
        metrics.forward_count
    );
    ensure_eq!(metrics.generated_tokens, 0, "tokens generated");
    Ok(Outcome::PASS)
}
