//! Who gives way when blocks run out.

use std::sync::Mutex;

use inference_core::probe::{Interest, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord};
use inference_core::{BatchItem, CancelToken, FinishReason, LogitRows};

use super::reporting::Recorder;
use super::sharing::expected;
use super::*;

/// A pool that holds one sequence of 32 tokens.
fn tight() -> SimSpec {
    SimSpec::default().with_context_len(32).with_blocks(4, 8)
}

fn both_kinds() -> [SimSpec; 2] {
    [tight(), tight().with_shared_blocks(false)]
}

#[test]
fn the_preempted_go_on_where_they_were() {
    for spec in both_kinds() {
        let (model, _) = model(spec, EngineOptions::new().with_step_token_budget(8));
        // Some come to the end of a block before those that are better.
        let prompt = |i: TokenId| vec![i; 2 + i as usize % 3];
        let items = (0..6).map(|i| BatchItem::new(prompt(i)).with_options(greedy(28)));
        let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
        let mut preempted = 0;
        for (i, output) in (0..).zip(outputs) {
            let output = output.unwrap();
            assert_eq!(ids(&output.tokens), expected(&prompt(i), 28));
            let metrics = output.completion.metrics;
            assert!(i > 0 || metrics.preemptions == 0, "the best is not preempted");
            assert_eq!(metrics.cached_prompt_tokens, 0, "it was not cached when it first came");
            preempted += u64::from(metrics.preemptions);
        }
        let metrics = model.metrics();
        assert!(preempted > 0);
        assert_eq!(metrics.preemptions, preempted);
        assert_eq!((metrics.prompt_tokens, metrics.generated_tokens), (18, 6 * 28), "each once");
        assert!(metrics.step_tokens > 18 + 6 * 27, "some were computed again");
        assert_idle(&model);
    }
}

/// A block may hold a whole sequence. One that runs then has all that it can
/// need, and nothing is left unused for its sake.
#[test]
fn blocks_of_whole_sequences_are_all_used() {
    for shares in [true, false] {
        let spec = SimSpec::default().with_context_len(16).with_blocks(16, 3);
        let (model, control) = model(spec.with_shared_blocks(shares), EngineOptions::new());
        let items = (0..3).map(|i| BatchItem::new(vec![i; 3]).with_options(greedy(6)));
        for output in model.batch_generate(items.collect()).unwrap().collect_all() {
            assert_eq!(output.unwrap().tokens.len(), 6);
        }
        let widest = control.batches().iter().map(|batch| batch.sequences.len()).max();
        assert_eq!(widest, Some(3));
        assert_eq!(model.metrics().preemptions, 0);
        assert_idle(&model);
    }
}

/// The best that is left advances in each step, so all are done after as many
/// steps as they would take one after the other, each computed again once.
#[test]
fn somebody_always_advances() {
    for spec in both_kinds() {
        for requests in [2_usize, 5, 9] {
            let options = EngineOptions::new().with_max_batch(9).with_step_token_budget(9);
            let (model, control) = model(spec.clone(), options);
            let items = (0..requests).map(|i| {
                BatchItem::new(vec![i as TokenId; 10])
                    .with_options(greedy(20).with_priority((i % 3) as i32))
            });
            let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
            assert!(outputs.iter().all(|output| output.as_ref().unwrap().tokens.len() == 20));
            let alone = 20 + 30_usize.div_ceil(1 + 9 - requests.min(9));
            assert!(control.batches().len() <= requests * alone, "{}", control.batches().len());
        }
    }
}

#[test]
fn rows_of_a_preempted_prompt_are_delivered_once() {
    for spec in both_kinds() {
        let (model, control) = model(spec, EngineOptions::new().with_step_token_budget(8));
        control.hold();
        // It comes first and outlives the prompt; its growth takes the blocks.
        let mut first = model.generate(vec![1; 4].into(), greedy(28)).unwrap();
        first.start();
        assert!(control.wait_for(1));
        let scorer = Arc::clone(&model);
        let prompt: Vec<TokenId> = (0..30).collect();
        let ids_of_prompt = prompt.clone();
        let rows = std::thread::spawn(move || {
            scorer.as_scorer().unwrap().prompt_logits(ids_of_prompt.into(), LogitRows::All)
        });
        eventually(&model, "the prompt waits", |metrics| metrics.queued == 1);
        control.release();
        assert_eq!(ids(&read(&mut first)), expected(&[1; 4], 28));
        let all: Vec<f32> =
            (1..=30).flat_map(|len| SimRunner::expected_logits(64, &prompt[..len])).collect();
        assert_eq!(rows.join().unwrap().unwrap().values, all);
        let metrics = model.metrics();
        assert!(metrics.preemptions > 0);
        assert_eq!(metrics.prompt_tokens + metrics.cached_prompt_tokens, 34);
        assert_idle(&model);
    }
}

