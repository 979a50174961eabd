//! What a recorder of the `metrics` facade and a `tracing` subscriber see. The
//! recorder belongs to the process, so this file has one of its own.
#![cfg(feature = "test-support")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};

use inference_core::{
    ClassifyOptions, ErrorKind, GenerateOptions, ModelInfo, ModelMetrics, TextModel,
};
use inference_engine::sim_runner::{SimControl, SimRunner, SimSpec};
use inference_engine::{EngineModel, EngineOptions, ModelParts};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

/// Model and reason (or nothing), and the name.
type Series = (String, String, String);

#[derive(Debug, Default)]
struct Seen {
    counters: BTreeMap<Series, u64>,
    gauges: BTreeMap<Series, f64>,
    histograms: BTreeMap<Series, Vec<f64>>,
    described: BTreeMap<String, Option<Unit>>,
}

static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);

struct Memory;

struct Handle(Series);

impl CounterFn for Handle {
    fn increment(&self, value: u64) {
        *SEEN.lock().unwrap().counters.entry(self.0.clone()).or_default() += value;
    }

    fn absolute(&self, _: u64) {
        panic!("counters are only added to");
    }
}

impl GaugeFn for Handle {
    fn increment(&self, _: f64) {
        panic!("gauges are only set");
    }

    fn decrement(&self, _: f64) {
        panic!("gauges are only set");
    }

    fn set(&self, value: f64) {
        SEEN.lock().unwrap().gauges.insert(self.0.clone(), value);
    }
}

impl HistogramFn for Handle {
    fn record(&self, value: f64) {
        SEEN.lock().unwrap().histograms.entry(self.0.clone()).or_default().push(value);
    }
}

fn handle(key: &Key) -> Arc<Handle> {
    let label = |wanted: &str| {
        let label = key.labels().find(|label| label.key() == wanted);
        label.map(|label| label.value().to_owned()).unwrap_or_default()
    };
    assert_eq!(label("backend"), "sim", "{key:?}");
    let model = label("model");
    assert_ne!(model, "unlucky", "a recorder that panics for this one model");
    Arc::new(Handle((model, label("reason"), key.name().to_owned())))
}

