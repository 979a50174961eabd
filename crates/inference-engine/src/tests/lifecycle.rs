//! Starting and closing.

use std::task::{Context, Wake, Waker};

use inference_core::{BatchItem, Error, ErrorKind, FinishReason, LogitRows};

use super::*;

#[test]
fn closing_ends_everything_and_refuses_later_calls() {
    let options = EngineOptions::new().with_max_batch(1);
    let parts = ModelParts::new(info()).with_tokenizer(byte_tokenizer());
    let (model, control) = start(SimSpec::default().with_vocab_size(260), parts, options);
    let mut unread = model.generate(vec![3].into(), greedy(5)).unwrap();
    let mut running = model.generate(vec![1].into(), greedy(400)).unwrap();
    running.next().unwrap().unwrap();
    let mut queued = model.generate(vec![2].into(), greedy(5)).unwrap();
    queued.start();
    model.close();
    model.close();
    assert!(control.is_dropped(), "the runner's memory is free");
    for stream in [running, queued] {
        assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    }
    assert_eq!(unread.next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let closed = |error: Option<Error>| assert_eq!(error.unwrap().kind(), ErrorKind::Closed);
    closed(model.generate(vec![1].into(), greedy(1)).err());
    closed(model.batch_generate(vec![BatchItem::new(vec![1])]).err());
    closed(model.classify(vec![vec![1].into()], &Default::default()).err());
    closed(model.encode("a", false).err());
    closed(model.decode(&[1], false).err());
    closed(model.as_scorer().unwrap().prompt_logits(vec![1].into(), LogitRows::All).err());
    let metrics = model.metrics();
    assert_eq!((metrics.running, metrics.kv_blocks_used, metrics.active_bytes), (0, 0, 0));
    assert!(metrics.peak_bytes > 1000);
}

#[test]
fn dropping_the_model_closes_it() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let mut stream = model.generate(vec![1].into(), greedy(400)).unwrap();
    stream.next().unwrap().unwrap();
    drop(model);
    assert!(control.is_dropped());
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
}

#[test]
fn closing_from_many_threads_waits_for_the_end_in_each() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.set_delay(Duration::from_millis(5));
    let mut stream = model.generate(vec![1].into(), greedy(400)).unwrap();
    stream.start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                model.close();
                assert!(control.is_dropped());
            });
        }
    });
}

/// A waker runs on the engine thread, which must not wait for itself.
#[test]
fn the_last_handle_may_be_dropped_on_the_engine_thread() {
    struct DropModel(std::sync::Mutex<Option<Arc<EngineModel>>>);
    impl Wake for DropModel {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    control.hold();
    let mut stream = model.generate(vec![1].into(), greedy(4)).unwrap();
    let handle = Arc::new(DropModel(std::sync::Mutex::new(Some(model))));
    let waker = Waker::from(Arc::clone(&handle));
    {
        let next = std::pin::pin!(stream.next_async());
        assert!(next.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    control.release();
    while handle.0.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    let completion = stream.finish().unwrap();
    assert_eq!(completion.finish_reason, FinishReason::Cancelled);
}

#[test]
fn an_idle_engine_sleeps_and_wakes_for_a_request() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    generate(&model, &[1], greedy(2));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(control.batches().len(), 2);
    assert_eq!(generate(&model, &[1], greedy(2)).len(), 2);
}

#[test]
fn a_runner_without_sizes_is_refused() {
    for spec in [
        SimSpec::default().with_vocab_size(0),
        SimSpec::default().with_context_len(0),
        SimSpec::default().with_blocks(0, 4),
        SimSpec::default().with_blocks(4, 0),
    ] {
        let (runner, _) = SimRunner::new(spec);
        let parts = ModelParts::new(info());
        let error = EngineModel::start(Box::new(runner), parts, EngineOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let starts = |parts, options| {
        let (runner, _) = SimRunner::new(SimSpec::default());
        EngineModel::start(Box::new(runner), parts, options).map(|_| ()).unwrap_err()
    };
    let error = starts(ModelParts::new(info()).with_eos(vec![2, 64]), EngineOptions::new());
    assert!(error.to_string().contains("end-of-sequence token"), "{error}");
    let defaults = GenerateOptions::new().with_top_p(7.0);
    let error = starts(ModelParts::new(info()).with_defaults(defaults), EngineOptions::new());
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let error = starts(ModelParts::new(info()), EngineOptions::new().with_max_batch(0));
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[test]
fn the_runner_is_the_authority_on_sizes() {
    let (model, _) = text_model(EngineOptions::new());
    let info = model.info();
    assert_eq!((info.vocab_size, info.context_len), (260, 512));
    assert_eq!((info.has_tokenizer, info.has_chat_template), (true, false));
    assert_eq!(model.model_type(), "sim");
    assert_eq!(model.encode("hé", false).unwrap(), [104, 0xc3, 0xa9]);
    assert_eq!(model.decode(&[104, 0xc3, 0xa9, EOS], true).unwrap(), "hé");
}
