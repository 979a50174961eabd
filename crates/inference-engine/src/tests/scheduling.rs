//! Whose turn it is: priorities, aging, and waiting for company.

use inference_core::{BatchItem, CancelToken, ErrorKind, FinishReason};

use super::*;

/// Long enough that a test which had to sit it out would not end.
const FOREVER: Duration = Duration::from_secs(3600);

fn waiting_engine(max_batch: usize) -> EngineOptions {
    EngineOptions::new().with_max_batch(max_batch).with_max_wait(FOREVER)
}

fn started(model: &EngineModel, prompt: TokenId, options: GenerateOptions) -> TokenStream {
    let mut stream = model.generate(vec![prompt].into(), options).unwrap();
    stream.start();
    stream
}

/// The first prompt tokens of the sequences, in the order of their first step.
fn order(control: &SimControl) -> Vec<TokenId> {
    let batches = control.batches();
    let firsts = batches.iter().flat_map(|batch| {
        batch.sequences.iter().filter(|s| s.position == 0).map(|s| batch.tokens[s.start])
    });
    firsts.collect()
}

#[test]
fn an_idle_engine_waits_until_the_batch_is_full() {
    let (model, control) = model(SimSpec::default(), waiting_engine(3));
    let mut streams: Vec<_> = (0..2).map(|id| started(&model, id, greedy(4))).collect();
    // The engine has taken them in, and does not start.
    eventually(&model, "they arrived", |metrics| metrics.requests == 2);
    assert_eq!(model.metrics().forward_count, 0);
    streams.push(started(&model, 2, greedy(4)));
    streams.iter_mut().for_each(|stream| assert_eq!(read(stream).len(), 4));
    assert_eq!(model.metrics().forward_count, 4, "all three ran together");
    assert!(control.batches().iter().all(|batch| batch.sequences.len() == 3));
}

#[test]
fn a_busy_engine_does_not_wait() {
    let (model, control) = model(SimSpec::default(), waiting_engine(2));
    control.hold();
    let items = (0..2).zip([4, 400]).map(|(i, n)| BatchItem::new(vec![i]).with_options(greedy(n)));
    let mut batch = model.batch_generate(items.collect()).unwrap();
    let reader = std::thread::spawn(move || batch.by_ref().count());
    assert!(control.wait_for(1));
    let mut joins = started(&model, 7, greedy(3));
    control.release();
    assert_eq!(read(&mut joins).len(), 3);
    reader.join().unwrap();
}

#[test]
fn a_queue_that_is_full_is_waited_for_no_longer() {
    let (model, _) = model(SimSpec::default(), waiting_engine(8).with_max_queue(2));
    let mut streams: Vec<_> = (0..2).map(|id| started(&model, id, greedy(2))).collect();
    streams.iter_mut().for_each(|stream| assert_eq!(read(stream).len(), 2));
}

#[test]
fn waiting_for_company_is_over_after_max_wait() {
    let options = waiting_engine(8).with_max_wait(Duration::from_millis(5));
    let (model, _) = model(SimSpec::default(), options);
    assert_eq!(generate(&model, &[1], greedy(3)).len(), 3);
}

#[test]
fn whoever_waits_for_company_can_be_cancelled_be_late_drained_and_closed() {
    let (model, control) = model(SimSpec::default(), waiting_engine(8));
    let cancel = CancelToken::new();
    let by_token = started(&model, 1, greedy(3).with_cancel(cancel.clone()));
    let late = started(&model, 2, greedy(3).with_timeout(Duration::from_millis(20)));
    cancel.cancel();
    assert_eq!(by_token.finish().unwrap().finish_reason, FinishReason::Cancelled);
    assert_eq!(late.finish().unwrap().finish_reason, FinishReason::Deadline);
    assert_idle(&model);
    let mut drained = started(&model, 3, greedy(3));
    assert!(control.batches().is_empty());
    model.drain();
    assert_eq!(read(&mut drained).len(), 3, "nobody else can come");

    let (model, control) = super::model(SimSpec::default(), waiting_engine(8));
    let closed = started(&model, 1, greedy(3));
    model.close();
    assert_eq!(closed.finish().unwrap().finish_reason, FinishReason::Cancelled);
    assert!(control.batches().is_empty());
    assert_eq!(model.generate(vec![1].into(), greedy(1)).err().unwrap().kind(), ErrorKind::Closed);
}

#[test]
fn priorities_run_first_and_equals_in_order_of_arrival() {
    let options = EngineOptions::new().with_max_batch(1).with_aging(FOREVER);
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let first = started(&model, 0, greedy(1));
    assert!(control.wait_for(1));
    let ranked = [(1, 0), (2, 5), (3, 0), (4, -5), (5, 5)];
    let waiting: Vec<_> =
        ranked.map(|(id, priority)| started(&model, id, greedy(1).with_priority(priority))).into();
    control.release();
    for stream in std::iter::once(first).chain(waiting) {
        stream.finish().unwrap();
    }
    assert_eq!(order(&control), [0, 2, 5, 1, 3, 4]);
}

#[test]
fn with_a_short_aging_arrival_is_all_that_counts() {
    let options = EngineOptions::new().with_max_batch(1).with_aging(Duration::from_nanos(1));
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let first = started(&model, 0, greedy(1));
    assert!(control.wait_for(1));
    let mut streams = vec![first];
    for id in 1..6 {
        streams.push(started(&model, id, greedy(1).with_priority(id as i32 % 3)));
    }
    control.release();
    streams.into_iter().for_each(|stream| drop(stream.finish().unwrap()));
    assert_eq!(order(&control), [0, 1, 2, 3, 4, 5]);
}
