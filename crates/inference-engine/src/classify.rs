//! Classification: labels to tokens, and logits to scores.

use inference_core::{
    Classification, ClassifyOptions, Error, LabelScore, Prompt, Result, Token, TokenId,
    TokenLogprob,
};
use inference_text::Tokenizer;

use crate::request::Requirements;
use crate::sampler::{argmax, log_probabilities};

/// How many of the likeliest tokens are reported where nobody says.
const DEFAULT_TOP: usize = 5;

/// Checks what does not depend on a prompt.
///
/// # Errors
///
/// `InvalidOption` for `top` outside 0 to 100 and for an empty or repeated
/// label, `Unsupported` for labels without a tokenizer.
pub(crate) fn validate(requirements: &Requirements, options: &ClassifyOptions) -> Result<()> {
    options.validate()?;
    if options.labels.is_empty() {
        return Ok(());
    }
    requirements.tokenizer("labels").map(|_| ())
}

/// The token that stands for each label after `prompt`.
///
/// # Errors
///
/// `InvalidInput` where two labels begin with the same token, naming both.
pub(crate) fn label_tokens(
    requirements: &Requirements,
    prompt: &Prompt,
    labels: &[String],
) -> Result<Vec<TokenId>> {
    if labels.is_empty() {
        return Ok(Vec::new());
    }
    let tokenizer = requirements.tokenizer("labels")?;
    let text = requirements.prompt_text(prompt)?.map(|(text, _)| text);
    let plain = matches!(prompt, Prompt::Text(_));
    let mut tokens: Vec<TokenId> = Vec::with_capacity(labels.len());
    for label in labels {
        let token = label_token(tokenizer, text.as_deref(), plain, label)?;
        if let Some(other) = tokens.iter().position(|other| *other == token) {
            let both = format!("`{}` and `{label}`", labels[other]);
            let expected = "labels that begin with different tokens";
            let found = format!("{both}, which both begin with token {token}");
            return Err(Error::invalid_option("labels", found, expected));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// The first token of `label` as it continues `text`: the token that follows
/// the text's own in the tokenization of both together. Where the two run into
/// each other in one token, or the prompt is given as ids, it is the first
/// token of the label alone.
///
/// After a plain text (not a chat, whose template decides) a space is put in
/// between where the label would otherwise be glued to a word or punctuation.
fn label_token(
    tokenizer: &Tokenizer,
    text: Option<&str>,
    plain: bool,
    label: &str,
) -> Result<TokenId> {
    let space = match text {
        Some(text) if plain && needs_space(text, label) => " ",
        _ => "",
    };
    let continuation = format!("{space}{label}");
    if let Some(text) = text {
        let before = tokenizer.encode(text, false)?;
        let together = tokenizer.encode(&format!("{text}{continuation}"), false)?;
        if let Some(rest) = together.strip_prefix(before.as_slice())
            && let Some(first) = rest.first()
        {
            return Ok(*first);
        }
    }
    let alone = tokenizer.encode(&continuation, false)?;
    alone.first().copied().ok_or_else(|| {
        Error::invalid_input("label", "a text with at least 1 token", format!("`{label}`"))
    })
}

/// Whether a writer would put a space between `text` and `label`. Scripts
/// without cased letters, such as Han, are written without.
fn needs_space(text: &str, label: &str) -> bool {
    let word = |c: char| c.is_ascii_digit() || c.is_lowercase() || c.is_uppercase();
    let closes = |c: char| word(c) || ".,:;!?)]}".contains(c);
    text.chars().next_back().is_some_and(closes) && label.chars().next().is_some_and(word)
}

/// What one row of logits says.
///
/// # Errors
///
/// `Engine` where the logits are not numbers.
pub(crate) fn classification(
    tokenizer: Option<&Tokenizer>,
    options: &ClassifyOptions,
    label_tokens: &[TokenId],
    prompt_tokens: usize,
    logits: &[f32],
) -> Result<Classification> {
    let spelled = |id| tokenizer.map(|t| t.token_text(id)).unwrap_or_default();
    let best = argmax(logits)?;
    let (logprob, top) = log_probabilities(logits, best, options.top.unwrap_or(DEFAULT_TOP));
    let mut token = Token::new(best, spelled(best));
    token.logprob = Some(logprob);
    token.top_logprobs =
        top.into_iter().map(|(id, logprob)| TokenLogprob::new(id, spelled(id), logprob)).collect();
    token.logits = options.logits.then(|| logits.to_vec());
    let labels = label_scores(&options.labels, label_tokens, logits);
    Ok(Classification::new(token, labels, prompt_tokens))
}

/// Softmax over the labels' logits, most likely first.
fn label_scores(labels: &[String], tokens: &[TokenId], logits: &[f32]) -> Vec<LabelScore> {
    let logprobs: Vec<f32> =
        tokens.iter().map(|token| log_probabilities(logits, *token, 0).0).collect();
    let max = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Labels that the model excludes altogether share their probability.
    let weight = |logprob: f32| {
        if max == f32::NEG_INFINITY { 1.0 } else { f64::from(logprob - max).exp() }
    };
    let total: f64 = logprobs.iter().map(|logprob| weight(*logprob)).sum();
    let mut scores: Vec<LabelScore> = labels
        .iter()
        .zip(tokens)
        .zip(&logprobs)
        .map(|((label, token), logprob)| {
            LabelScore::new(label, *token, (weight(*logprob) / total) as f32, *logprob)
        })
        .collect();
    scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    scores
}
