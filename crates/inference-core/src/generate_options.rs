//! What a request asks of generation.

use std::time::{Duration, Instant};

use crate::{BASE_MODEL, CancelToken, Error, Result, TokenId};

/// Options of one request. Every field is optional, and unset differs from
/// zero: an unset field takes the value of the model's
/// `generation_config.json`, and where that is silent, the default named here.
///
/// Values are checked when the request is made, by
/// [`validate`](GenerateOptions::validate): an invalid one is refused with its
/// field, value and accepted range, never clamped.
///
/// ```
/// use inference_core::GenerateOptions;
///
/// let options = GenerateOptions::new()
///     .with_max_tokens(64)
///     .with_temperature(0.8)
///     .with_top_p(0.95)
///     .with_seed(42);
/// options.validate()?;
///
/// let error = GenerateOptions::new().with_top_p(1.5).validate().unwrap_err();
/// assert!(error.to_string().contains("top_p"));
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most tokens to generate, at least 1. Default: 256.
    pub max_tokens: Option<usize>,
    /// Fewest tokens before a stop token may end the text: until then stop
    /// tokens are not sampled, and stop strings are not looked for. At most
    /// `max_tokens`. Default: 0.
    pub min_tokens: Option<usize>,
    /// Softmax temperature, 0 to 100; 0 is greedy. Default: 0.
    pub temperature: Option<f32>,
    /// Keep the `k` most likely tokens; 0 keeps all. Default: 0.
    pub top_k: Option<usize>,
    /// Keep the smallest set whose probability reaches `p`, in (0, 1].
    /// Default: 1.
    pub top_p: Option<f32>,
    /// Keep tokens at least `p` times as likely as the likeliest, in [0, 1].
    /// Default: 0.
    pub min_p: Option<f32>,
    /// Keep the locally typical set of this mass, in (0, 1]. Default: 1.
    /// Meister et al., *Locally Typical Sampling*, 2023.
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens that
    /// occurred, greater than 0. Default: 1. Keskar et al., *CTRL*, 2019.
    pub repeat_penalty: Option<f32>,
    /// Subtracted from a logit for each occurrence, -2 to 2. Default: 0.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once from the logit of a token that occurred, -2 to 2.
    /// Default: 0.
    pub presence_penalty: Option<f32>,
    /// How many of the last tokens (prompt and output) the penalties look at;
    /// 0 looks at none. Default: all of them.
    pub penalty_window: Option<usize>,
    /// Added to the logits of these tokens, before everything else; each is
    /// finite, or negative infinity to forbid the token.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens that end the text, in addition to the model's own.
    pub stop_tokens: Vec<TokenId>,
    /// Strings that end the text; neither they nor what follows is yielded.
    /// None may be empty.
    pub stop_strings: Vec<String>,
    /// Whether the model's end-of-sequence tokens are treated as ordinary
    /// tokens. [`stop_tokens`](Self::stop_tokens) still apply. Default: false.
    pub ignore_eos: Option<bool>,
    /// Seed of the sampler. Unset: drawn, and reported in
    /// [`Completion::seed`](crate::Completion::seed).
    pub seed: Option<u64>,
    /// Report each token's log-probability and this many alternatives
    /// (0 to 100). Default: neither.
    pub logprobs: Option<usize>,
    /// Report each position's full logits. Default: false.
    pub logits: Option<bool>,
    /// When to give up; checked at every step. Default: never.
    pub deadline: Option<Instant>,
    /// Ends the request when cancelled.
    pub cancel: Option<CancelToken>,
    /// Larger runs earlier; equal priorities run in order of arrival.
    /// Default: 0.
    pub priority: Option<i32>,
    /// Speculative decoding by prompt lookup: most tokens to draft per step, 0
    /// to 32; 0 is off. Drafts are what followed earlier occurrences of the
    /// last tokens, verified in one forward pass, so that texts which repeat
    /// themselves come faster; the tokens are those without. Saxena, *Prompt
    /// Lookup Decoding*, 2023. Default: 0.
    pub prompt_lookup: Option<usize>,
    /// Name of the loaded adapter to use; [`BASE_MODEL`] for the model itself.
    /// Default: the adapter called [`DEFAULT_ADAPTER`](crate::DEFAULT_ADAPTER), if there is one.
    pub adapter: Option<String>,
}

