//! What a request asks for, checked and resolved. Everything that can be
//! refused is refused here, before anything is queued.

use std::collections::BTreeSet;
use std::time::Instant;

use inference_core::{
    CancelToken, DEFAULT_MAX_TOKENS, Error, GenerateOptions, Prompt, Result, TokenId,
};
use inference_text::Tokenizer;

use crate::adapters::AdapterLease;
use crate::identity::KvFormat;
use crate::parts::ModelParts;
use crate::rng::draw_seed;
use crate::runner::{BlockId, ModelRunner, RunnerSpec};
use crate::sampler::SamplerParams;

/// The options of one generation, resolved: the request's own value, or else
/// the model's, or else the default.
#[derive(Debug)]
pub(crate) struct GeneratePlan {
    /// At least 1; prompt and output fit the context.
    pub(crate) max_tokens: usize,
    pub(crate) min_tokens: usize,
    pub(crate) sampling: SamplerParams,
    /// Tokens that end the text.
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) stop_strings: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) logprobs: Option<usize>,
    pub(crate) logits: bool,
    /// Most tokens to draft per step; 0 is off.
    pub(crate) prompt_lookup: usize,
    pub(crate) adapter: Option<AdapterLease>,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Option<CancelToken>,
}

/// A model as requests see it.
#[derive(Debug)]
pub(crate) struct Requirements {
    pub(crate) spec: RunnerSpec,
    pub(crate) parts: ModelParts,
    /// Whether the runner has [`KvBlocks`](crate::KvBlocks).
    pub(crate) has_kv_blocks: bool,
    /// What they consist of, if they can be read.
    pub(crate) kv_format: Option<KvFormat>,
}

impl Requirements {
    /// Checks runner and parts against each other, and completes the parts'
    /// `info`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a runner without vocabulary, context or blocks and
    /// for an end-of-sequence token outside the vocabulary; `InvalidOption`
    /// for a default outside its range or naming a token outside the
    /// vocabulary.
    pub(crate) fn new(runner: &mut dyn ModelRunner, mut parts: ModelParts) -> Result<Self> {
        let spec = runner.spec().clone();
        for (what, value) in [
            ("vocab_size", spec.vocab_size),
            ("context_len", spec.context_len),
            ("block_size", spec.block_size),
            ("num_blocks", spec.num_blocks),
        ] {
            if value == 0 {
                let what = format!("{what} of the model runner");
                return Err(Error::invalid_input(what, "at least 1", "0"));
            }
        }
        if BlockId::try_from(spec.num_blocks).is_err() {
            let expected = format!("at most {}", BlockId::MAX);
            let what = "num_blocks of the model runner";
            return Err(Error::invalid_input(what, expected, spec.num_blocks.to_string()));
        }
        parts.defaults.validate()?;
        parts.info.vocab_size = spec.vocab_size;
        parts.info.context_len =
            spec.context_len.min(spec.num_blocks.saturating_mul(spec.block_size));
        parts.info.has_tokenizer = parts.tokenizer.is_some();
        parts.info.eos_tokens.clone_from(&parts.eos);
        parts.info.has_chat_template = parts.template.is_some();
        let blocks = runner.kv_blocks();
        let has_kv_blocks = blocks.is_some();
        let kv_format = blocks.filter(|blocks| blocks.can_be_read()).map(|blocks| KvFormat {
            name: blocks.format(),
            position_bytes: blocks.position_bytes(),
        });
        let this = Self { spec, parts, has_kv_blocks, kv_format };
        this.check_ids("end-of-sequence token", &this.parts.eos)?;
        this.check_option_ids(&this.parts.defaults)?;
        Ok(this)
    }

