//! One request in the specimen's engine.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use inference_core::{
    DEFAULT_MAX_TOKENS, FinishReason, GenerateMetrics, GenerateOptions, Result, Token, TokenEvent,
    TokenId,
};

use crate::defect::{Defect, Flaw};
use crate::engine_state::{BLOCK_SIZE, Settings};
use crate::language::Kv;
use crate::sampler::{choose, processed, ranked, report};
use crate::vocabulary::{Decoder, EOS};

/// Logits rows and the positions of the prompt.
pub(crate) type Scores = Result<(Vec<f32>, Vec<Kv>)>;

pub(crate) enum Task {
    Generate,
    /// Logits of a prompt's positions.
    Score {
        all: bool,
        rows: Vec<f32>,
        reply: mpsc::Sender<Scores>,
    },
}

pub(crate) struct Sequence {
    pub(crate) id: u64,
    /// What its adapter makes of the weights; 0 is none.
    pub(crate) adapter: u64,
    /// Prompt and output.
    pub(crate) ids: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    /// What is computed of them.
    pub(crate) kv: Vec<Kv>,
    pub(crate) cached: usize,
    pub(crate) options: GenerateOptions,
    pub(crate) max_tokens: usize,
    pub(crate) seed: u64,
    pub(crate) task: Task,
    /// Cancelled before it was submitted.
    pub(crate) cancelled: bool,
    /// The stream was read before.
    pub(crate) polled: bool,
    /// A full queue does not refuse it.
    pub(crate) waits_outside: bool,
    pub(crate) submitted: Instant,
    pub(crate) started: Option<Instant>,
    pub(crate) first_token: Option<Instant>,
    pub(crate) last_token: Option<Instant>,
    pub(crate) drafted: usize,
    pub(crate) accepted: usize,
    pub(crate) yielded: usize,
    /// Sequences of its last step.
    pub(crate) company: usize,
    flaw: Flaw,
    decoder: Decoder,
    /// Text that may be the beginning of a stop string.
    pending: String,
    /// A token whose text is not settled.
    held: Option<Token>,
}

