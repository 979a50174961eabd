//! Ends that are waited for.

use inference_core::{BatchItem, ErrorKind, FinishReason};

use super::*;

/// Drains in the background; returns once no more requests are taken.
fn drain(model: &Arc<EngineModel>) -> std::thread::JoinHandle<()> {
    let draining = {
        let model = Arc::clone(model);
        std::thread::spawn(move || model.drain())
    };
    while model.generate(vec![9].into(), greedy(1)).is_ok() {
        std::thread::yield_now();
    }
    draining
}

#[test]
fn draining_lets_what_was_submitted_end_by_itself() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(1));
    control.hold();
    let mut streams: Vec<_> = (1..4)
        .map(|id| {
            let mut stream = model.generate(vec![id].into(), greedy(5)).unwrap();
            stream.start();
            stream
        })
        .collect();
    let draining = drain(&model);
    control.release();
    for stream in &mut streams {
        assert_eq!(read(stream).len(), 5);
    }
    draining.join().unwrap();
    assert!(control.is_dropped());
    assert_eq!(model.generate(vec![1].into(), greedy(1)).err().unwrap().kind(), ErrorKind::Closed);
}

#[test]
fn draining_waits_for_slow_readers() {
    let options = EngineOptions::new().with_channel_capacity(2).with_max_batch(1);
    let (model, control) = model(SimSpec::default(), options);
    let mut slow = model.generate(vec![1].into(), greedy(20)).unwrap();
    let mut next = model.generate(vec![2].into(), greedy(20)).unwrap();
    submit(&control, &mut slow);
    next.start();
    eventually(&model, "both are parked", |metrics| metrics.generated_tokens == 6);
    let draining = drain(&model);
    assert!(!draining.is_finished());
    assert_eq!(read(&mut slow).len(), 20);
    assert_eq!(read(&mut next).len(), 20);
    draining.join().unwrap();
    assert!(control.is_dropped());
}

#[test]
fn draining_does_not_wait_for_readers_that_stay_away() {
    let options =
        EngineOptions::new().with_channel_capacity(2).with_lag_timeout(Duration::from_millis(20));
    let (model, control) = model(SimSpec::default(), options);
    let mut unread = model.generate(vec![1].into(), greedy(20)).unwrap();
    submit(&control, &mut unread);
    model.drain();
    assert_eq!(read(&mut unread).len(), 3, "what was generated can still be read");
    assert_eq!(unread.finish().unwrap().finish_reason, FinishReason::Lagging);
}

#[test]
fn what_waits_outside_of_the_queue_was_not_submitted() {
    let options = EngineOptions::new().with_max_batch(1).with_max_queue(1);
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let items = (0..6).map(|i| BatchItem::new(vec![i]).with_options(greedy(2)));
    let batch = model.batch_generate(items.collect()).unwrap();
    let reader = std::thread::spawn(move || batch.collect_all());
    assert!(control.wait_for(1));
    let draining = drain(&model);
    control.release();
    let outputs = reader.join().unwrap();
    draining.join().unwrap();
    let ended = outputs.iter().filter(|output| output.is_ok()).count();
    // One ran, and at most one more had a place in the queue.
    assert!((1..=2).contains(&ended), "{outputs:?}");
    let refused = outputs.into_iter().filter_map(Result::err);
    refused.for_each(|error| assert_eq!(error.kind(), ErrorKind::Closed));
    let metrics = model.metrics();
    assert_eq!((metrics.requests, metrics.finished), (ended as u64, ended as u64));
}

#[test]
fn closing_cuts_a_drain_short() {
    let options = EngineOptions::new().with_channel_capacity(2);
    let (model, control) = model(SimSpec::default(), options);
    let mut unread = model.generate(vec![1].into(), greedy(20)).unwrap();
    submit(&control, &mut unread);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 3);
    let draining = drain(&model);
    model.close();
    assert!(control.is_dropped());
    draining.join().unwrap();
    assert_eq!(unread.finish().unwrap().finish_reason, FinishReason::Cancelled);
    model.drain();
}

#[test]
fn an_engine_that_failed_has_nothing_to_drain() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.fail_at(0, crate::sim_runner::SimFault::Panic);
    assert!(model.generate(vec![1].into(), greedy(1)).unwrap().finish().is_err());
    model.drain();
    assert!(control.is_dropped());
}

#[test]
fn draining_ends_with_the_last_request_also_if_that_is_given_up() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_channel_capacity(1));
    let mut stream = model.generate(vec![1].into(), greedy(9)).unwrap();
    submit(&control, &mut stream);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 2);
    std::thread::scope(|scope| {
        scope.spawn(|| model.drain());
        while model.generate(vec![9].into(), greedy(1)).is_ok() {
            std::thread::yield_now();
        }
        drop(stream);
    });
    assert!(control.is_dropped());
}
