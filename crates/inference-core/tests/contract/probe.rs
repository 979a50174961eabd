//! The probe bus and its sinks.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inference_core::probe::{
    Interest, JsonLinesSink, LogitSink, Phase, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord,
    ProbeSink, RequestId, TelemetrySink,
};
use inference_core::{FinishReason, LoadOptions};
use serde_json::{Value, json};

fn admitted(prompt_tokens: usize) -> ProbeEvent {
    ProbeEvent::Admitted { prompt_tokens, cached_tokens: 0 }
}

/// Records what it is told, each time when the gate lets it.
struct Gated {
    gate: Receiver<()>,
    taken: Arc<Mutex<Vec<usize>>>,
    flushes: Arc<AtomicUsize>,
}

impl ProbeSink for Gated {
    fn name(&self) -> &str {
        "gated"
    }

    fn interest(&self) -> Interest {
        ProbeKind::Scheduler.into()
    }

    fn record(&mut self, record: &ProbeRecord) {
        // A closed gate stands open.
        let _ = self.gate.recv();
        if let ProbeEvent::Admitted { prompt_tokens, .. } = record.event {
            self.taken.lock().unwrap().push(prompt_tokens);
        }
    }

    fn flush(&mut self) {
        self.flushes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gated {
    #[expect(clippy::type_complexity)]
    fn new() -> (Self, Sender<()>, Arc<Mutex<Vec<usize>>>, Arc<AtomicUsize>) {
        let (open, gate) = channel();
        let (taken, flushes) = (Arc::<Mutex<_>>::default(), Arc::<AtomicUsize>::default());
        let sink = Self { gate, taken: Arc::clone(&taken), flushes: Arc::clone(&flushes) };
        (sink, open, taken, flushes)
    }
}

struct Panics;

impl ProbeSink for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn interest(&self) -> Interest {
        Interest::from(ProbeKind::Token) | ProbeKind::Scheduler
    }

    fn record(&mut self, _: &ProbeRecord) {
        panic!("a sink of no use");
    }
}

#[test]
fn a_stuck_sink_does_not_block_and_what_it_misses_is_counted() {
    let (sink, open, taken, _) = Gated::new();
    let bus = ProbeBus::with_queue(vec![Box::new(sink)], 4);
    // The sink takes at most one event and waits; four more fit the queue.
    // Were `emit` to wait for room, this would never end.
    for n in 0..100 {
        bus.emit(None, Phase::Queued, admitted(n));
    }
    let dropped = bus.stats()[0].dropped;
    assert!((95..=96).contains(&dropped), "{dropped}");
    drop(open);
    bus.flush();
    let taken = taken.lock().unwrap();
    assert_eq!(taken.len() as u64 + dropped, 100);
    assert_eq!(taken[..4], [0, 1, 2, 3]);
    assert!(!bus.stats()[0].panicked);
}

#[test]
fn a_panicking_sink_is_switched_off_and_the_others_go_on() {
    let (sink, open, taken, _) = Gated::new();
    drop(open);
    let bus = ProbeBus::new(vec![Box::new(Panics), Box::new(sink)]);
    assert!(bus.wants(ProbeKind::Token) && bus.wants(ProbeKind::Scheduler));
    bus.emit(None, Phase::Queued, admitted(1));
    bus.flush();
    assert!(bus.stats()[0].panicked && !bus.stats()[1].panicked);
    // Only the panicked sink wanted tokens.
    assert!(!bus.wants(ProbeKind::Token) && bus.wants(ProbeKind::Scheduler));
    bus.emit(None, Phase::Queued, admitted(2));
    bus.flush();
    assert_eq!(*taken.lock().unwrap(), [1, 2]);
}

#[test]
fn nobody_wants_what_nobody_asked_for() {
    let silent = ProbeBus::new(vec![]);
    assert!(ProbeKind::ALL.iter().all(|kind| !silent.wants(*kind)));
    silent.emit(None, Phase::Idle, admitted(1));
    silent.flush();
    assert!(silent.stats().is_empty());

    let bus = ProbeBus::new(vec![
        Box::new(LogitSink::new(1)),
        Box::new(TelemetrySink::with_interest(ProbeKind::Training.into())),
    ]);
    for kind in ProbeKind::ALL {
        let wanted = matches!(kind, ProbeKind::Logits | ProbeKind::Training);
        assert_eq!(bus.wants(kind), wanted, "{kind:?}");
    }
}

#[test]
fn a_flush_reaches_the_sink_and_so_does_the_end_of_the_bus() {
    let (sink, open, taken, flushes) = Gated::new();
    drop(open);
    let bus = ProbeBus::new(vec![Box::new(sink)]);
    bus.emit(None, Phase::Queued, admitted(1));
    bus.flush();
    assert_eq!((taken.lock().unwrap().len(), flushes.load(Ordering::SeqCst)), (1, 1));
    bus.emit(None, Phase::Queued, admitted(2));
    drop(bus);
    assert_eq!((taken.lock().unwrap().len(), flushes.load(Ordering::SeqCst)), (2, 2));
}

/// Lets go of the bus from within.
struct Holds(Arc<Mutex<Option<Arc<ProbeBus>>>>, Sender<()>);

impl ProbeSink for Holds {
    fn name(&self) -> &str {
        "holds"
    }

