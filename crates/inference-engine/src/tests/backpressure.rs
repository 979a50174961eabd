//! A reader's pace is its own affair.

use inference_core::{BatchItem, ErrorKind, FinishReason, TokenEvent};

use super::*;

#[test]
fn nothing_runs_before_the_first_read() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let stream = model.generate(vec![1].into(), greedy(4)).unwrap();
    let batch = model.batch_generate(vec![BatchItem::new(vec![2])]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(control.batches().is_empty());
    assert_eq!(model.metrics().requests, 0);
    drop((stream, batch));
}

#[test]
fn the_engine_never_runs_further_ahead_than_the_channel() {
    let options = EngineOptions::new().with_channel_capacity(3);
    let (model, control) = model(SimSpec::default(), options);
    let expected = generate(&model, &[1], greedy(50));
    let before = control.batches().len();
    let mut stream = model.generate(vec![1].into(), greedy(50)).unwrap();
    submit(&control, &mut stream);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 50 + 4);
    std::thread::sleep(Duration::from_millis(20));
    // Three tokens in the channel and one that found no room.
    assert_eq!(control.batches().len() - before, 4);
    assert_eq!(ids(&read(&mut stream)), expected);
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Length);
}

#[test]
fn a_slow_reader_does_not_delay_others() {
    let options = EngineOptions::new().with_channel_capacity(2).with_max_batch(2);
    let (model, control) = model(SimSpec::default(), options);
    let mut slow = model.generate(vec![1].into(), greedy(100)).unwrap();
    submit(&control, &mut slow);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 3);
    assert_eq!(generate(&model, &[2], greedy(200)).len(), 200);
    assert_eq!(model.metrics().running, 1, "the slow one is still parked");
    assert_eq!(read(&mut slow).len(), 100, "and goes on when it is read");
}

#[test]
fn a_reader_that_stands_still_is_ended() {
    let options =
        EngineOptions::new().with_channel_capacity(2).with_lag_timeout(Duration::from_millis(50));
    let (model, control) = model(SimSpec::default(), options);
    let mut stream = model.generate(vec![1].into(), greedy(100)).unwrap();
    submit(&control, &mut stream);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 3);
    // Nothing but the time wakes the engine here.
    assert_idle(&model);
    assert_eq!(read(&mut stream).len(), 3, "what was generated is not lost");
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Lagging);
}

#[test]
fn a_reader_that_moves_is_not_lagging() {
    let options =
        EngineOptions::new().with_channel_capacity(1).with_lag_timeout(Duration::from_millis(100));
    let (model, _) = model(SimSpec::default(), options);
    let mut stream = model.generate(vec![1].into(), greedy(8)).unwrap();
    let mut count = 0;
    for token in stream.by_ref() {
        token.unwrap();
        count += 1;
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(count, 8);
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Length);
}

#[test]
fn a_full_queue_refuses_a_request_with_the_numbers() {
    let options = EngineOptions::new().with_max_batch(1).with_max_queue(2);
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let mut streams: Vec<TokenStream> = Vec::new();
    for token in 0..3 {
        let mut stream = model.generate(vec![token].into(), greedy(2)).unwrap();
        stream.start();
        streams.push(stream);
        assert!(control.wait_for(1));
    }
    let mut refused = model.generate(vec![9].into(), greedy(2)).unwrap();
    let error = refused.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("3 needed, 2 available"), "{error}");
    control.release();
    streams.iter_mut().for_each(|stream| assert_eq!(read(stream).len(), 2));
}

#[test]
fn a_batch_larger_than_the_queue_waits_outside() {
    let options = EngineOptions::new().with_max_batch(2).with_max_queue(1);
    let (model, _) = model(SimSpec::default(), options);
    let items = (0..20).map(|i| BatchItem::new(vec![i]).with_options(greedy(3)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    assert!(outputs.iter().all(|output| output.as_ref().unwrap().tokens.len() == 3));
    let prompts = (0..20).map(|i| vec![i].into()).collect();
    let results = model.classify(prompts, &inference_core::ClassifyOptions::new()).unwrap();
    assert!(results.iter().all(Result::is_ok));
}

#[test]
fn a_dropped_batch_that_waited_outside_keeps_no_other_waiting() {
    let options = EngineOptions::new().with_max_batch(1).with_max_queue(1);
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let batch = |count: u32| {
        let items = (0..count).map(|i| BatchItem::new(vec![i]).with_options(greedy(2)));
        model.batch_generate(items.collect()).unwrap()
    };
    let mut dropped = batch(6);
    let mut kept = batch(6);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            kept.by_ref().filter(|(_, event)| matches!(event, TokenEvent::Finished(_))).count()
        });
        scope.spawn(|| {
            control.release();
            dropped.next().unwrap();
            drop(dropped);
        });
        assert_eq!(reader.join().unwrap(), 6);
    });
    assert_idle(&model);
}

/// With more tokens than a runtime's cooperative budget for one task.
#[test]
fn a_blocking_reader_inside_a_runtime_neither_panics_nor_hangs() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new().with_channel_capacity(4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let reader = Arc::clone(&model);
    let count = runtime.block_on(async {
        let task = async move {
            let blocking = generate(&reader, &[1], greedy(400)).len();
            let mut stream = reader.generate(vec![1].into(), greedy(400)).unwrap();
            let mut awaited = 0;
            while let Some(token) = stream.next_async().await {
                token.unwrap();
                awaited += 1;
            }
            (blocking, awaited)
        };
        tokio::spawn(task).await.unwrap()
    });
    assert_eq!(count, (400, 400));
}
