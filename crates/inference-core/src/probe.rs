//! Watching the engine at work: events, sinks and the bus between them.
//!
//! A [`ProbeSink`] states the kinds of event it is interested in; what nobody
//! asked for is neither computed nor copied. The [`ProbeBus`] gives each sink a
//! bounded queue and a thread of its own, so that a slow sink loses events
//! (counted) and a panicking one is switched off, and neither delays the
//! engine.
//!
//! A bus goes into the load options of one model or of several
//! ([`LoadOptions::with_probe_bus`](crate::LoadOptions::with_probe_bus)). Three
//! sinks are here: [`TelemetrySink`] for `tracing`, [`LogitSink`] for logits in
//! memory, [`JsonLinesSink`] for a file or pipe.
//!
//! ```
//! use std::sync::Arc;
//! use inference_core::doc::EchoBackend;
//! use inference_core::probe::{JsonLinesSink, TelemetrySink};
//! use inference_core::{Backend, GenerateOptions, LoadOptions, ProbeBus};
//!
//! let bus = Arc::new(ProbeBus::new(vec![
//!     Box::new(TelemetrySink::new()),
//!     Box::new(JsonLinesSink::new(std::io::sink())),
//! ]));
//! let options = LoadOptions::new().with_probe_bus(Arc::clone(&bus));
//! let model = EchoBackend.load_model(&"echo".into(), &options)?;
//! model.generate("hello".into(), GenerateOptions::new())?.finish()?;
//! bus.flush();
//! assert!(bus.stats().iter().all(|sink| sink.dropped == 0 && !sink.panicked));
//! # Ok::<(), inference_core::Error>(())
//! ```

mod bus;
mod json;
mod json_lines_sink;
mod logit_sink;
mod telemetry_sink;

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

pub use bus::{ProbeBus, SinkStats};
pub use json_lines_sink::{JsonLinesSink, WriteErrors};
pub use logit_sink::{LogitRecord, LogitSink};
pub use telemetry_sink::TelemetrySink;

use crate::{FinishReason, TokenId};

/// Identifies a request within its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProbeKind {
    /// A token was generated.
    Token,
    /// The logits of a generated position.
    Logits,
    /// Post-rotary queries and keys of a layer.
    Attention,
    /// The KV pool ran short.
    CachePressure,
    /// Memory in use changed.
    MemoryPressure,
    /// A training step ended.
    Training,
    /// The scheduler admitted, ended or stepped.
    Scheduler,
}

impl ProbeKind {
    /// Every kind.
    pub const ALL: [ProbeKind; 7] = [
        Self::Token,
        Self::Logits,
        Self::Attention,
        Self::CachePressure,
        Self::MemoryPressure,
        Self::Training,
        Self::Scheduler,
    ];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Logits => "logits",
            Self::Attention => "attention",
            Self::CachePressure => "cache_pressure",
            Self::MemoryPressure => "memory_pressure",
            Self::Training => "training",
            Self::Scheduler => "scheduler",
        }
    }
}

/// A set of [`ProbeKind`]s.
///
/// ```
/// use inference_core::probe::{Interest, ProbeKind};
///
/// let interest = Interest::from(ProbeKind::Token) | ProbeKind::Scheduler;
/// assert!(interest.contains(ProbeKind::Token));
/// assert!(!interest.contains(ProbeKind::Logits));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest(u32);

impl Interest {
    /// No kind.
    pub const NONE: Interest = Interest(0);

    /// Every kind but the expensive ones ([`Logits`](ProbeKind::Logits) and
    /// [`Attention`](ProbeKind::Attention)).
    pub const CHEAP: Interest = Interest(
        !((1 << ProbeKind::Logits as u32) | (1 << ProbeKind::Attention as u32))
            & ((1 << ProbeKind::ALL.len()) - 1),
    );

    /// Every kind.
    pub const ALL: Interest = Interest((1 << ProbeKind::ALL.len()) - 1);

    /// Whether the set holds `kind`.
    #[must_use]
    pub fn contains(self, kind: ProbeKind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }
}

impl From<ProbeKind> for Interest {
    fn from(kind: ProbeKind) -> Self {
        Self(1 << kind as u32)
    }
}

impl<T: Into<Interest>> BitOr<T> for Interest {
    type Output = Interest;

    fn bitor(self, other: T) -> Interest {
        Interest(self.0 | other.into().0)
    }
}

