//! The output side of a sequence that generates: sampling, text, delivery.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inference_core::{
    Completion, Error, FinishReason, GenerateMetrics, Result, Token, TokenId, TokenLogprob,
};
use inference_text::{StreamDecoder, Tokenizer};

use crate::channel::TokenSender;
use crate::engine_thread::panic_message;
use crate::prompt_lookup::PromptLookup;
use crate::request::GeneratePlan;
use crate::sampler::{Draw, Position, Sampler};
use crate::sequence::Ending;
use crate::text_output::TextOutput;

/// A sequence's output.
///
/// Every generated token but a stop token is delivered exactly once. A token
/// after which text is still unsettled (an incomplete character, the possible
/// start of a stop string) is held until the next one, or the end, so that the
/// last token can carry the rest of the text; so the texts of the delivered
/// tokens, concatenated, are always the whole text.
#[derive(Debug)]
pub(crate) struct Generation {
    plan: GeneratePlan,
    sampler: Sampler,
    output: TextOutput,
    tokenizer: Option<Arc<Tokenizer>>,
    sender: TokenSender,
    /// The token that waits for its text to settle.
    held: Option<Token>,
    /// Tokens that the reader had no room for; at most two, and those that were
    /// drafted.
    outbox: VecDeque<Token>,
    parked_since: Option<Instant>,
    generated: usize,
    lookup: Option<PromptLookup>,
    /// What the next tokens probably are.
    drafts: Vec<TokenId>,
    /// Drafted tokens that were verified, and those of them that were right.
    drafted: usize,
    accepted: usize,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Generation {
    pub(crate) fn new(
        mut plan: GeneratePlan,
        prompt: &[TokenId],
        tokenizer: Option<Arc<Tokenizer>>,
        sender: TokenSender,
    ) -> Self {
        let decoder: Option<StreamDecoder> =
            tokenizer.as_ref().map(|tokenizer| tokenizer.stream_decoder(true));
        let output = TextOutput::new(decoder, std::mem::take(&mut plan.stop_strings));
        let sampler = Sampler::new(plan.sampling.clone(), prompt, plan.seed);
        let lookup = (plan.prompt_lookup > 0).then(|| PromptLookup::new(plan.prompt_lookup));
        Self {
            plan,
            lookup,
            drafts: Vec::new(),
            drafted: 0,
            accepted: 0,
            sampler,
            output,
            tokenizer,
            sender,
            held: None,
            outbox: VecDeque::new(),
            parked_since: None,
            generated: 0,
            first_token: None,
            last_token: None,
        }
    }

    /// Tokens generated so far.
    pub(crate) fn generated(&self) -> usize {
        self.generated
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.sender.is_cancelled()
    }

    /// Whether it waits for its reader.
    pub(crate) fn is_parked(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(crate) fn parked_since(&self) -> Option<Instant> {
        self.parked_since
    }

    /// Looks for drafts of what follows `ids`, where all of them but the last
    /// are `decoded`, and says how many there are.
    pub(crate) fn draft(&mut self, ids: &[TokenId], decoded: bool) -> usize {
        let Some(lookup) = &mut self.lookup else { return 0 };
        self.drafts.clear();
        if decoded {
            // One token comes without a draft.
            let room = self.plan.max_tokens.saturating_sub(self.generated + 1);
            self.drafts = lookup.draft(ids, room);
        } else {
            lookup.index(ids);
        }
        self.drafts.len()
    }

    /// The drafts found last.
    pub(crate) fn drafts(&self) -> &[TokenId] {
        &self.drafts
    }

    /// Notes that `accepted` of the first `drafted` drafts were right.
    pub(crate) fn learn(&mut self, drafted: usize, accepted: usize) {
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(drafted, accepted);
        }
        self.drafted += drafted;
        self.accepted += accepted;
    }

    /// When its last token was generated.
    pub(crate) fn last_token(&self) -> Option<Instant> {
        self.last_token
    }

    /// Samples the next token from the logits after the last of `ids`, and
    /// delivers it.
    ///
    /// # Errors
    ///
    /// Logits that cannot be sampled; a failing tokenizer.
    pub(crate) fn advance(
        &mut self,
        row: &[f32],
        ids: &mut Vec<TokenId>,
        now: Instant,
        probe: impl FnOnce(usize, &Token),
    ) -> Result<Option<FinishReason>> {
        let index = self.generated;
        let too_early = index < self.plan.min_tokens;
        let forbidden = if too_early { self.plan.stop_tokens.as_slice() } else { &[] };
        let logprobs = self.plan.logprobs;
        let position = Position { logits: row, history: ids, index, forbidden, logprobs };
        let draw = self.sampler.sample(&position)?;
        self.generated += 1;
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        if self.plan.stop_tokens.contains(&draw.id) {
            return Ok(Some(FinishReason::StopToken(draw.id)));
        }
        ids.push(draw.id);
        self.sampler.accept(ids);
        let may_stop = self.generated >= self.plan.min_tokens;
        let piece = self.output.push(draw.id, may_stop)?;
        let token = self.token(draw, piece.text, row);
        probe(index, &token);
        self.outbox.extend(self.held.take());
        if piece.unsettled && piece.matched.is_none() {
            self.held = Some(token);
            self.send(now);
        } else {
            self.deliver(token, now);
        }
        if let Some(matched) = piece.matched {
            return Ok(Some(FinishReason::StopString(matched)));
        }
        Ok((self.generated >= self.plan.max_tokens).then_some(FinishReason::Length))
    }

    fn token(&self, draw: Draw, text: String, row: &[f32]) -> Token {
        let spelled = |id| self.tokenizer.as_ref().map(|t| t.token_text(id)).unwrap_or_default();
        let mut token = Token::new(draw.id, text);
        token.logprob = draw.logprob;
        // Mostly there are none, and then nothing is to be moved.
        if !draw.alternatives.is_empty() {
            token.top_logprobs = draw
                .alternatives
                .into_iter()
                .map(|(id, logprob)| TokenLogprob::new(id, spelled(id), logprob))
                .collect();
        }
        token.logits = self.plan.logits.then(|| row.to_vec());
        token
    }

    /// Sends a token, after those that wait.
    fn deliver(&mut self, token: Token, now: Instant) {
        if self.outbox.is_empty() {
            match self.sender.send(token) {
                Ok(()) => self.parked_since = None,
                Err(token) => {
                    self.outbox.push_back(*token);
                    self.parked_since.get_or_insert(now);
                }
            }
        } else {
            self.outbox.push_back(token);
            self.send(now);
        }
    }

    /// Sends what there is room for.
    fn send(&mut self, now: Instant) {
        while let Some(token) = self.outbox.pop_front() {
            if let Err(token) = self.sender.send(token) {
                self.outbox.push_front(*token);
                self.parked_since.get_or_insert(now);
                return;
            }
        }
        self.parked_since = None;
    }

    /// Wakes the reader for what was [sent](TokenSender::send).
    pub(crate) fn wake_reader(&mut self) {
        self.sender.wake_reader();
    }

    /// Tries to deliver again, and says whether the reader is too slow.
    pub(crate) fn flush(&mut self, now: Instant, lag_timeout: Duration) -> Option<FinishReason> {
        if !self.is_parked() {
            return None;
        }
        let before = self.outbox.len();
        self.send(now);
        self.wake_reader();
        if self.outbox.len() < before && self.is_parked() {
            // The reader moves, though slowly.
            self.parked_since = Some(now);
        }
        let since = self.parked_since?;
        (now.saturating_duration_since(since) >= lag_timeout).then_some(FinishReason::Lagging)
    }

    /// Fills in what only the output knows.
    pub(crate) fn fill_times(
        &self,
        metrics: &mut GenerateMetrics,
        submitted: Instant,
        started: Instant,
        ended: Instant,
    ) {
        metrics.generated_tokens = self.generated;
        metrics.draft_tokens = self.drafted;
        metrics.accepted_draft_tokens = self.accepted;
        metrics.ttft = self.first_token.map(|first| first.duration_since(submitted));
        metrics.prefill_time = self.first_token.unwrap_or(ended).duration_since(started);
        metrics.decode_time = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last.duration_since(first),
            _ => Duration::ZERO,
        };
    }