#[test]
fn a_sequence_that_waits_for_its_reader_gives_way() {
    for spec in both_kinds() {
        let options = EngineOptions::new().with_channel_capacity(2);
        let (model, _) = model(spec, options);
        // The better one is not read: it is parked with 5 blocks of 8.
        let mut slow = model.generate(vec![1; 17].into(), greedy(12).with_priority(9)).unwrap();
        slow.start();
        eventually(&model, "it is parked", |metrics| metrics.generated_tokens >= 3);
        let found = generate(&model, &[2; 18], greedy(14));
        assert_eq!(found, expected(&[2; 18], 14));
        assert_eq!(ids(&read(&mut slow)), expected(&[1; 17], 12));
        assert_eq!(slow.finish().unwrap().metrics.preemptions, 1);
        assert_idle(&model);
    }
}

#[test]
fn the_preempted_can_be_cancelled_and_closed() {
    let (model, control) = model(tight(), EngineOptions::new());
    control.hold();
    let token = CancelToken::new();
    let mut first = model.generate(vec![1; 4].into(), greedy(28)).unwrap();
    first.start();
    let options = [
        greedy(28).with_cancel(token.clone()),
        greedy(28),
        greedy(28).with_timeout(Duration::from_secs(3600)),
    ];
    let mut others: Vec<_> = (2..)
        .zip(options)
        .map(|(i, options)| {
            let mut stream = model.generate(vec![i; 4].into(), options).unwrap();
            stream.start();
            stream
        })
        .collect();
    let mut passes = 0;
    while model.metrics().preemptions == 0 {
        passes += 1;
        control.allow(1);
        assert!(control.wait_for(passes));
        eventually(&model, "it runs", |metrics| metrics.forward_count + 1 >= passes as u64);
    }
    eventually(&model, "somebody waits", |metrics| metrics.queued > 0);
    token.cancel();
    drop(others.remove(1));
    control.allow(2);
    let ended = others.remove(0).finish().unwrap();
    assert_eq!(ended.finish_reason, FinishReason::Cancelled);
    control.release();
    model.close();
    let ended = others.remove(0).finish().unwrap();
    assert!(matches!(ended.finish_reason, FinishReason::Cancelled | FinishReason::Length));
    assert_eq!((model.metrics().kv_blocks_used, model.metrics().queued), (0, 0));
}

#[test]
fn preemption_is_seen() {
    let records = Arc::new(Mutex::new(Vec::<ProbeRecord>::new()));
    let interest = Interest::from(ProbeKind::Scheduler) | ProbeKind::CachePressure;
    let sink = Recorder(interest, Arc::clone(&records));
    let bus = Arc::new(ProbeBus::new(vec![Box::new(sink)]));
    let (model, _) = model(tight(), EngineOptions::new().with_probe_bus(Arc::clone(&bus)));
    let items = (0..2).map(|i| BatchItem::new(vec![i; 4]).with_options(greedy(28)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    assert!(outputs.iter().all(Result::is_ok));
    bus.flush();
    let records = records.lock().unwrap();
    let of = |wanted: fn(&ProbeEvent) -> bool| {
        records.iter().filter(move |record| wanted(&record.event)).collect::<Vec<_>>()
    };
    let preempted = of(|event| matches!(event, ProbeEvent::Preempted { .. }));
    assert_eq!(preempted.len() as u64, model.metrics().preemptions);
    let ProbeEvent::Preempted { computed } = preempted[0].event else { panic!() };
    assert!(computed >= 4, "{computed}");
    let admitted = of(|event| matches!(event, ProbeEvent::Admitted { .. }));
    assert_eq!(admitted.len(), 2 + preempted.len());
    let again = admitted.last().unwrap();
    assert_eq!(again.request, preempted[0].request);
    assert!(!of(|event| matches!(event, ProbeEvent::CachePressure { total: 8, .. })).is_empty());
}

/// To compute again what a preempted sequence had is work like a prompt: it
/// does not hold up the tokens of others, whatever their rank.
#[test]
fn computing_again_delays_nobody() {
    let spec = SimSpec::default().with_context_len(64).with_blocks(4, 16).with_shared_blocks(false);
    let options =
        EngineOptions::new().with_max_batch(3).with_step_token_budget(4).with_channel_capacity(40);
    let (model, control) = model(spec, options);
    let mut slow = model.generate(vec![1; 4].into(), greedy(50).with_priority(9)).unwrap();
    slow.start();
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 41);
    // This takes the blocks, and gives them back.
    generate(&model, &[2; 30], greedy(2));
    assert_eq!(model.metrics().preemptions, 1);
    let before = control.batches().len();
    control.hold();
    let mut short = model.generate(vec![3].into(), greedy(35)).unwrap();
    short.start();
    assert!(control.wait_for(before + 1));
    let mut tokens: Vec<Token> = slow.by_ref().take(40).map(Result::unwrap).collect();
    control.release();
    assert_eq!(ids(&read(&mut short)), expected(&[3], 35));
    tokens.extend(read(&mut slow));
    assert_eq!(ids(&tokens), expected(&[1; 4], 50));
    let batches = control.batches();
    let again: Vec<_> = batches[before..]
        .iter()
        .filter(|batch| batch.sequences.iter().any(|s| s.prompt_len == 4 && s.len > 1))
        .collect();
    assert!(again.len() >= 44 / 4, "{}", again.len());
    assert!(again.iter().all(|batch| batch.sequences.iter().any(|s| s.prompt_len == 1)));
}
