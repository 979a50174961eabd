//! Events as `tracing` events.

use super::{Interest, ProbeEvent, ProbeRecord, ProbeSink};

/// Writes events to `tracing`, target `inference::probe`, level `DEBUG`.
#[derive(Clone, Copy, Debug)]
pub struct TelemetrySink {
    interest: Interest,
}

impl Default for TelemetrySink {
    fn default() -> Self {
        Self { interest: Interest::CHEAP }
    }
}

impl TelemetrySink {
    /// A sink for everything but logits and attention.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink for these kinds. Of logits and attention it reports sizes.
    #[must_use]
    pub fn with_interest(interest: Interest) -> Self {
        Self { interest }
    }
}

impl ProbeSink for TelemetrySink {
    fn name(&self) -> &str {
        "telemetry"
    }

    fn interest(&self) -> Interest {
        self.interest
    }

    fn record(&mut self, record: &ProbeRecord) {
        let at_us = u64::try_from(record.at.as_micros()).unwrap_or(u64::MAX);
        let request = record.request.map(|id| id.0);
        let phase = record.phase.as_str();
        macro_rules! event {
            ($name:literal $(, $($fields:tt)*)?) => {
                tracing::debug!(
                    target: "inference::probe", at_us, request, phase, $($($fields)*,)? $name
                )
            };
        }
        match &record.event {
            ProbeEvent::Token { id, text, index } => event!("token", id, index, text),
            ProbeEvent::Logits { index, values } => event!("logits", index, len = values.len()),
            ProbeEvent::Attention { layer, queries, keys } => {
                event!("attention", layer, queries = queries.len(), keys = keys.len());
            }
            ProbeEvent::CachePressure { used, total, waiting } => {
                event!("cache pressure", used, total, waiting);
            }
            ProbeEvent::MemoryPressure { active_bytes, peak_bytes } => {
                event!("memory pressure", active_bytes, peak_bytes);
            }
            ProbeEvent::Training { step, loss, learning_rate, gradient_norm } => {
                event!("training", step, loss, learning_rate, gradient_norm);
            }
            ProbeEvent::Admitted { prompt_tokens, cached_tokens } => {
                event!("admitted", prompt_tokens, cached_tokens);
            }
            ProbeEvent::Preempted { computed } => event!("preempted", computed),
            ProbeEvent::Ended { reason } => {
                event!("ended", reason = reason.as_ref().map_or("error", |reason| reason.name()));
            }
            ProbeEvent::Step { sequences, tokens, queued, duration } => {
                event!("step", sequences, tokens, queued, ?duration);
            }
        }
    }
}