impl Sequence {
    pub(crate) fn new(
        ids: Vec<TokenId>,
        options: GenerateOptions,
        task: Task,
        settings: &Settings,
    ) -> Self {
        let given = options.seed.filter(|_| !settings.flaw.is(Defect::SeedIgnored));
        let seed = given.unwrap_or_else(|| {
            let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            nanos.map_or(0, |time| time.as_nanos() as u64)
        });
        let room = settings.context_len.saturating_sub(ids.len());
        let max_tokens = options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS).min(room);
        Self {
            id: 0,
            adapter: 0,
            prompt_len: ids.len(),
            ids,
            kv: Vec::new(),
            cached: 0,
            options,
            max_tokens,
            seed,
            task,
            cancelled: false,
            polled: false,
            waits_outside: false,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
            drafted: 0,
            accepted: 0,
            yielded: 0,
            company: 0,
            flaw: settings.flaw,
            decoder: Decoder::default(),
            pending: String::new(),
            held: None,
        }
    }

    pub(crate) fn generated(&self) -> usize {
        self.ids.len() - self.prompt_len
    }

    /// Blocks that it reserves: the last token is never computed.
    pub(crate) fn blocks(&self) -> usize {
        let positions = match self.task {
            Task::Generate => self.prompt_len + self.max_tokens - 1,
            Task::Score { .. } => self.prompt_len,
        };
        positions.div_ceil(BLOCK_SIZE)
    }

    /// The first position whose logits are wanted.
    pub(crate) fn first_row(&self) -> usize {
        match self.task {
            Task::Score { all: true, .. } => 0,
            Task::Score { .. } => self.prompt_len - 1,
            Task::Generate => self.ids.len() - 1,
        }
    }

    /// What followed the last earlier occurrence of the last two tokens.
    pub(crate) fn draft(&self) -> Vec<TokenId> {
        let most = self.options.prompt_lookup.filter(|_| !self.flaw.is(Defect::NothingDrafted));
        let most = most.unwrap_or(0);
        let most = most.min(self.max_tokens.saturating_sub(self.generated() + 1));
        let computed = self.kv.len() + 1 == self.ids.len();
        let (Some(last), true) = (self.ids.last_chunk::<2>(), computed && most > 0) else {
            return Vec::new();
        };
        let earlier = self.ids[..self.ids.len() - 1].windows(2).rposition(|pair| pair == last);
        let follows = |at: usize| self.ids[at + 2..].iter().copied().take(most).collect();
        earlier.map_or_else(Vec::new, follows)
    }

    /// Takes the logits of one position: the events, and how the text ends if
    /// it does.
    pub(crate) fn accept(
        &mut self,
        row: &[f32],
        settings: &Settings,
    ) -> (Vec<TokenEvent>, Option<Result<FinishReason>>) {
        let (flaw, options) = (settings.flaw, &self.options);
        let index = self.generated();
        let least = options.min_tokens.filter(|_| !flaw.is(Defect::MinTokensIgnored));
        let may_end = index >= least.unwrap_or(0);
        let eos = options.ignore_eos != Some(true) || flaw.is(Defect::IgnoreEosIgnored);
        let stops = |id| (eos && id == EOS) || options.stop_tokens.contains(&id);
        let logits = processed(row, options, &self.ids, flaw);
        let mut seed = self.seed;
        if options.prompt_lookup.is_some() && flaw.is(Defect::SpeculationUnseeded) {
            seed ^= self.id;
        }
        if flaw.is(Defect::CompanyCounts) {
            seed ^= self.company as u64;
        }
        let allowed = |id| may_end || !stops(id);
        let mut id = choose(&logits, options, seed, index, allowed, flaw);
        if self.id.is_multiple_of(2) && flaw.is(Defect::GreedyNoisy) {
            id = ranked(&logits)[1];
        }
        self.ids.push(id);
        if stops(id) {
            let eos = id == EOS;
            let yielded = if eos { Defect::EosYielded } else { Defect::StopTokenYielded };
            let event = flaw.is(yielded).then(|| TokenEvent::Token(Token::new(id, "")));
            return (event.into_iter().collect(), Some(Ok(FinishReason::StopToken(id))));
        }
        let most = self.max_tokens + usize::from(flaw.is(Defect::OneTokenMore));
        let token = report(id, row, &logits, options, flaw);
        if settings.has_text {
            let piece = self.decoder.push(id, flaw);
            self.pending.push_str(if flaw.is(Defect::SpacesLost) { piece.trim() } else { &piece });
        }
        let mut events: Vec<_> =
            self.held.replace(token).map(TokenEvent::Token).into_iter().collect();
        let mut end = (self.generated() >= most).then_some(Ok(FinishReason::Length));
        let mut keep = 0;
        if may_end {
            let found = options
                .stop_strings
                .iter()
                .filter_map(|stop| self.pending.find(stop.as_str()).map(|at| (at, stop)));
            if let Some((at, stop)) = found.min_by_key(|(at, _)| *at) {
                end = Some(Ok(FinishReason::StopString(stop.clone())));
                if !flaw.is(Defect::StopStringYielded) {
                    self.pending.truncate(at);
                }
                self.decoder = Decoder::default();
            } else {
                keep = unsettled(&self.pending, &options.stop_strings);
            }
        }
        let settled = self.pending.len() - keep;
        if let Some(held) = &mut self.held {
            held.text.extend(self.pending.drain(..settled));
        }
        if keep == 0 && self.decoder.is_settled() {
            events.extend(self.held.take().map(TokenEvent::Token));
        }
        (events, end)
    }

    /// The last token, with the text that is left.
    pub(crate) fn flush(&mut self) -> Option<TokenEvent> {
        let mut token = self.held.take()?;
        token.text.push_str(&std::mem::take(&mut self.pending));
        token.text.push_str(&self.decoder.finish());
        Some(TokenEvent::Token(token))
    }

    pub(crate) fn metrics(&self) -> GenerateMetrics {
        let since = |later: Option<Instant>, earlier: Option<Instant>| match (later, earlier) {
            (Some(later), Some(earlier)) => later.saturating_duration_since(earlier),
            _ => Duration::ZERO,
        };
        let submitted = Some(self.submitted);
        let mut metrics = GenerateMetrics::default();
        let miscounted = usize::from(self.flaw.is(Defect::PromptMiscounted));
        metrics.prompt_tokens = self.prompt_len - miscounted;
        metrics.cached_prompt_tokens = self.cached;
        metrics.generated_tokens = self.generated();
        metrics.draft_tokens = self.drafted;
        metrics.accepted_draft_tokens = self.accepted;
        metrics.queue_time = since(self.started, submitted);
        metrics.prefill_time = since(self.first_token, self.started);
        metrics.decode_time = since(self.last_token, self.first_token);
        metrics.total_time = self.submitted.elapsed();
        metrics.ttft = self.first_token.map(|first| first - self.submitted);
        metrics
    }
}

/// Bytes at the end of `text` that may be the beginning of a stop string.
fn unsettled(text: &str, stops: &[String]) -> usize {
    let begins = |len: &usize| {
        let tail = text.get(text.len() - len..);
        tail.is_some_and(|tail| stops.iter().any(|stop| stop.starts_with(tail)))
    };
    (1..=text.len()).rev().find(begins).unwrap_or(0)
}