/// `max_tokens` where neither the request nor the model says otherwise.
pub const DEFAULT_MAX_TOKENS: usize = 256;

impl GenerateOptions {
    /// Options with every field unset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the most tokens to generate, at least 1.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Sets the fewest tokens before a stop token may end the text.
    #[must_use]
    pub fn with_min_tokens(mut self, tokens: usize) -> Self {
        self.min_tokens = Some(tokens);
        self
    }

    /// Sets the temperature; 0 is greedy.
    #[must_use]
    pub fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Sets top-k; 0 keeps all tokens.
    #[must_use]
    pub fn with_top_k(mut self, k: usize) -> Self {
        self.top_k = Some(k);
        self
    }

    /// Sets top-p (nucleus sampling).
    #[must_use]
    pub fn with_top_p(mut self, p: f32) -> Self {
        self.top_p = Some(p);
        self
    }

    /// Sets min-p.
    #[must_use]
    pub fn with_min_p(mut self, p: f32) -> Self {
        self.min_p = Some(p);
        self
    }

    /// Sets locally typical sampling.
    #[must_use]
    pub fn with_typical_p(mut self, p: f32) -> Self {
        self.typical_p = Some(p);
        self
    }

    /// Sets the repetition penalty; 1 is none.
    #[must_use]
    pub fn with_repeat_penalty(mut self, penalty: f32) -> Self {
        self.repeat_penalty = Some(penalty);
        self
    }

    /// Sets the frequency penalty; 0 is none.
    #[must_use]
    pub fn with_frequency_penalty(mut self, penalty: f32) -> Self {
        self.frequency_penalty = Some(penalty);
        self
    }

    /// Sets the presence penalty; 0 is none.
    #[must_use]
    pub fn with_presence_penalty(mut self, penalty: f32) -> Self {
        self.presence_penalty = Some(penalty);
        self
    }

    /// Sets how many of the last tokens the penalties look at.
    #[must_use]
    pub fn with_penalty_window(mut self, tokens: usize) -> Self {
        self.penalty_window = Some(tokens);
        self
    }

    /// Adds a bias to a token's logit.
    #[must_use]
    pub fn with_logit_bias(mut self, token: TokenId, bias: f32) -> Self {
        self.logit_bias.push((token, bias));
        self
    }

    /// Adds a token that ends the text.
    #[must_use]
    pub fn with_stop_token(mut self, token: TokenId) -> Self {
        self.stop_tokens.push(token);
        self
    }

    /// Adds a string that ends the text.
    #[must_use]
    pub fn with_stop_string(mut self, text: impl Into<String>) -> Self {
        self.stop_strings.push(text.into());
        self
    }

