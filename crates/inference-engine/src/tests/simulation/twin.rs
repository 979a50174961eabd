//! The naive twin: one request, token by token, without engine or blocks.

use inference_core::{FinishReason, TokenId};

use super::super::EOS;
use super::workload::{PromptPlan, Request, Sizes};
use crate::sampler::{Position, Sampler, SamplerParams};
use crate::sim_runner::SimRunner;

/// What a request that nobody ends early comes to.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) prompt: Vec<TokenId>,
    pub(super) ids: Vec<TokenId>,
    pub(super) reason: FinishReason,
}

/// The script of models whose texts repeat themselves.
pub(super) fn repetition(history: &[TokenId]) -> Option<TokenId> {
    let sum: u32 = history.iter().rev().take(3).sum();
    if sum.is_multiple_of(7) { None } else { history.len().checked_sub(5).map(|at| history[at]) }
}

/// The logits after `history`, of a prompt of `prompt_len` tokens.
pub(super) fn logits(sizes: &Sizes, prompt_len: usize, history: &[TokenId]) -> Vec<f32> {
    let long = sizes.long_prompt.is_some_and(|long| prompt_len > long);
    let mut row = SimRunner::expected_logits_in(sizes.vocab_size(), u64::from(long), history);
    if sizes.repeats
        && let Some(next) = repetition(history)
    {
        row[next as usize] = 1000.0;
    }
    row
}

/// The logits after the prompt of a classification.
pub(super) fn prompt(sizes: &Sizes, plan: &PromptPlan) -> Vec<TokenId> {
    sizes.ids(plan, 0)
}

pub(super) fn expected(sizes: &Sizes, request: &Request) -> Expected {
    let prompt = sizes.ids(&request.prompt, 1);
    let sampling = &request.sampling;
    let params = SamplerParams {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        repeat_penalty: sampling.repeat_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: sampling.bias.into_iter().collect(),
        ..SamplerParams::default()
    };
    let mut sampler = Sampler::new(params, &prompt, sampling.seed);
    let stops: Vec<TokenId> = sampling.stop_token.into_iter().collect();
    let stop_string = request.stop_string(sizes);
    let most = request.max_tokens.min(sizes.longest() - prompt.len());
    let mut history = prompt.clone();
    let reason = loop {
        let index = history.len() - prompt.len();
        let row = logits(sizes, prompt.len(), &history);
        let forbidden = if index < request.min_tokens { stops.as_slice() } else { &[] };
        let position =
            Position { logits: &row, history: &history, index, forbidden, logprobs: None };
        let id = sampler.sample(&position).unwrap().id;
        if stops.contains(&id) {
            break FinishReason::StopToken(id);
        }
        history.push(id);
        sampler.accept(&history);
        if let Some(text) = stop_string {
            let tail: Vec<TokenId> = text.bytes().map(TokenId::from).collect();
            // The text of a special token is empty.
            let mut text_ids = history[prompt.len()..].to_vec();
            text_ids.retain(|id| *id < EOS);
            if id < EOS && text_ids.ends_with(&tail) {
                break FinishReason::StopString(text.to_owned());
            }
        }
        if index + 1 == most {
            break FinishReason::Length;
        }
    };
    Expected { ids: history.split_off(prompt.len()), prompt, reason }
}
