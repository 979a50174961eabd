//! Logits, kept in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Interest, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink, RequestId};

/// The logits of one generated position.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogitRecord {
    /// The request.
    pub request: Option<RequestId>,
    /// The index of the generated token, from 0.
    pub index: usize,
    /// Unprocessed, `[vocab]`.
    pub values: Arc<[f32]>,
}

/// Keeps the logits of the last positions; clones share them.
///
/// ```
/// use inference_core::probe::{LogitSink, ProbeBus};
///
/// let sink = LogitSink::new(100);
/// let bus = ProbeBus::new(vec![Box::new(sink.clone())]);
/// // … generate with this bus in the load options …
/// bus.flush();
/// assert!(sink.take().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct LogitSink {
    records: Arc<Mutex<VecDeque<LogitRecord>>>,
    capacity: usize,
}

impl LogitSink {
    /// A sink that keeps the last `capacity` positions (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { records: Arc::default(), capacity: capacity.max(1) }
    }

    /// Takes what was kept, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<LogitRecord> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.drain(..).collect()
    }
}

impl ProbeSink for LogitSink {
    fn name(&self) -> &str {
        "logits"
    }

    fn interest(&self) -> Interest {
        ProbeKind::Logits.into()
    }

    fn record(&mut self, record: &ProbeRecord) {
        let ProbeEvent::Logits { index, values } = &record.event else { return };
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == self.capacity {
            records.pop_front();
        }
        let (request, index, values) = (record.request, *index, Arc::clone(values));
        records.push_back(LogitRecord { request, index, values });
    }
}
