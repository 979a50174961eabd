//! Metrics and probes.

use std::sync::Mutex;

use inference_core::probe::{
    Interest, Phase, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink,
};
use inference_core::{FinishReason, ModelMetrics};

use super::*;

#[test]
fn a_request_reports_what_it_cost() {
    let (model, control) =
        model(SimSpec::default(), EngineOptions::new().with_step_token_budget(8));
    control.set_delay(Duration::from_millis(3));
    let stream = model.generate(vec![1; 20].into(), greedy(5)).unwrap();
    let metrics = stream.finish().unwrap().metrics;
    assert_eq!((metrics.prompt_tokens, metrics.generated_tokens), (20, 5));
    assert_eq!(metrics.cached_prompt_tokens, 0);
    assert!(metrics.prefill_time >= Duration::from_millis(9), "{metrics:?}");
    assert!(metrics.decode_time >= Duration::from_millis(12), "{metrics:?}");
    let ttft = metrics.ttft.unwrap();
    assert!(ttft >= metrics.prefill_time);
    assert!(metrics.total_time >= ttft + metrics.decode_time);
    // 24 positions in blocks of 4, and the largest step had 8 tokens.
    assert_eq!(metrics.peak_bytes, 1000 + 6 * 10 + 8);
    assert_eq!(metrics.active_bytes, 1000 + 6 * 10 + 8);
    assert!(metrics.prefill_tokens_per_sec() > 0.0);
}

#[test]
fn a_waiting_request_counts_its_queue_time() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(1));
    control.set_delay(Duration::from_millis(5));
    let mut first = model.generate(vec![1].into(), greedy(5)).unwrap();
    first.start();
    assert!(control.wait_for(1));
    let metrics = model.generate(vec![2].into(), greedy(1)).unwrap().finish().unwrap().metrics;
    assert!(metrics.queue_time >= Duration::from_millis(15), "{metrics:?}");
    assert_eq!(metrics.decode_time, Duration::ZERO);
}

#[test]
fn totals_add_up() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    generate(&model, &[1, 2, 3], greedy(4));
    generate(&model, &[1], greedy(2));
    let metrics = model.metrics();
    assert_eq!((metrics.ttft.count(), metrics.itl.count()), (2, 4));
    let mut expected = ModelMetrics::default();
    (expected.ttft, expected.itl) = (metrics.ttft, metrics.itl);
    expected.requests = 2;
    expected.finished = 2;
    expected.forward_count = 6;
    // The last token of each is not computed.
    expected.step_tokens = 8;
    expected.prompt_tokens = 4;
    expected.generated_tokens = 6;
    expected.kv_blocks_total = 512;
    expected.kv_bytes_total = 5120;
    expected.active_bytes = 1003;
    expected.peak_bytes = 1000 + 2 * 10 + 3;
    assert_eq!(metrics, expected);
}

pub(super) struct Recorder(pub(super) Interest, pub(super) Arc<Mutex<Vec<ProbeRecord>>>);

impl ProbeSink for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn interest(&self) -> Interest {
        self.0
    }

    fn record(&mut self, record: &ProbeRecord) {
        self.1.lock().unwrap().push(record.clone());
    }
}

/// A model with a sink, and what the sink saw.
fn probed(
    interest: Interest,
    spec: SimSpec,
) -> (Arc<EngineModel>, Arc<ProbeBus>, Arc<Mutex<Vec<ProbeRecord>>>) {
    let records = Arc::new(Mutex::new(Vec::new()));
    let bus = Arc::new(ProbeBus::new(vec![Box::new(Recorder(interest, Arc::clone(&records)))]));
    let options = EngineOptions::new().with_probe_bus(Arc::clone(&bus));
    let (model, _) = model(spec, options);
    (model, bus, records)
}

#[test]
fn probes_see_what_happened() {
    let (model, bus, records) = probed(Interest::ALL, SimSpec::default().with_attention(true));
    let mut stream = model.generate(vec![1, 2].into(), greedy(3)).unwrap();
    let tokens = ids(&read(&mut stream));
    model.as_attention_inspector().unwrap().inspect_attention(vec![7].into()).unwrap();
    bus.flush();
    let records = records.lock().unwrap();
    let of = |kind| records.iter().filter(move |record| record.event.kind() == kind);
    let mut history = vec![1, 2];
    let seen: Vec<_> = of(ProbeKind::Logits).zip(of(ProbeKind::Token)).collect();
    assert_eq!(seen.len(), 3);
    for (step, (logits, token)) in seen.into_iter().enumerate() {
        assert_eq!(logits.request, token.request);
        assert!(token.request.is_some());
        let ProbeEvent::Logits { index, values } = &logits.event else { panic!("{logits:?}") };
        assert_eq!((*index, &values[..]), (step, &SimRunner::expected_logits(64, &history)[..]));
        let ProbeEvent::Token { id, index, .. } = token.event else { panic!("{token:?}") };
        assert_eq!((index, id), (step, tokens[step]));
        history.push(id);
    }
    let scheduler: Vec<&ProbeEvent> = of(ProbeKind::Scheduler).map(|r| &r.event).collect();
    assert!(matches!(scheduler[0], ProbeEvent::Admitted { prompt_tokens: 2, .. }));
    assert!(matches!(scheduler[1], ProbeEvent::Step { sequences: 1, tokens: 2, queued: 0, .. }));
    let Some(ProbeEvent::Ended { reason }) = scheduler.last() else { panic!("{scheduler:?}") };
    assert_eq!(*reason, Some(FinishReason::Length));
    assert_eq!(of(ProbeKind::Attention).count(), 1);
    assert!(of(ProbeKind::MemoryPressure).count() >= 1);
}

#[test]
fn probes_see_that_blocks_run_short() {
    let spec = SimSpec::default().with_context_len(32).with_blocks(4, 8);
    let (model, bus, records) = probed(ProbeKind::CachePressure.into(), spec);
    let items = (0..2).map(|i| inference_core::BatchItem::new(vec![i]).with_options(greedy(30)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    assert!(outputs.iter().all(Result::is_ok));
    bus.flush();
    let records = records.lock().unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].phase, Phase::Queued);
    assert!(matches!(records[0].event, ProbeEvent::CachePressure { total: 8, waiting: 1, .. }));
}
