//! A model behind the contract, measured as its users see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::{
    Backend, BatchItem, GenerateMetrics, GenerateOptions, LoadOptions, ModelSource, Prompt,
    Registry, TextModel, TokenEvent, TokenId,
};
use inference_cpu::CpuBackend;

use super::engine::{Engine, EngineKind, tier};
use super::row::Row;
use super::worker_process::Setup;
use crate::Result;
use crate::bench::prompts;

/// The seed of what lies at a depth: the same in every round, so that it is
/// computed once and then comes from the prefix cache.
const DEPTH_SEED: u64 = u64::MAX;
/// Tokens that the prefix cache may leave to be computed again: what does not
/// fill a block.
const PARTIAL_BLOCK: usize = 64;

/// The share of its time that a sequence decodes beside all the others, if
/// they count as decoding together.
const TOGETHER: f64 = 0.9;

/// A model of the registry.
pub(super) struct ContractModel {
    model: Arc<dyn TextModel>,
    /// Whether what lies at a depth is computed once only.
    prefix_cache: bool,
}

impl ContractModel {
    pub(super) fn load(setup: &Setup) -> Result<Self> {
        let source = ModelSource::from(setup.model.as_path());
        // llama.cpp's batches are slower where sequences can share memory.
        let prefix_cache = setup.engine != EngineKind::LlamaCpp;
        let options = LoadOptions::new()
            .with_prefix_cache(prefix_cache)
            .with_threads(setup.threads)
            .with_context_len(setup.context)
            .with_parallel_slots(setup.sequences)
            .with_kv_dtype(setup.kv_dtype);
        let model = match (&setup.tier, setup.engine) {
            (Some(name), EngineKind::Cpu) => {
                CpuBackend::new().with_tier(tier(name)?).load_model(&source, &options)?
            }
            _ => Registry::global().get(setup.engine.name())?.load_model(&source, &options)?,
        };
        Ok(Self { model, prefix_cache })
    }

    fn ids(&self, seed: u64, len: usize) -> Vec<TokenId> {
        prompts::ids(seed, len, self.model.info().vocab_size)
    }

    /// What reading a prompt cost, up to its first generated token.
    fn read(&self, ids: Vec<TokenId>) -> Result<GenerateMetrics> {
        Ok(self.model.generate(Prompt::Tokens(ids), greedy(1))?.finish()?.metrics)
    }

    /// Rate of the `tokens` tokens behind `depth` others, which come from the
    /// prefix cache, or whose own time is taken off.
    fn prefill(&self, tokens: usize, depth: usize, seed: u64) -> Result<f64> {
        let mut ids = self.ids(DEPTH_SEED, depth);
        let before = match depth {
            0 => Duration::ZERO,
            _ => time(&self.read(ids.clone())?)?,
        };
        ids.extend(self.ids(seed, tokens));
        let metrics = self.read(ids)?;
        if !self.prefix_cache {
            let behind = time(&metrics)?.saturating_sub(before);
            if behind.is_zero() {
                return Err(format!("{tokens} tokens take no longer than those before it").into());
            }
            return Ok(tokens as f64 / behind.as_secs_f64());
        }
        let cached = metrics.cached_prompt_tokens;
        let computed = metrics.prompt_tokens - cached;
        // A few may be there by chance: vocabularies are small.
        if computed > tokens + PARTIAL_BLOCK || computed < tokens.div_ceil(2) {
            return Err(format!("of {depth} tokens before it the prefix cache had {cached}").into());
        }
        Ok(computed as f64 / time(&metrics)?.as_secs_f64())
    }

