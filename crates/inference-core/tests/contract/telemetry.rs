//! What the telemetry sink tells `tracing`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inference_core::FinishReason;
use inference_core::probe::{Phase, ProbeEvent, ProbeRecord, ProbeSink, RequestId, TelemetrySink};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// An event's fields as text, by name.
type Fields = BTreeMap<String, String>;

/// Keeps events; `inference-core` opens no spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Fields>>>);

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        assert_eq!(event.metadata().target(), "inference::probe");
        assert_eq!(*event.metadata().level(), Level::DEBUG);
        let mut visitor = Visitor(Fields::new());
        event.record(&mut visitor);
        self.0.lock().unwrap().push(visitor.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn every_event_arrives_with_its_circumstances() {
    let sizes = |len: usize| -> Arc<[f32]> { vec![0.0; len].into() };
    let cases = [
        (
            ProbeEvent::Token { id: 7, text: "é".to_owned(), index: 3 },
            "token",
            vec![("id", "7"), ("index", "3"), ("text", "\"é\"")],
        ),
        (
            ProbeEvent::Logits { index: 1, values: sizes(5) },
            "logits",
            vec![("index", "1"), ("len", "5")],
        ),
        (
            ProbeEvent::Attention { layer: 2, queries: sizes(4), keys: sizes(2) },
            "attention",
            vec![("layer", "2"), ("queries", "4"), ("keys", "2")],
        ),
        (
            ProbeEvent::CachePressure { used: 1, total: 2, waiting: 3 },
            "cache pressure",
            vec![("used", "1"), ("total", "2"), ("waiting", "3")],
        ),
        (
            ProbeEvent::MemoryPressure { active_bytes: 1, peak_bytes: 2 },
            "memory pressure",
            vec![("active_bytes", "1"), ("peak_bytes", "2")],
        ),
        (
            ProbeEvent::Training { step: 4, loss: 0.5, learning_rate: 0.25, gradient_norm: 2.0 },
            "training",
            vec![("step", "4"), ("loss", "0.5"), ("learning_rate", "0.25")],
        ),
        (
            ProbeEvent::Admitted { prompt_tokens: 5, cached_tokens: 4 },
            "admitted",
            vec![("prompt_tokens", "5"), ("cached_tokens", "4")],
        ),
        (ProbeEvent::Preempted { computed: 3 }, "preempted", vec![("computed", "3")]),
        (ProbeEvent::Ended { reason: None }, "ended", vec![("reason", "\"error\"")]),
        (
            ProbeEvent::Ended { reason: Some(FinishReason::Length) },
            "ended",
            vec![("reason", "\"length\"")],
        ),
        (
            ProbeEvent::Step {
                sequences: 1,
                tokens: 2,
                queued: 3,
                duration: Duration::from_millis(4),
            },
            "step",
            vec![("sequences", "1"), ("tokens", "2"), ("queued", "3"), ("duration", "4ms")],
        ),
    ];
    let collector = Collector::default();
    tracing::subscriber::with_default(collector.clone(), || {
        for (event, ..) in &cases {
            let (at, request) = (Duration::from_micros(8), Some(RequestId(9)));
            let record = ProbeRecord::new(at, request, Phase::Prefill, event.clone());
            TelemetrySink::new().record(&record);
        }
    });
    let events = collector.0.lock().unwrap();
    assert_eq!(events.len(), cases.len());
    for (event, (_, name, fields)) in events.iter().zip(&cases) {
        let common =
            [("message", *name), ("at_us", "8"), ("request", "9"), ("phase", "\"prefill\"")];
        for (field, value) in common.iter().chain(fields) {
            assert_eq!(event.get(*field).map(String::as_str), Some(*value), "{name}: {field}");
        }
    }
}
