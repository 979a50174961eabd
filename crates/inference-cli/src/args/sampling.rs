//! How to choose tokens, and when to stop.

use std::time::Duration;

use clap::Args;
use inference::{GenerateOptions, TokenId};

use super::values;
use crate::failure::{Failure, Result};

/// Options of a request. What is not given is taken from the model's
/// `generation_config.json`, or else from the contract's defaults.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling (default: the model's own settings, or else greedy)")]
pub(crate) struct SamplingArgs {
    /// Most tokens to generate [default: 256]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Fewest tokens before a stop token or string may end the text
    #[arg(long, value_name = "N")]
    min_tokens: Option<usize>,

    /// Softmax temperature; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,

    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Keep the smallest set of tokens whose probability reaches P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Keep tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Keep the locally typical set of mass P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,

    /// Divide (positive) or multiply (negative) logits of tokens that occurred
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,

    /// Subtract from a logit for each occurrence
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,

    /// Subtract once from the logit of a token that occurred
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,

    /// How many of the last tokens the penalties look at
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,

    /// Add BIAS to a token's logit; -inf forbids it. Repeatable
    #[arg(long, value_name = "ID=BIAS", value_parser = values::logit_bias)]
    logit_bias: Vec<(TokenId, f32)>,

    /// End the text before this string. Repeatable
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// End the text at these tokens, besides the model's own. Repeatable
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    stop_token: Vec<TokenId>,

    /// Treat end-of-sequence tokens as ordinary ones
    #[arg(long)]
    ignore_eos: bool,

    /// Seed of the sampler; default: drawn, and reported
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Draft up to N tokens from what followed before, and verify them at once; the text is the
    /// same. 0 is off
    #[arg(long, value_name = "N")]
    prompt_lookup: Option<usize>,

    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,

    /// Report log-probabilities and N alternatives per token (needs --json)
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,

    /// Report each token's full logits (needs --json)
    #[arg(long)]
    logits: bool,
}

impl SamplingArgs {
    /// The options of a request that starts now.
    pub(crate) fn options(&self, json: bool) -> Result<GenerateOptions> {
        if !json && (self.logprobs.is_some() || self.logits) {
            let message = "--logprobs and --logits are printed with --json only";
            return Err(Failure::Usage(message.to_owned()));
        }
        let mut options = GenerateOptions::new();
        options.max_tokens = self.max_tokens;
        options.min_tokens = self.min_tokens;
        options.temperature = self.temperature;
        options.top_k = self.top_k;
        options.top_p = self.top_p;
        options.min_p = self.min_p;
        options.typical_p = self.typical_p;
        options.repeat_penalty = self.repeat_penalty;
        options.frequency_penalty = self.frequency_penalty;
        options.presence_penalty = self.presence_penalty;
        options.penalty_window = self.penalty_window;
        options.logit_bias.clone_from(&self.logit_bias);
        options.stop_strings.clone_from(&self.stop);
        options.stop_tokens.clone_from(&self.stop_token);
        options.ignore_eos = self.ignore_eos.then_some(true);
        options.seed = self.seed;
        options.prompt_lookup = self.prompt_lookup;
        options.logprobs = self.logprobs;
        options.logits = self.logits.then_some(true);
        if let Some(timeout) = self.timeout {
            options = options.with_timeout(timeout);
        }
        Ok(options)
    }
}