    /// Treats end-of-sequence tokens as ordinary ones.
    #[must_use]
    pub fn with_ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = Some(ignore);
        self
    }

    /// Sets the sampler's seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Asks for log-probabilities and this many alternatives.
    #[must_use]
    pub fn with_logprobs(mut self, alternatives: usize) -> Self {
        self.logprobs = Some(alternatives);
        self
    }

    /// Asks for each position's full logits.
    #[must_use]
    pub fn with_logits(mut self, logits: bool) -> Self {
        self.logits = Some(logits);
        self
    }

    /// Sets when to give up.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets when to give up, counted from now. A time beyond what the clock
    /// can hold is no deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// Sets the token that can cancel the request.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Sets the priority; larger runs earlier.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets how many tokens prompt lookup drafts per step; 0 is off.
    #[must_use]
    pub fn with_prompt_lookup(mut self, tokens: usize) -> Self {
        self.prompt_lookup = Some(tokens);
        self
    }

    /// Chooses a loaded adapter by name.
    #[must_use]
    pub fn with_adapter(mut self, name: impl Into<String>) -> Self {
        self.adapter = Some(name.into());
        self
    }

    /// Chooses the model itself, whatever adapter is the default.
    #[must_use]
    pub fn with_base_model(self) -> Self {
        self.with_adapter(BASE_MODEL)
    }

    /// These options, with every unset field taken from `fallback`. Lists
    /// (bias, stop tokens, stop strings) are taken whole, where empty.
    ///
    /// ```
    /// use inference_core::GenerateOptions;
    ///
    /// // What generation_config.json says, under what the request says.
    /// let model = GenerateOptions::new().with_temperature(0.6).with_top_k(20);
    /// let options = GenerateOptions::new().with_temperature(0.0).or(&model);
    /// assert_eq!((options.temperature, options.top_k), (Some(0.0), Some(20)));
    /// ```
    #[must_use]
    pub fn or(mut self, fallback: &Self) -> Self {
        macro_rules! fill {
            ($($field:ident),*) => {
                $(if self.$field.is_none() { self.$field.clone_from(&fallback.$field); })*
            };
        }
        macro_rules! fill_list {
            ($($field:ident),*) => {
                $(if self.$field.is_empty() { self.$field.clone_from(&fallback.$field); })*
            };
        }
        fill!(
            max_tokens,
            min_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            penalty_window,
            ignore_eos,
            seed,
            logprobs,
            logits,
            deadline,
            cancel,
            priority,
            prompt_lookup,
            adapter
        );
        fill_list!(logit_bias, stop_tokens, stop_strings);
        self
    }

    /// Checks every field that is set. A backend calls it on the options as
    /// they apply, after [`or`](Self::or): only then is it known whether
    /// `min_tokens` and `max_tokens` agree. What needs a model (token ids, the
    /// adapter's name) is for the model to check.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for the
    /// first value outside its range.
    pub fn validate(&self) -> Result<()> {
        if self.max_tokens == Some(0) {
            return Err(Error::invalid_option("max_tokens", 0, "at least 1"));
        }
        if let (Some(min), Some(max)) = (self.min_tokens, self.max_tokens)
            && min > max
        {
            let expected = format!("at most max_tokens ({max})");
            return Err(Error::invalid_option("min_tokens", min, expected));
        }
        in_range("temperature", self.temperature, "0 to 100", |v| (0.0..=100.0).contains(&v))?;
        in_range("top_p", self.top_p, "greater than 0, at most 1", |v| v > 0.0 && v <= 1.0)?;
        in_range("min_p", self.min_p, "0 to 1", |v| (0.0..=1.0).contains(&v))?;
        in_range("typical_p", self.typical_p, "greater than 0, at most 1", |v| {
            v > 0.0 && v <= 1.0
        })?;
        in_range("repeat_penalty", self.repeat_penalty, "greater than 0, finite", |v| v > 0.0)?;
        let signed = |v: f32| (-2.0..=2.0).contains(&v);
        in_range("frequency_penalty", self.frequency_penalty, "-2 to 2", signed)?;
        in_range("presence_penalty", self.presence_penalty, "-2 to 2", signed)?;
        if let Some((token, bias)) =
            self.logit_bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY)
        {
            let value = format!("{bias} (token {token})");
            return Err(Error::invalid_option("logit_bias", value, "finite or -inf"));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(Error::invalid_option("stop_strings", "\"\"", "no empty string"));
        }
        if let Some(n) = self.prompt_lookup.filter(|n| *n > 32) {
            return Err(Error::invalid_option("prompt_lookup", n, "0 to 32"));
        }
        if let Some(n) = self.logprobs.filter(|n| *n > 100) {
            return Err(Error::invalid_option("logprobs", n, "0 to 100"));
        }
        Ok(())
    }
}

fn in_range(
    field: &'static str,
    value: Option<f32>,
    expected: &str,
    accept: impl Fn(f32) -> bool,
) -> Result<()> {
    match value {
        Some(v) if !(v.is_finite() && accept(v)) => Err(Error::invalid_option(field, v, expected)),
        _ => Ok(()),
    }
}
