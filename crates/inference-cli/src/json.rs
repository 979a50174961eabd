//! The objects of `--json`.

use inference::{Completion, FinishReason, Token, TokenId, TokenLogprob};
use serde::Serialize;

/// `{"token":{…}}`
#[derive(Debug, Serialize)]
pub(crate) struct TokenLine<'a> {
    token: TokenFields<'a>,
}

/// A token's own fields; what was not asked for is left out.
#[derive(Debug, Serialize)]
pub(crate) struct TokenFields<'a> {
    id: TokenId,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    top_logprobs: &'a [TokenLogprob],
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a [f32]>,
}

impl<'a> TokenLine<'a> {
    pub(crate) fn new(token: &'a Token) -> Self {
        Self { token: token.into() }
    }
}

impl<'a> From<&'a Token> for TokenFields<'a> {
    fn from(token: &'a Token) -> Self {
        Self {
            id: token.id,
            text: &token.text,
            logprob: token.logprob,
            top_logprobs: &token.top_logprobs,
            logits: token.logits.as_deref(),
        }
    }
}

/// `{"summary":{…}}`
#[derive(Debug, Serialize)]
pub(crate) struct SummaryLine<'a> {
    summary: Summary<'a>,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    finish_reason: &'static str,
    prompt_tokens: usize,
    generated_tokens: usize,
    prefill_tokens_per_sec: f64,
    decode_tokens_per_sec: f64,
    ttft_ms: Option<f64>,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_token: Option<TokenId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_string: Option<&'a str>,
    seed: u64,
    cached_prompt_tokens: usize,
    draft_tokens: usize,
    accepted_draft_tokens: usize,
    preemptions: u32,
    queue_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    total_ms: f64,
    peak_bytes: u64,
    active_bytes: u64,
}

impl<'a> SummaryLine<'a> {
    pub(crate) fn new(completion: &'a Completion, text: &'a str) -> Self {
        let metrics = &completion.metrics;
        let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let (stop_token, stop_string) = match &completion.finish_reason {
            FinishReason::StopToken(id) => (Some(*id), None),
            FinishReason::StopString(text) => (None, Some(text.as_str())),
            _ => (None, None),
        };
        Self {
            summary: Summary {
                finish_reason: completion.finish_reason.name(),
                prompt_tokens: metrics.prompt_tokens,
                generated_tokens: metrics.generated_tokens,
                prefill_tokens_per_sec: metrics.prefill_tokens_per_sec(),
                decode_tokens_per_sec: metrics.decode_tokens_per_sec(),
                ttft_ms: metrics.ttft.map(millis),
                text,
                stop_token,
                stop_string,
                seed: completion.seed,
                cached_prompt_tokens: metrics.cached_prompt_tokens,
                draft_tokens: metrics.draft_tokens,
                accepted_draft_tokens: metrics.accepted_draft_tokens,
                preemptions: metrics.preemptions,
                queue_ms: millis(metrics.queue_time),
                prefill_ms: millis(metrics.prefill_time),
                decode_ms: millis(metrics.decode_time),
                total_ms: millis(metrics.total_time),
                peak_bytes: metrics.peak_bytes,
                active_bytes: metrics.active_bytes,
            },
        }
    }
}