impl Recorder for Memory {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        SEEN.lock().unwrap().described.insert(name.as_str().to_owned(), unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        SEEN.lock().unwrap().described.insert(name.as_str().to_owned(), unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        SEEN.lock().unwrap().described.insert(name.as_str().to_owned(), unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(handle(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(handle(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(handle(key))
    }
}

fn model(name: &str, options: EngineOptions) -> (Arc<EngineModel>, SimControl) {
    static RECORDER: LazyLock<()> = LazyLock::new(|| metrics::set_global_recorder(Memory).unwrap());
    LazyLock::force(&RECORDER);
    let (runner, control) = SimRunner::new(SimSpec::default());
    let mut info = ModelInfo::default();
    info.architecture = name.into();
    info.backend = "sim".into();
    (EngineModel::start(Box::new(runner), ModelParts::new(info), options).unwrap(), control)
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions::new().with_max_tokens(max_tokens)
}

#[test]
fn a_recorder_sees_what_the_metrics_say() {
    let (model, control) = model("busy", EngineOptions::new());
    control.set_script(|history| history.last().map(|last| (last + 1) % 10));
    let prompt: Vec<u32> = (0..30).map(|token| token % 10).collect();
    for _ in 0..2 {
        let options = greedy(40).with_prompt_lookup(4);
        model.generate(prompt.clone().into(), options).unwrap().finish().unwrap();
    }
    let late = greedy(5).with_deadline(std::time::Instant::now());
    model.generate(vec![1].into(), late).unwrap().finish().unwrap();
    model.classify(vec![vec![2, 3].into()], &ClassifyOptions::new()).unwrap();
    model.close();
    let metrics: ModelMetrics = model.metrics();
    assert!(metrics.accepted_draft_tokens > 0 && metrics.cached_prompt_tokens > 0, "{metrics:?}");
    let seen = SEEN.lock().unwrap();
    let series = |name: &str| ("busy".to_owned(), String::new(), name.to_owned());
    for (name, expected) in [
        ("inference_requests_total", metrics.requests),
        ("inference_steps_total", metrics.forward_count),
        ("inference_prompt_tokens_total", metrics.prompt_tokens),
        ("inference_cached_prompt_tokens_total", metrics.cached_prompt_tokens),
        ("inference_generated_tokens_total", metrics.generated_tokens),
        ("inference_draft_tokens_total", metrics.draft_tokens),
        ("inference_accepted_draft_tokens_total", metrics.accepted_draft_tokens),
        ("inference_preemptions_total", metrics.preemptions),
    ] {
        let counted = seen.counters.get(&series(name)).copied().unwrap_or(0);
        assert_eq!(counted, expected, "{name}");
        assert_eq!(seen.described.get(name), Some(&Some(Unit::Count)), "{name}");
    }
    for (name, expected) in [
        ("inference_queued_requests", 0.0),
        ("inference_running_sequences", 0.0),
        ("inference_kv_blocks_used", 0.0),
        ("inference_kv_blocks", 512.0),
        ("inference_active_bytes", 0.0),
        ("inference_prefix_hit_ratio", metrics.prefix_hit_rate()),
    ] {
        assert_eq!(seen.gauges.get(&series(name)), Some(&expected), "{name}");
        assert!(seen.described.contains_key(name), "{name}");
    }
    let observed = |name: &str| {
        assert!(seen.described.contains_key(name), "{name}");
        seen.histograms.get(&series(name)).cloned().unwrap_or_default()
    };
    assert_eq!(observed("inference_step_seconds").len() as u64, metrics.forward_count);
    let step_tokens: f64 = observed("inference_step_tokens").iter().sum();
    assert_eq!(step_tokens, metrics.step_tokens as f64);
    assert_eq!(observed("inference_ttft_seconds").len() as u64, metrics.ttft.count());
    assert_eq!(observed("inference_itl_seconds").len() as u64, metrics.itl.count());
    let total: f64 = observed("inference_itl_seconds").iter().sum();
    assert!((total - metrics.itl.sum).abs() < 1e-9);
    for (reason, expected) in [("length", 2), ("deadline", 1), ("complete", 1)] {
        let name = "inference_requests_finished_total".to_owned();
        let counted = seen.counters.get(&("busy".to_owned(), reason.to_owned(), name));
        assert_eq!(counted, Some(&expected), "{reason}");
    }
}

#[test]
fn a_recorder_that_panics_harms_nobody() {
    let (model, _) = model("unlucky", EngineOptions::new());
    for _ in 0..2 {
        let stream = model.generate(vec![1].into(), greedy(5)).unwrap();
        assert_eq!(stream.finish().unwrap().metrics.generated_tokens, 5);
    }
    model.close();
    assert_eq!(model.metrics().finished, 2);
}

/// The fields of every span of a request, by the id of the span.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, BTreeMap<String, String>>>>);

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == "request"
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        let id = spans.len() as u64 + 1;
        attributes.record(&mut Fields(spans.entry(id).or_default()));
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Fields(spans.entry(span.into_u64()).or_default()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_request_is_a_span() {
    let spans = Spans::default();
    tracing::subscriber::with_default(spans.clone(), || {
        let (model, control) = model("traced", EngineOptions::new());
        let prompt: Vec<u32> = (0..9).collect();
        for tokens in [3, 2] {
            model.generate(prompt.clone().into(), greedy(tokens)).unwrap().finish().unwrap();
        }
        let late = greedy(5).with_deadline(std::time::Instant::now());
        model.generate(vec![1].into(), late).unwrap().finish().unwrap();
        control.fail_at(5, inference_engine::sim_runner::SimFault::Panic);
        let failed = model.generate(vec![1].into(), greedy(5)).unwrap().finish();
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Engine);
        model.close();
    });
    let spans = spans.0.lock().unwrap();
    let seen: Vec<Vec<&str>> = spans
        .values()
        .map(|fields| {
            let field = |name: &str| fields.get(name).map_or("", String::as_str);
            ["id", "prompt_tokens", "cached", "generated", "reason"].map(field).to_vec()
        })
        .collect();
    let expected = [
        ["0", "9", "0", "3", "\"length\""],
        ["1", "9", "8", "2", "\"length\""],
        ["2", "1", "", "", "\"deadline\""],
        ["3", "1", "0", "0", "\"error\""],
    ];
    assert_eq!(seen, expected);
}
