//! How a request ended and what it cost.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "serde")]
use crate::seconds;
use crate::{Histogram, TokenId};

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FinishReason {
    /// The model produced this end-of-sequence or stop token (not yielded).
    StopToken(TokenId),
    /// The text reached this stop string (not yielded).
    StopString(String),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The stream was cancelled, or the model closed without draining.
    Cancelled,
    /// The reader took no token for longer than the engine waits.
    Lagging,
    /// The deadline passed.
    Deadline,
}

impl FinishReason {
    /// The stable name: `stop_token`, `stop_string`, `length`, `cancelled`,
    /// `lagging` or `deadline`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) => "stop_token",
            Self::StopString(_) => "stop_string",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Lagging => "lagging",
            Self::Deadline => "deadline",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one request cost.
///
/// With the feature `serde` the times are written as numbers of seconds
/// (`"prefill_time": 0.25`), and `ttft` as such a number or `null`.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct GenerateMetrics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values came from the prefix cache.
    pub cached_prompt_tokens: usize,
    /// Tokens generated, the final stop token included where there was one.
    pub generated_tokens: usize,
    /// Tokens that prompt lookup drafted.
    pub draft_tokens: usize,
    /// Drafted tokens that were what the model then chose.
    pub accepted_draft_tokens: usize,
    /// How often the sequence lost its KV blocks to others and was computed
    /// again.
    pub preemptions: u32,
    /// From submission to the first step that worked on this request.
    #[cfg_attr(feature = "serde", serde(with = "seconds"))]
    pub queue_time: Duration,
    /// From that step to the first generated token.
    #[cfg_attr(feature = "serde", serde(with = "seconds"))]
    pub prefill_time: Duration,
    /// From the first generated token to the last.
    #[cfg_attr(feature = "serde", serde(with = "seconds"))]
    pub decode_time: Duration,
    /// From submission to the end.
    #[cfg_attr(feature = "serde", serde(with = "seconds"))]
    pub total_time: Duration,
    /// Time to first token: from submission to the first generated token.
    #[cfg_attr(feature = "serde", serde(with = "seconds::option"))]
    pub ttft: Option<Duration>,
    /// Largest number of bytes the model held while this request ran: weights,
    /// KV blocks in use and the activations of a step.
    pub peak_bytes: u64,
    /// Bytes the model held when the request ended.
    pub active_bytes: u64,
}

impl GenerateMetrics {
    /// Prompt tokens computed (cached ones not counted) per second of prefill;
    /// 0 where nothing ran.
    #[must_use]
    pub fn prefill_tokens_per_sec(&self) -> f64 {
        rate(self.prompt_tokens.saturating_sub(self.cached_prompt_tokens), self.prefill_time)
    }

    /// Tokens per second of decoding. The first token belongs to the prefill,
    /// so this is `(generated - 1) / decode_time`; 0 where nothing was decoded.
    #[must_use]
    pub fn decode_tokens_per_sec(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 || time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// How a request ended: the reason, what it cost, and the seed it used.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Completion {
    /// Why the stream ended.
    pub finish_reason: FinishReason,
    /// What the request cost.
    pub metrics: GenerateMetrics,
    /// The seed that reproduces this request, whether given or drawn.
    pub seed: u64,
}

impl Completion {
    /// A completion.
    #[must_use]
    pub fn new(finish_reason: FinishReason, metrics: GenerateMetrics, seed: u64) -> Self {
        Self { finish_reason, metrics, seed }
    }
}

/// Totals of a loaded model since it was loaded.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct ModelMetrics {
    /// Requests that entered the scheduler.
    pub requests: u64,
    /// Requests that ended, for whatever reason.
    pub finished: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Requests waiting for a slot.
    pub queued: usize,
    /// Sequences in slots.
    pub running: usize,
    /// Forward passes of the model.
    pub forward_count: u64,
    /// Tokens computed by forward passes: of prompts, generated, drafted, and
    /// computed again after a preemption.
    pub step_tokens: u64,
    /// Prompt tokens computed, each once.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys and values came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens that prompt lookup drafted.
    pub draft_tokens: u64,
    /// Drafted tokens that were what the model then chose.
    pub accepted_draft_tokens: u64,
    /// Sequences that lost their KV blocks to others and were computed again.
    pub preemptions: u64,
    /// Times to first token, from submission.
    pub ttft: Histogram,
    /// Inter-token latencies: times between one generated token and the next.
    pub itl: Histogram,
    /// KV blocks in use by running sequences; blocks that are only kept for
    /// the prefix cache do not count.
    pub kv_blocks_used: usize,
    /// KV blocks in the pool.
    pub kv_blocks_total: usize,
    /// Size of the KV pool in bytes, fixed at load; 0 where the backend does
    /// not tell.
    pub kv_bytes_total: u64,
    /// Bytes held now: weights, KV blocks in use, step activations.
    pub active_bytes: u64,
    /// The largest value of `active_bytes` so far.
    pub peak_bytes: u64,
}

impl ModelMetrics {
    /// The part of all prompt tokens that the prefix cache had, 0 to 1.
    #[must_use]
    pub fn prefix_hit_rate(&self) -> f64 {
        share(self.cached_prompt_tokens, self.cached_prompt_tokens + self.prompt_tokens)
    }

    /// The part of the drafted tokens that was accepted, 0 to 1.
    #[must_use]
    pub fn draft_acceptance_rate(&self) -> f64 {
        share(self.accepted_draft_tokens, self.draft_tokens)
    }

    /// Tokens per forward pass; 0 where there was none.
    #[must_use]
    pub fn tokens_per_step(&self) -> f64 {
        share(self.step_tokens, self.forward_count)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
