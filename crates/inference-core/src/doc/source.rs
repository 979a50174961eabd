//! One request of the echo model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::EOS;
use super::model::{Shared, scored};
use crate::probe::{Phase, ProbeEvent, ProbeKind, RequestId};
use crate::{
    Completion, DEFAULT_MAX_TOKENS, FinishReason, GenerateMetrics, GenerateOptions, TokenEvent,
    TokenId, TokenSource,
};

pub(super) struct Request {
    ids: Vec<TokenId>,
    options: GenerateOptions,
    cancelled: bool,
}

impl Request {
    pub(super) fn new(ids: Vec<TokenId>, options: GenerateOptions) -> Self {
        Self { ids, options, cancelled: false }
    }

    fn bytes(&self) -> u64 {
        (self.ids.len() * size_of::<TokenId>()) as u64
    }
}

/// Runs on the reader's thread, one token per poll, so it is never pending.
pub(super) struct EchoSource {
    request: Request,
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// A request from its first poll to its end.
struct Running {
    id: RequestId,
    started: Instant,
    /// When the first token came.
    first: Option<Instant>,
    /// When the latest token came.
    latest: Option<Instant>,
    generated: usize,
    peak_bytes: u64,
}

impl EchoSource {
    pub(super) fn new(request: Request, shared: Arc<Shared>) -> Self {
        Self { request, shared, running: None }
    }

    fn start(&self) -> Running {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut metrics = self.shared.metrics();
        metrics.requests += 1;
        metrics.running += 1;
        metrics.prompt_tokens += self.request.ids.len() as u64;
        metrics.active_bytes += self.request.bytes();
        metrics.peak_bytes = metrics.peak_bytes.max(metrics.active_bytes);
        let id = RequestId(NEXT.fetch_add(1, Ordering::Relaxed));
        let peak_bytes = metrics.active_bytes;
        Running { id, started: Instant::now(), first: None, latest: None, generated: 0, peak_bytes }
    }

    /// Why the request ends before another token is computed, if it does.
    fn interrupted(&self) -> Option<FinishReason> {
        let options = &self.request.options;
        let token = options.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled());
        if self.request.cancelled || token || self.shared.closed.load(Ordering::Acquire) {
            return Some(FinishReason::Cancelled);
        }
        let passed = options.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        passed.then_some(FinishReason::Deadline)
    }

    fn step(&self, running: &mut Running) -> TokenEvent {
        if let Some(reason) = self.interrupted() {
            return self.finished(running, reason);
        }
        let options = &self.request.options;
        let room = self.shared.context_len.saturating_sub(self.request.ids.len());
        if running.generated >= options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS).min(room) {
            return self.finished(running, FinishReason::Length);
        }
        let id = self.request.ids.get(running.generated).copied().unwrap_or(EOS);
        let index = running.generated;
        running.generated += 1;
        let now = Instant::now();
        {
            let mut metrics = self.shared.metrics();
            match running.latest {
                None => metrics.ttft.record(now.saturating_duration_since(running.started)),
                Some(latest) => metrics.itl.record(now.saturating_duration_since(latest)),
            }
            metrics.forward_count += 1;
            metrics.generated_tokens += 1;
            running.peak_bytes = running.peak_bytes.max(metrics.active_bytes);
        }
        running.first.get_or_insert(now);
        running.latest = Some(now);
        if id == EOS || options.stop_tokens.contains(&id) {
            return self.finished(running, FinishReason::StopToken(id));
        }
        let token = match scored(id, options.logprobs) {
            Ok(token) => token,
            Err(error) => return TokenEvent::Failed(error),
        };
        // Asked before the text is copied.
        if let Some(bus) = &self.shared.probe_bus
            && bus.wants(ProbeKind::Token)
        {
            let event = ProbeEvent::Token { id, text: token.text.clone(), index };
            bus.emit(Some(running.id), Phase::Decode, event);
        }
        TokenEvent::Token(token)
    }

    fn finished(&self, running: &Running, reason: FinishReason) -> TokenEvent {
        let now = Instant::now();
        let since = |earlier: Instant| now.saturating_duration_since(earlier);
        let ttft = running.first.map(|first| first.saturating_duration_since(running.started));
        let metrics = GenerateMetrics {
            prompt_tokens: self.request.ids.len(),
            generated_tokens: running.generated,
            prefill_time: ttft.unwrap_or_default(),
            decode_time: running.first.map_or(Duration::ZERO, since),
            total_time: since(running.started),
            ttft,
            peak_bytes: running.peak_bytes,
            active_bytes: self.shared.metrics().active_bytes,
            ..GenerateMetrics::default()
        };
        // Nothing is drawn: any seed reproduces the request.
        let seed = self.request.options.seed.unwrap_or(0);
        TokenEvent::Finished(Completion::new(reason, metrics, seed))
    }

    /// Gives back what a running request holds; `failed` counts it as such.
    fn release(&self, failed: bool) {
        self.shared.release(self.request.bytes(), failed);
    }
}

impl TokenSource for EchoSource {
    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<TokenEvent> {
        let mut running = self.running.take().unwrap_or_else(|| self.start());
        let event = self.step(&mut running);
        match event {
            TokenEvent::Token(_) => self.running = Some(running),
            TokenEvent::Finished(_) => self.release(false),
            TokenEvent::Failed(_) => self.release(true),
        }
        Poll::Ready(event)
    }

    fn cancel(&mut self) {
        self.request.cancelled = true;
    }
}

impl Drop for EchoSource {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.release(false);
        }
    }
}
