//! From one row of logits to one token.
//!
//! The steps and their order are those of transformers' logits processors:
//! logit bias, frequency and presence penalty, repetition penalty, n-gram
//! repetition, forbidden stop tokens, then (unless greedy) temperature, top-k,
//! top-p, min-p, typical-p, epsilon; then softmax in `f64` over what survives.
//! The token is found by inverse CDF over the survivors in descending
//! probability, ties by ascending id, with the uniform number that the
//! [seed contract](crate::rng) assigns to the token's index.

mod candidates;
mod exponential;
mod penalties;
mod truncation;

use inference_core::{Error, Result, TokenId};

pub(crate) use candidates::Candidates;
pub(crate) use penalties::TokenCounts;

use crate::rng::SeededUniform;

/// Everything that shapes a request's distribution, resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SamplerParams {
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// 0 keeps all.
    pub(crate) top_k: usize,
    /// 1 keeps all.
    pub(crate) top_p: f32,
    /// 0 keeps all.
    pub(crate) min_p: f32,
    /// 1 keeps all.
    pub(crate) typical_p: f32,
    /// Drops tokens less likely than this; 0 keeps all. Not in the contract.
    pub(crate) epsilon_cutoff: f32,
    /// 1 is none.
    pub(crate) repeat_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) presence_penalty: f32,
    /// `None` looks at the whole history.
    pub(crate) penalty_window: Option<usize>,
    /// Forbids n-grams of this size to occur twice; 0 is off. Not in the
    /// contract.
    pub(crate) no_repeat_ngram_size: usize,
    /// Ids are inside the vocabulary.
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: None,
            no_repeat_ngram_size: 0,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplerParams {
    fn penalizes(&self) -> bool {
        self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// One position to sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<'a> {
    /// The model's logits, `[vocab]`.
    pub(crate) logits: &'a [f32],
    /// The prompt and what was generated so far.
    pub(crate) history: &'a [TokenId],
    /// The index of the token to generate, from 0.
    pub(crate) index: usize,
    /// Tokens that must not come here.
    pub(crate) forbidden: &'a [TokenId],
    /// How many alternatives to report; `None`: no log-probabilities.
    pub(crate) logprobs: Option<usize>,
}

/// A sampled token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draw {
    pub(crate) id: TokenId,
    /// Under the processed logits, before temperature and truncation.
    pub(crate) logprob: Option<f32>,
    pub(crate) alternatives: Vec<(TokenId, f32)>,
}

/// Samples the tokens of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplerParams,
    counts: TokenCounts,
    uniform: SeededUniform,
    scratch: Vec<f32>,
}

impl Sampler {
    /// A sampler for a request whose prompt is `prompt`.
    pub(crate) fn new(params: SamplerParams, prompt: &[TokenId], seed: u64) -> Self {
        let mut counts = TokenCounts::new(params.penalty_window);
        if params.penalizes() {
            (1..=prompt.len()).for_each(|end| counts.push(&prompt[..end]));
        }
        Self { params, counts, uniform: SeededUniform::new(seed), scratch: Vec::new() }
    }

    /// Tells the sampler that `history` grew by its last token.
    pub(crate) fn accept(&mut self, history: &[TokenId]) {
        if self.params.penalizes() {
            self.counts.push(history);
        }
    }

    /// Samples one token.
    ///
    /// # Errors
    ///
    /// `Engine` where the logits are not numbers, or no token is left.
    pub(crate) fn sample(&mut self, position: &Position<'_>) -> Result<Draw> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let logits = self.process(position, &mut scratch);
        let draw = self.draw(logits, position);
        self.scratch = scratch;
        draw
    }

    fn draw(&mut self, logits: &[f32], position: &Position<'_>) -> Result<Draw> {
        let best = argmax(logits)?;
        let id = if self.params.temperature == 0.0 {
            best
        } else {
            let target = self.uniform.at(position.index);
            self.survivors(logits).pick(target).unwrap_or(best)
        };
        let Some(wanted) = position.logprobs else {
            return Ok(Draw { id, logprob: None, alternatives: Vec::new() });
        };
        let (logprob, alternatives) = log_probabilities(logits, id, wanted);
        Ok(Draw { id, logprob: Some(logprob), alternatives })
    }

    /// The steps before temperature; `scratch` is used only where one applies.
    fn process<'a>(&self, position: &Position<'a>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let params = &self.params;
        let untouched = params.logit_bias.is_empty()
            && !params.penalizes()
            && params.no_repeat_ngram_size == 0
            && position.forbidden.is_empty();
        if untouched {
            return position.logits;
        }
        scratch.clear();
        scratch.extend_from_slice(position.logits);
        penalties::bias(scratch, &params.logit_bias);
        let counts = &self.counts;
        penalties::frequency_and_presence(
            scratch,
            counts,
            params.frequency_penalty,
            params.presence_penalty,
        );
        penalties::repetition(scratch, counts, params.repeat_penalty);
        penalties::repeated_ngrams(scratch, position.history, params.no_repeat_ngram_size);
        penalties::forbid(scratch, position.forbidden);
        scratch
    }

    /// The steps from temperature on.
    fn survivors(&self, logits: &[f32]) -> Candidates {
        let params = &self.params;
        let mut candidates = Candidates::top(logits, params.temperature, params.top_k);
        truncation::top_p(&mut candidates, params.top_p);
        truncation::min_p(&mut candidates, params.min_p);
        truncation::typical_p(&mut candidates, params.typical_p);
        truncation::epsilon(&mut candidates, params.epsilon_cutoff);
        candidates
    }
}

/// The likeliest token, the lowest id among equals.
///
/// # Errors
///
/// `Engine` for a NaN or positive infinity, or where every token is forbidden.
pub(crate) fn argmax(logits: &[f32]) -> Result<TokenId> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            let message = format!("the model computed the logit {logit} for token {id}");
            return Err(Error::engine_message(message));
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Error::engine_message("every token of the vocabulary is forbidden"));
    }
    Ok(best.0)
}

/// The natural-log probability of `id`, and the `count` likeliest tokens with
/// theirs, under the softmax of `logits`, which passed [`argmax`].
pub(crate) fn log_probabilities(
    logits: &[f32],
    id: TokenId,
    count: usize,
) -> (f32, Vec<(TokenId, f32)>) {
    let mut candidates = Candidates::new(logits, 1.0);
    let normalizer = candidates.log_sum();
    let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let best = candidates.likeliest(count);
    let alternatives =
        best.iter().map(|best| (best.id, (best.logit - normalizer) as f32)).collect();
    ((f64::from(own) - normalizer) as f32, alternatives)
}

#[cfg(test)]
mod tests;