/// What a request was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a slot.
    Queued,
    /// Computing the prompt.
    Prefill,
    /// Generating.
    Decode,
    /// Training.
    Training,
    /// Outside of any request.
    Idle,
}

impl Phase {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Training => "training",
            Self::Idle => "idle",
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProbeEvent {
    /// A token was generated.
    Token {
        /// Its id.
        id: TokenId,
        /// The text that became complete with it.
        text: String,
        /// Its index among the generated tokens, from 0.
        index: usize,
    },
    /// The logits that a generated position was sampled from.
    Logits {
        /// The index of the generated token, from 0.
        index: usize,
        /// Unprocessed, `[vocab]`.
        values: Arc<[f32]>,
    },
    /// Post-rotary queries and keys of one layer, row-major
    /// `[heads, tokens, head_dim]`.
    Attention {
        /// The layer.
        layer: usize,
        /// Queries.
        queries: Arc<[f32]>,
        /// Keys.
        keys: Arc<[f32]>,
    },
    /// The KV pool ran short.
    CachePressure {
        /// Blocks in use.
        used: usize,
        /// Blocks in the pool.
        total: usize,
        /// Sequences that wait for blocks.
        waiting: usize,
    },
    /// Memory in use changed.
    MemoryPressure {
        /// Bytes held now.
        active_bytes: u64,
        /// The most so far.
        peak_bytes: u64,
    },
    /// A training step ended.
    Training {
        /// The step, from 0.
        step: u64,
        /// Mean loss in nats per target token.
        loss: f32,
        /// Learning rate.
        learning_rate: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f64,
    },
    /// A request entered a slot.
    Admitted {
        /// Tokens of its prompt.
        prompt_tokens: usize,
        /// Tokens whose keys and values the prefix cache had.
        cached_tokens: usize,
    },
    /// A sequence gave its KV blocks to others and waits to be computed again.
    Preempted {
        /// Tokens whose keys and values it had.
        computed: usize,
    },
    /// A request ended.
    Ended {
        /// Why; `None` for an error.
        reason: Option<FinishReason>,
    },
    /// One forward pass ran.
    Step {
        /// Sequences in it.
        sequences: usize,
        /// Tokens in it.
        tokens: usize,
        /// Requests that wait for a slot.
        queued: usize,
        /// How long it took.
        duration: Duration,
    },
}

impl ProbeEvent {
    /// The kind, which decides who gets it.
    #[must_use]
    pub fn kind(&self) -> ProbeKind {
        match self {
            Self::Token { .. } => ProbeKind::Token,
            Self::Logits { .. } => ProbeKind::Logits,
            Self::Attention { .. } => ProbeKind::Attention,
            Self::CachePressure { .. } => ProbeKind::CachePressure,
            Self::MemoryPressure { .. } => ProbeKind::MemoryPressure,
            Self::Training { .. } => ProbeKind::Training,
            Self::Admitted { .. }
            | Self::Preempted { .. }
            | Self::Ended { .. }
            | Self::Step { .. } => ProbeKind::Scheduler,
        }
    }

    /// The stable name: that of the kind, but for the scheduler's events
    /// `admitted`, `preempted`, `ended` and `step`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Admitted { .. } => "admitted",
            Self::Preempted { .. } => "preempted",
            Self::Ended { .. } => "ended",
            Self::Step { .. } => "step",
            _ => self.kind().as_str(),
        }
    }
}

/// An event with its circumstances.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeRecord {
    /// When, counted from the creation of the bus.
    pub at: Duration,
    /// The request, where it concerns one.
    pub request: Option<RequestId>,
    /// What the request was doing.
    pub phase: Phase,
    /// What happened.
    pub event: ProbeEvent,
}

impl ProbeRecord {
    /// A record. The bus makes them; by hand they serve tests of sinks.
    #[must_use]
    pub fn new(at: Duration, request: Option<RequestId>, phase: Phase, event: ProbeEvent) -> Self {
        Self { at, request, phase, event }
    }
}

/// Receives events, on a thread of its own.
pub trait ProbeSink: Send {
    /// A name for reports.
    fn name(&self) -> &str;

    /// The kinds it wants. Asked once, when the bus is made.
    fn interest(&self) -> Interest;

    /// Takes one event. May block: the queue in front of it is bounded, and
    /// what does not fit is dropped and counted. If it panics it is called no
    /// more.
    fn record(&mut self, record: &ProbeRecord);

    /// Writes out what it buffers; called when the bus is flushed or dropped.
    fn flush(&mut self) {}
}