    /// The model, in error messages.
    pub(crate) fn subject(&self) -> String {
        format!("the `{}` model", self.parts.info.architecture)
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// `Unsupported` where there is none; `ability` says what needs it.
    pub(crate) fn tokenizer(&self, ability: &str) -> Result<&Tokenizer> {
        let missing = || {
            let subject = format!("{} without a tokenizer", self.subject());
            Error::unsupported(subject, ability)
        };
        self.parts.tokenizer.as_deref().ok_or_else(missing)
    }

    /// The longest sequence: what context and KV pool both hold.
    pub(crate) fn context_len(&self) -> usize {
        self.parts.info.context_len
    }

    pub(crate) fn check_ids(&self, what: &str, ids: &[TokenId]) -> Result<()> {
        let outside = ids.iter().find(|id| **id as usize >= self.spec.vocab_size);
        outside.map_or(Ok(()), |id| {
            let expected = format!("token ids below {}", self.spec.vocab_size);
            Err(Error::invalid_input(what, expected, id.to_string()))
        })
    }

    /// The text of a prompt before tokenization and whether the tokenizer
    /// adds its special tokens to it; `None` for a prompt of ids.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a chat without a template; what the template raises.
    pub(crate) fn prompt_text(&self, prompt: &Prompt) -> Result<Option<(String, bool)>> {
        match prompt {
            Prompt::Tokens(_) => Ok(None),
            Prompt::Text(text) => Ok(Some((text.clone(), true))),
            Prompt::Chat(chat) => {
                let missing = || {
                    let subject = format!("{} without a chat template", self.subject());
                    Error::unsupported(subject, "chat")
                };
                let template = self.parts.template.as_ref().ok_or_else(missing)?;
                // A template writes the special tokens itself.
                Ok(Some((template.render(chat)?, false)))
            }
            _ => Err(Error::unsupported(self.subject(), "this kind of prompt")),
        }
    }

    /// The ids of a prompt, which are not more than `limit`.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](inference_core::TextModel::generate) for its
    /// prompt.
    pub(crate) fn prompt_ids(&self, prompt: &Prompt, limit: usize) -> Result<Vec<TokenId>> {
        let ids = match (self.prompt_text(prompt)?, prompt) {
            (Some((text, special)), _) => self.tokenizer("text prompts")?.encode(&text, special)?,
            (None, Prompt::Tokens(ids)) => ids.clone(),
            (None, _) => Vec::new(),
        };
        if ids.is_empty() {
            return Err(Error::invalid_input("prompt", "at least 1 token", "0 tokens"));
        }
        if ids.len() > limit {
            // `limit` leaves room for what is to be generated.
            let generated = self.context_len() - limit;
            return Err(Error::Exhausted {
                resource: "context (tokens)".into(),
                needed: (ids.len() + generated) as u64,
                available: self.context_len() as u64,
            });
        }
        self.check_ids("prompt", &ids)?;
        Ok(ids)
    }

    /// Prompt and plan of a generation.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](inference_core::TextModel::generate).
    pub(crate) fn generation(
        &self,
        prompt: &Prompt,
        options: GenerateOptions,
    ) -> Result<(Vec<TokenId>, GeneratePlan)> {
        options.validate()?;
        let mut plan = self.resolve(options)?;
        // One position at least is left for the output.
        let ids = self.prompt_ids(prompt, self.context_len() - 1)?;
        plan.max_tokens = plan.max_tokens.min(self.context_len() - ids.len());
        Ok((ids, plan))
    }

    fn resolve(&self, options: GenerateOptions) -> Result<GeneratePlan> {
        let options = options.or(&self.parts.defaults);
        options.validate()?;
        let prompt_lookup = options.prompt_lookup.unwrap_or(0);
        if prompt_lookup > 0 && !self.has_kv_blocks {
            return Err(Error::unsupported(self.subject(), "prompt_lookup"));
        }
        self.check_option_ids(&options)?;
        if !options.stop_strings.is_empty() {
            self.tokenizer("stop_strings")?;
        }
        let max_tokens = options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let min_tokens = options.min_tokens.unwrap_or(0);
        if min_tokens > max_tokens {
            let expected = format!("at most max_tokens ({max_tokens})");
            return Err(Error::invalid_option("min_tokens", min_tokens, expected));
        }
        let mut stop_tokens: BTreeSet<TokenId> = options.stop_tokens.iter().copied().collect();
        if !options.ignore_eos.unwrap_or(false) {
            stop_tokens.extend(&self.parts.eos);
        }
        let adapter = self.adapter(options.adapter.as_deref())?;
        Ok(GeneratePlan {
            max_tokens,
            min_tokens,
            sampling: sampler_params(&options),
            stop_tokens: stop_tokens.into_iter().collect(),
            stop_strings: options.stop_strings,
            seed: options.seed.unwrap_or_else(draw_seed),
            logprobs: options.logprobs,
            logits: options.logits.unwrap_or(false),
            prompt_lookup,
            adapter,
            priority: options.priority.unwrap_or(0),
            deadline: options.deadline,
            cancel: options.cancel,
        })
    }

    /// The refusal of a request that names an adapter.
    pub(crate) fn no_adapters(&self) -> Error {
        Error::unsupported(self.subject(), "adapter")
    }

    /// Every id in `options` is inside the vocabulary.
    fn check_option_ids(&self, options: &GenerateOptions) -> Result<()> {
        let vocab_size = self.spec.vocab_size;
        let biased = options.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = options.stop_tokens.iter().map(|id| ("stop_tokens", *id));
        let outside = biased.chain(stops).find(|(_, id)| *id as usize >= vocab_size);
        outside.map_or(Ok(()), |(field, id)| {
            let expected = format!("token ids below {vocab_size}");
            Err(Error::invalid_option(field, format!("token {id}"), expected))
        })
    }
}

fn sampler_params(options: &GenerateOptions) -> SamplerParams {
    let neutral = SamplerParams::default();
    SamplerParams {
        temperature: options.temperature.unwrap_or(neutral.temperature),
        top_k: options.top_k.unwrap_or(neutral.top_k),
        top_p: options.top_p.unwrap_or(neutral.top_p),
        min_p: options.min_p.unwrap_or(neutral.min_p),
        typical_p: options.typical_p.unwrap_or(neutral.typical_p),
        repeat_penalty: options.repeat_penalty.unwrap_or(neutral.repeat_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(neutral.frequency_penalty),
        presence_penalty: options.presence_penalty.unwrap_or(neutral.presence_penalty),
        penalty_window: options.penalty_window,
        logit_bias: options.logit_bias.clone(),
        // What the contract does not offer stays neutral.
        epsilon_cutoff: neutral.epsilon_cutoff,
        no_repeat_ngram_size: neutral.no_repeat_ngram_size,
    }
}