    /// Delivers what is left and the ending; returns the reason.
    pub(crate) fn end(
        mut self,
        mut ending: Ending,
        metrics: GenerateMetrics,
    ) -> Option<FinishReason> {
        if matches!(ending, Ending::Reason(FinishReason::StopString(_))) {
            return self.close(ending, None, metrics);
        }
        let finish = AssertUnwindSafe(|| self.output.finish());
        let (rest, matched) = catch_unwind(finish).unwrap_or_else(|panic| {
            if !matches!(ending, Ending::Error(_)) {
                ending = Ending::Error(output_panic(&*panic));
            }
            (String::new(), None)
        });
        // Unsettled text always has a held token; see `advance`.
        if let Some(held) = &mut self.held {
            held.text.push_str(&rest);
        }
        self.close(ending, matched, metrics)
    }

    fn close(
        mut self,
        ending: Ending,
        matched: Option<String>,
        metrics: GenerateMetrics,
    ) -> Option<FinishReason> {
        self.outbox.extend(self.held.take());
        let seed = self.plan.seed;
        let outcome = match (ending, matched) {
            (Ending::Error(error), _) => Err(error),
            // The end itself settled that the text reached a stop string.
            (Ending::Reason(FinishReason::Length | FinishReason::StopToken(_)), Some(text)) => {
                Ok(FinishReason::StopString(text))
            }
            (Ending::Reason(reason), _) => Ok(reason),
            // A generation has no other completion than its last token.
            (Ending::Complete, _) => Ok(FinishReason::Length),
        };
        let reason = outcome.as_ref().ok().cloned();
        let completion = |reason| Completion::new(reason, metrics, seed);
        self.sender.end(std::mem::take(&mut self.outbox), outcome.map(completion));
        reason
    }
}

/// What a panic between logits and text is to the request.
pub(crate) fn output_panic(panic: &(dyn Any + Send)) -> Error {
    Error::engine_message(format!("sampling or decoding panicked: {}", panic_message(panic)))
}