    /// Rate while all sequences decode.
    fn decode(&self, prompts: Vec<Vec<TokenId>>, generate: usize) -> Result<f64> {
        if self.prefix_cache {
            // All of them begin with the first step, then.
            prompts.iter().try_for_each(|ids| self.read(ids.clone()).map(drop))?;
        }
        let items = prompts
            .into_iter()
            .map(|ids| BatchItem::new(Prompt::Tokens(ids)).with_options(greedy(generate + 1)));
        let items: Vec<_> = items.collect();
        let mut arrivals = vec![Vec::with_capacity(generate + 1); items.len()];
        let mut metrics = Vec::with_capacity(items.len());
        let began = Instant::now();
        for (index, event) in self.model.batch_generate(items)? {
            match event {
                TokenEvent::Token(_) => arrivals[index].push(began.elapsed()),
                TokenEvent::Finished(completion) => metrics.push(completion.metrics),
                TokenEvent::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        // Of a small model many tokens may be there before their reader wakes.
        let rate = together(&metrics).or_else(|| rate(&arrivals));
        rate.ok_or_else(|| "the sequences never decoded together".into())
    }
}

impl Engine for ContractModel {
    fn first_token(&mut self, prompt_tokens: usize, seed: u64) -> Result<Duration> {
        time(&self.read(self.ids(seed, prompt_tokens))?)
    }

    fn measure(&mut self, row: Row, generate: usize, seed: u64) -> Result<f64> {
        match row {
            Row::Prefill { tokens, depth } => self.prefill(tokens, depth, row.prompt_seed(seed, 0)),
            Row::Decode { depth, batch: None } => {
                self.decode(vec![self.ids(DEPTH_SEED, depth)], generate)
            }
            Row::Decode { depth, batch: Some(batch) } => {
                // Of one round after the other the same, where that spares reading them.
                let round = if self.prefix_cache { 0 } else { seed };
                let prompt = |sequence| self.ids(row.prompt_seed(round, sequence), depth);
                self.decode((0..batch as u64).map(prompt).collect(), generate)
            }
        }
    }
}

fn time(metrics: &GenerateMetrics) -> Result<Duration> {
    metrics.ttft.ok_or_else(|| "no first token".into())
}

fn greedy(tokens: usize) -> GenerateOptions {
    GenerateOptions::new()
        .with_max_tokens(tokens)
        .with_temperature(0.0)
        .with_repeat_penalty(1.0)
        .with_ignore_eos(true)
}

/// Tokens per second of sequences that decoded all the time together, by the
/// engine's clock; `None` where they did not.
fn together(metrics: &[GenerateMetrics]) -> Option<f64> {
    let begin = metrics.iter().map(|m| m.ttft).max()??;
    let ends = metrics.iter().map(|m| Some(m.ttft? + m.decode_time));
    let shared = ends.min()??.checked_sub(begin)?;
    let longest = metrics.iter().map(|m| m.decode_time).max()?;
    (!longest.is_zero() && shared >= longest.mul_f64(TOGETHER))
        .then(|| metrics.iter().map(GenerateMetrics::decode_tokens_per_sec).sum())
}

/// Tokens per second from the moment at which every sequence has its first
/// token until the first of them ends.
fn rate(arrivals: &[Vec<Duration>]) -> Option<f64> {
    let begin = *arrivals.iter().map(|times| times.first()).max()??;
    let end = *arrivals.iter().map(|times| times.last()).min()??;
    let inside = |time: &&Duration| **time > begin && **time <= end;
    let tokens = arrivals.iter().flatten().filter(inside).count();
    let time = end.checked_sub(begin)?.as_secs_f64();
    (tokens > 0 && time > 0.0).then(|| tokens as f64 / time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_that_decode_together_are_timed_by_the_engine() {
        let metrics = |ttft, decode, tokens| {
            let mut metrics = GenerateMetrics::default();
            metrics.ttft = Some(Duration::from_millis(ttft));
            metrics.decode_time = Duration::from_millis(decode);
            metrics.generated_tokens = tokens;
            metrics
        };
        // 10 tokens after the first in 100 ms, by two sequences.
        assert_eq!(together(&[metrics(10, 100, 11), metrics(15, 100, 11)]), Some(200.0));
        assert_eq!(together(&[metrics(10, 100, 11), metrics(30, 100, 11)]), None);
        assert_eq!(together(&[metrics(10, 100, 11), metrics(500, 100, 11)]), None);
        assert_eq!(together(&[metrics(10, 0, 1)]), None);
        assert_eq!(together(&[]), None);
    }

    #[test]
    fn the_rate_counts_what_comes_while_all_decode() {
        let ms = |times: &[u64]| times.iter().map(|t| Duration::from_millis(*t)).collect();
        // All have started at 20 ms, the first ends at 40 ms: 2 + 2 tokens.
        assert_eq!(rate(&[ms(&[10, 20, 30, 40]), ms(&[20, 30, 40, 50])]), Some(200.0));
        assert_eq!(rate(&[ms(&[10, 20]), ms(&[30, 40])]), None);
        assert_eq!(rate(&[ms(&[10, 20]), ms(&[])]), None);
    }
}
