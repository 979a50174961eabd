//! What the specimen's engine has: its settings, requests, outputs and numbers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Waker;
use std::time::{Duration, Instant};

use inference_core::{ModelMetrics, ProbeBus, TokenEvent, TokenId};

use crate::defect::{Defect, Flaw};
use crate::language::{KV_BYTES, Kv, logits, mix, step};
use crate::sequence::Sequence;

pub(crate) const BLOCK_SIZE: usize = 16;
pub(crate) const WEIGHT_BYTES: u64 = 1 << 20;

/// Of the model that was loaded last, for a defect.
pub(crate) static LAST_WEIGHTS: AtomicU64 = AtomicU64::new(0);

/// What a load fixes.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) flaw: Flaw,
    pub(crate) weights: u64,
    /// Whether there are tokenizer and chat template.
    pub(crate) has_text: bool,
    pub(crate) context_len: usize,
    pub(crate) slots: usize,
    pub(crate) blocks: usize,
    pub(crate) step_tokens: usize,
    pub(crate) max_queue: usize,
    pub(crate) max_wait: Duration,
    pub(crate) lag_timeout: Duration,
    pub(crate) prefix_cache: bool,
    pub(crate) probe_bus: Option<Arc<ProbeBus>>,
}

impl Settings {
    /// Events that a stream buffers.
    pub(crate) fn capacity(&self) -> usize {
        if self.flaw.is(Defect::Unbounded) { usize::MAX } else { 32 }
    }
}

pub(crate) struct State {
    flaw: Flaw,
    pub(crate) waiting: Vec<Sequence>,
    pub(crate) running: Vec<Sequence>,
    pub(crate) outputs: HashMap<u64, Output>,
    pub(crate) metrics: ModelMetrics,
    /// New requests are refused.
    pub(crate) refusing: bool,
    /// Everything ends.
    pub(crate) closed: bool,
    /// Blocks that nobody gives back.
    pub(crate) leaked: usize,
    /// Blocks of prefixes, by the ids up to their end.
    pub(crate) prefixes: HashMap<Vec<TokenId>, Vec<Kv>>,
    pub(crate) next_id: u64,
}

/// A stream's side of a request.
pub(crate) struct Output {
    pub(crate) events: VecDeque<TokenEvent>,
    pub(crate) waker: Option<Waker>,
    pub(crate) last_read: Instant,
    pub(crate) cancelled: bool,
}

impl State {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            waiting: Vec::new(),
            running: Vec::new(),
            outputs: HashMap::new(),
            metrics: ModelMetrics::default(),
            refusing: false,
            closed: false,
            leaked: 0,
            prefixes: HashMap::new(),
            next_id: 0,
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn count(&mut self) {
        self.metrics.queued = self.waiting.len();
        self.metrics.running = self.running.len();
        let blocks: usize = self.running.iter().map(Sequence::blocks).sum();
        let blocks = blocks + self.leaked;
        self.metrics.kv_blocks_used = blocks;
        self.metrics.active_bytes = WEIGHT_BYTES + (blocks * BLOCK_SIZE) as u64 * KV_BYTES;
        self.metrics.peak_bytes = self.metrics.peak_bytes.max(self.metrics.active_bytes);
    }

    pub(crate) fn deliver(&mut self, id: u64, event: TokenEvent) {
        if let Some(output) = self.outputs.get_mut(&id) {
            output.events.push_back(event);
            if let Some(waker) = output.waker.take().filter(|_| !self.flaw.is(Defect::WakesNobody))
            {
                waker.wake();
            }
        }
    }
}

/// One sequence's share of a step.
pub(crate) struct Work {
    pub(crate) sequence: u64,
    pub(crate) adapter: u64,
    pub(crate) before: Option<Kv>,
    pub(crate) ids: Vec<TokenId>,
    /// The first of `ids` whose logits are wanted.
    pub(crate) first_row: usize,
    pub(crate) kv: Vec<Kv>,
    pub(crate) rows: Vec<Vec<f32>>,
}

impl Work {
    pub(crate) fn compute(&mut self, weights: u64, flaw: Flaw) {
        let decodes = self.before.is_some() && self.ids.len() == 1;
        let chunk = self.before.is_some() && self.ids.len() > 1;
        // A model takes time; so that a step can be interrupted, so does this one.
        std::hint::black_box((0..20_000).fold(weights, |state, _| mix(state)));
        let mut last = self.before.filter(|_| !(chunk && flaw.is(Defect::ChunksForget)));
        for (index, id) in self.ids.iter().enumerate() {
            let kv = step(weights, last, *id);
            self.kv.push(kv);
            if index >= self.first_row {
                let drift = if decodes && flaw.is(Defect::DecodeDrifts) { 0.5 } else { 0.0 };
                self.rows.push(logits(kv).into_iter().map(|logit| logit + drift).collect());
            }
            last = Some(kv);
        }
    }
}