    fn interest(&self) -> Interest {
        ProbeKind::Scheduler.into()
    }

    fn record(&mut self, _: &ProbeRecord) {
        while Arc::strong_count(self.0.lock().unwrap().as_ref().unwrap()) > 1 {
            std::thread::yield_now();
        }
        let last = self.0.lock().unwrap().take();
        drop(last);
        self.1.send(()).unwrap();
    }
}

#[test]
fn a_sink_may_hold_the_last_reference_to_its_bus() {
    let slot = Arc::new(Mutex::new(None));
    let (done, wait) = channel();
    let bus = Arc::new(ProbeBus::new(vec![Box::new(Holds(Arc::clone(&slot), done))]));
    *slot.lock().unwrap() = Some(Arc::clone(&bus));
    bus.emit(None, Phase::Queued, admitted(1));
    drop(bus);
    wait.recv_timeout(Duration::from_secs(60)).unwrap();
}

#[test]
fn the_logit_sink_keeps_the_last_positions() {
    let sink = LogitSink::new(2);
    let bus = ProbeBus::new(vec![Box::new(sink.clone())]);
    for index in 0..3 {
        let values = Arc::from([index as f32, 0.5]);
        let event = ProbeEvent::Logits { index, values };
        bus.emit(Some(RequestId(9)), Phase::Decode, event);
    }
    bus.flush();
    let kept = sink.take();
    let indices: Vec<_> = kept.iter().map(|record| (record.index, record.values[0])).collect();
    assert_eq!(indices, [(1, 1.0), (2, 2.0)]);
    assert_eq!(kept[0].request, Some(RequestId(9)));
    assert!(sink.take().is_empty());
}

/// A writer that keeps what it got, and fails after so many bytes.
#[derive(Clone)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl Shared {
    fn new(room: usize) -> Self {
        Self { bytes: Arc::default(), room }
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.lock().unwrap();
        if all.len() + bytes.len() > self.room {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"));
        }
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn json_lines_has_every_event_with_its_fields() {
    let values: Arc<[f32]> = Arc::from([0.5, f32::NAN, f32::NEG_INFINITY]);
    let cases = [
        (
            ProbeEvent::Token { id: 7, text: "\"a\"\n\u{1}é😀".to_owned(), index: 3 },
            json!({"event": "token", "id": 7, "text": "\"a\"\n\u{1}é😀", "index": 3}),
        ),
        (
            ProbeEvent::Logits { index: 1, values: Arc::clone(&values) },
            json!({"event": "logits", "index": 1, "values": [0.5, null, null]}),
        ),
        (
            ProbeEvent::Attention { layer: 2, queries: Arc::clone(&values), keys: [].into() },
            json!({"event": "attention", "layer": 2, "queries": [0.5, null, null], "keys": []}),
        ),
        (
            ProbeEvent::CachePressure { used: 1, total: 2, waiting: 3 },
            json!({"event": "cache_pressure", "used": 1, "total": 2, "waiting": 3}),
        ),
        (
            ProbeEvent::MemoryPressure { active_bytes: 1, peak_bytes: u64::MAX },
            json!({"event": "memory_pressure", "active_bytes": 1, "peak_bytes": u64::MAX}),
        ),
        (
            ProbeEvent::Training {
                step: 4,
                loss: 0.25,
                learning_rate: 1e-4,
                gradient_norm: f64::INFINITY,
            },
            json!({
                "event": "training", "step": 4, "loss": 0.25, "learning_rate": 1e-4,
                "gradient_norm": null,
            }),
        ),
        (admitted(5), json!({"event": "admitted", "prompt_tokens": 5, "cached_tokens": 0})),
        (ProbeEvent::Preempted { computed: 3 }, json!({"event": "preempted", "computed": 3})),
        (ProbeEvent::Ended { reason: None }, json!({"event": "ended", "reason": "error"})),
        (
            ProbeEvent::Ended { reason: Some(FinishReason::StopToken(2)) },
            json!({"event": "ended", "reason": "stop_token", "stop_token": 2}),
        ),
        (
            ProbeEvent::Ended { reason: Some(FinishReason::StopString("\n".to_owned())) },
            json!({"event": "ended", "reason": "stop_string", "stop_string": "\n"}),
        ),
        (
            ProbeEvent::Step {
                sequences: 1,
                tokens: 2,
                queued: 3,
                duration: Duration::from_millis(4),
            },
            json!({
                "event": "step", "sequences": 1, "tokens": 2, "queued": 3, "duration_us": 4000,
            }),
        ),
    ];
    let output = Shared::new(usize::MAX);
    let mut sink = JsonLinesSink::with_interest(output.clone(), Interest::ALL);
    for (index, (event, _)) in cases.iter().enumerate() {
        let request = (index > 0).then_some(RequestId(index as u64));
        let at = Duration::from_micros(index as u64);
        sink.record(&ProbeRecord::new(at, request, Phase::Decode, event.clone()));
    }
    assert!(output.bytes.lock().unwrap().is_empty(), "written in blocks");
    sink.flush();
    let text = String::from_utf8(output.bytes.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), cases.len());
    for (index, (line, (_, expected))) in text.lines().zip(&cases).enumerate() {
        let mut line: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
        assert_eq!(line.remove("at_us"), Some(json!(index)));
        let request = if index > 0 { json!(index) } else { Value::Null };
        assert_eq!(line.remove("request"), Some(request));
        assert_eq!(line.remove("phase"), Some(json!("decode")));
        assert_eq!(json!(line), *expected);
    }
}

#[test]
fn json_lines_survives_a_writer_that_fails_and_counts_what_is_lost() {
    let output = Shared::new(100);
    let sink = JsonLinesSink::new(output.clone());
    let errors = sink.errors();
    let bus = ProbeBus::new(vec![Box::new(sink)]);
    let emit = |n| bus.emit(None, Phase::Queued, admitted(n));
    emit(1);
    bus.flush();
    assert_eq!((errors.lost(), errors.message()), (0, None));
    // Two lines do not fit the rest.
    emit(2);
    emit(3);
    bus.flush();
    assert_eq!((errors.lost(), errors.message().as_deref()), (2, Some("no space left")));
    emit(4);
    bus.flush();
    assert_eq!(errors.lost(), 3);
    drop(bus);
    let text = String::from_utf8(output.bytes.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn json_lines_writes_what_is_left_when_the_bus_ends() {
    let output = Shared::new(usize::MAX);
    let bus = ProbeBus::new(vec![Box::new(JsonLinesSink::new(output.clone()))]);
    bus.emit(None, Phase::Queued, admitted(1));
    bus.emit(None, Phase::Decode, ProbeEvent::Logits { index: 0, values: [1.0].into() });
    drop(bus);
    let text = String::from_utf8(output.bytes.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "logits were not asked for: {text}");
}

#[test]
fn a_model_reports_to_the_bus_of_its_load() {
    use inference_core::doc::EchoBackend;
    use inference_core::{Backend, GenerateOptions};

    let output = Shared::new(usize::MAX);
    let bus = Arc::new(ProbeBus::new(vec![Box::new(JsonLinesSink::new(output.clone()))]));
    let options = LoadOptions::new().with_probe_bus(Arc::clone(&bus));
    let model = EchoBackend.load_model(&"echo".into(), &options).unwrap();
    model.generate("añ".into(), GenerateOptions::new()).unwrap().finish().unwrap();
    bus.flush();
    let text = String::from_utf8(output.bytes.lock().unwrap().clone()).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].clone();
    assert_eq!(text.lines().map(line).collect::<Vec<_>>(), [json!("a"), json!("ñ")]);
}
