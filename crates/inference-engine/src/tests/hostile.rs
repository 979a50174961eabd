//! Callers who do everything that the API lets them do.

use std::future::Future;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;

use inference_core::probe::{Interest, ProbeBus, ProbeKind, ProbeRecord, ProbeSink};
use inference_core::{
    BatchItem, CancelToken, ClassifyOptions, ErrorKind, FinishReason, LogitRows, Prompt, Result,
    Scorer, TokenEvent,
};

use super::*;

/// Fails instead of hanging.
#[track_caller]
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    match result.recv_timeout(Duration::from_secs(20)) {
        Ok(result) => result,
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn options_at_their_extremes_change_no_answer() {
    let usual = {
        let (model, _) = model(SimSpec::default(), EngineOptions::default());
        generate(&model, &[1, 2, 3], greedy(6))
    };
    let new = EngineOptions::default;
    for (what, options) in [
        ("lag_timeout", new().with_lag_timeout(Duration::MAX)),
        ("shortest lag_timeout", new().with_lag_timeout(Duration::from_nanos(1))),
        ("aging", new().with_aging(Duration::MAX)),
        ("shortest aging", new().with_aging(Duration::from_nanos(1))),
        ("max_wait", new().with_max_batch(1).with_max_wait(Duration::MAX)),
        ("step_token_budget", new().with_step_token_budget(usize::MAX)),
        ("least step_token_budget", new().with_max_batch(1).with_step_token_budget(1)),
        ("channel_capacity", new().with_channel_capacity(usize::MAX)),
        ("least channel_capacity", {
            new().with_channel_capacity(1).with_lag_timeout(Duration::MAX)
        }),
        ("max_queue", new().with_max_queue(usize::MAX)),
        ("max_batch", new().with_max_batch(4096).with_step_token_budget(4096)),
    ] {
        let (model, _) = model(SimSpec::default(), options);
        for priority in [i32::MIN, 0, i32::MAX] {
            let model = Arc::clone(&model);
            let tokens = in_time(what, move || {
                let stream =
                    model.generate(vec![1, 2, 3].into(), greedy(6).with_priority(priority));
                stream.unwrap().map(|token| token.unwrap().id).collect::<Vec<_>>()
            });
            assert_eq!(tokens, usual, "{what}");
        }
        assert_idle(&model);
    }
}

#[test]
fn who_waits_for_company_for_ever_can_still_be_ended() {
    let options = EngineOptions::default().with_max_batch(2).with_max_wait(Duration::MAX);
    let (model, control) = model(SimSpec::default(), options);
    let token = CancelToken::new();
    let options = greedy(4).with_cancel(token.clone());
    let mut lonely = model.generate(vec![1].into(), options).unwrap();
    lonely.start();
    eventually(&model, "it waits", |metrics| metrics.queued == 1);
    token.cancel();
    let end = in_time("cancelled while it waits", move || lonely.finish().unwrap());
    assert_eq!(end.finish_reason, FinishReason::Cancelled);

    let late = greedy(4).with_timeout(Duration::from_millis(1));
    let late = model.generate(vec![1].into(), late).unwrap();
    let end = in_time("late while it waits", move || late.finish().unwrap());
    assert_eq!(end.finish_reason, FinishReason::Deadline);

    let mut lonely = model.generate(vec![1].into(), greedy(4)).unwrap();
    lonely.start();
    let company = Arc::clone(&model);
    let tokens = in_time("company comes", move || generate(&company, &[2], greedy(4)));
    assert_eq!((tokens.len(), read(&mut lonely).len()), (4, 4));
    assert!(control.batches().iter().all(|batch| batch.sequences.len() <= 2));

    let mut lonely = model.generate(vec![1].into(), greedy(4)).unwrap();
    lonely.start();
    let drained = Arc::clone(&model);
    in_time("a drain does not wait for company", move || drained.drain());
    assert_eq!(lonely.finish().unwrap().finish_reason, FinishReason::Length);
}

#[test]
fn requests_at_their_extremes_end_or_are_refused() {
    let (model, _) = model(SimSpec::default(), EngineOptions::default());
    let new = GenerateOptions::new;
    let prompt = || Prompt::from(vec![1, 2]);
    let room = 510;

    let ends = |what: &str, options: GenerateOptions| {
        let stream = model.generate(prompt(), options).unwrap();
        let what = what.to_owned();
        in_time(&what, move || {
            let mut stream = stream;
            let tokens = stream.by_ref().filter(Result::is_ok).count();
            (tokens, stream.finish())
        })
    };
    let huge = new().with_max_tokens(usize::MAX);
    let (tokens, end) = ends("max_tokens", huge.clone());
    assert_eq!((tokens, end.unwrap().finish_reason), (room, FinishReason::Length));
    let (tokens, _) = ends("min_tokens", huge.clone().with_min_tokens(usize::MAX));
    assert_eq!(tokens, room);
    let (tokens, end) = ends("deadline", huge.clone().with_deadline(Instant::now()));
    assert_eq!((tokens, end.unwrap().finish_reason), (0, FinishReason::Deadline));
    let few = || new().with_max_tokens(3);
    for (what, options) in [
        ("timeout", few().with_timeout(Duration::MAX)),
        ("top_k", few().with_temperature(1.0).with_top_k(usize::MAX)),
        ("least top_p", few().with_temperature(100.0).with_top_p(f32::MIN_POSITIVE)),
        ("min_p", few().with_temperature(100.0).with_min_p(1.0)),
        ("typical_p", few().with_temperature(1.0).with_typical_p(f32::MIN_POSITIVE)),
        ("coldest", few().with_temperature(f32::MIN_POSITIVE)),
        ("largest repeat_penalty", few().with_repeat_penalty(f32::MAX)),
        ("least repeat_penalty", few().with_repeat_penalty(f32::MIN_POSITIVE)),
        ("penalty_window", few().with_presence_penalty(2.0).with_penalty_window(usize::MAX)),
        ("no penalty_window", few().with_presence_penalty(2.0).with_penalty_window(0)),
        ("seed", few().with_temperature(1.0).with_seed(u64::MAX)),
        ("largest logit_bias", few().with_logit_bias(3, f32::MAX).with_logit_bias(3, f32::MAX)),
        ("least logit_bias", few().with_logit_bias(3, f32::MIN).with_logit_bias(3, f32::MIN)),
        ("stop tokens", (4..64).fold(few(), |all, id| all.with_stop_token(id).with_min_tokens(3))),
        ("prompt_lookup", few().with_prompt_lookup(32)),
    ] {
        let (tokens, end) = ends(what, options);
        match end {
            Ok(end) => assert_eq!((tokens, end.finish_reason), (3, FinishReason::Length), "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
    // More alternatives than there are tokens.
    let mut stream = model.generate(prompt(), few().with_logprobs(100)).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().top_logprobs.len(), 64);
    drop(stream);

    // Every token forbidden: nothing can be chosen, and it says so.
    let none = (0..64).fold(few(), |all, id| all.with_logit_bias(id, f32::NEG_INFINITY));
    for options in [none.clone(), none.with_temperature(1.0)] {
        let (tokens, end) = ends("no token allowed", options);
        assert_eq!(tokens, 0);
        let error = end.unwrap_err();
        assert!(!error.to_string().is_empty(), "{error:?}");
    }
    assert_eq!(generate(&model, &[1, 2], few()).len(), 3, "the engine goes on");
    assert_idle(&model);
}

#[test]
fn things_of_no_length_are_answered_or_refused() {
    let (model, control) = text_model(EngineOptions::default());
    assert!(model.batch_generate(vec![]).unwrap().next().is_none());
    assert!(model.classify(vec![], &ClassifyOptions::new()).unwrap().is_empty());
    for prompt in [Prompt::from(""), Prompt::from(Vec::<TokenId>::new())] {
        let error = model.generate(prompt.clone(), greedy(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = model.prompt_logits(prompt.clone(), LogitRows::All).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let classified = model.classify(vec![prompt.clone()], &ClassifyOptions::new()).unwrap();
        assert_eq!(classified[0].as_ref().unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut batch = model.batch_generate(vec![BatchItem::new(prompt)]).unwrap();
        let Some((0, TokenEvent::Failed(error))) = batch.next() else { panic!("it is refused") };
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(batch.next().is_none());
    }
    assert!(model.encode("", false).unwrap().is_empty());
    assert_eq!(model.decode(&[], true).unwrap(), "");
    assert!(control.batches().is_empty());
}

#[test]
fn the_smallest_models_work() {
    for (context, block_size, blocks) in [(2, 1, 2), (2, 2, 1), (2, 64, 1), (100, 1, 2)] {
        let spec = SimSpec::default()
            .with_vocab_size(1)
            .with_context_len(context)
            .with_blocks(block_size, blocks);
        let (model, _) = model(spec, EngineOptions::default());
        assert_eq!(generate(&model, &[0], greedy(usize::MAX)), [0]);
        let logits = model.prompt_logits(vec![0, 0].into(), LogitRows::All).unwrap();
        assert_eq!(logits.values.len(), 2);
        assert_idle(&model);
    }
    let spec = SimSpec::default().with_context_len(1);
    let (model, _) = model(spec, EngineOptions::default());
    let error = model.generate(vec![0].into(), greedy(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(model.prompt_logits(vec![0].into(), LogitRows::Last).unwrap().values.len(), 64);
}

#[test]
fn thousands_of_streams_may_be_dropped_unread() {
    let options = EngineOptions::default().with_max_queue(64);
    let (model, control) = model(SimSpec::default(), options);
    let unread: Vec<_> =
        (0..5000).map(|_| model.generate(vec![1; 100].into(), greedy(400)).unwrap()).collect();
    drop(unread);
    assert_eq!(model.metrics().requests, 0, "what nobody read was never submitted");
    assert!(control.batches().is_empty());

    for round in 0..40 {
        if round % 3 == 0 {
            // What was dropped may keep its place in the queue for a turn.
            assert_idle(&model);
        }
        let mut streams: Vec<_> =
            (0..100).map(|_| model.generate(vec![1; 50].into(), greedy(400)).unwrap()).collect();
        streams.iter_mut().for_each(|stream| stream.start());
        // Some after a token, and in different orders.
        if round % 3 == 0 {
            assert!(streams[0].next().unwrap().is_ok(), "it is the first to run");
        }
        if round % 2 == 0 {
            streams.reverse();
        }
        drop(streams);
    }
    for _ in 0..20 {
        let items = (0..100).map(|_| BatchItem::new(vec![1, 2]).with_options(greedy(400)));
        let mut batch = model.batch_generate(items.collect()).unwrap();
        batch.next().unwrap();
    }
    assert_idle(&model);
    eventually(&model, "every request ends once", |metrics| metrics.requests == metrics.finished);
    assert_eq!(generate(&model, &[1], greedy(5)).len(), 5);
}

/// Runs something when it is woken, on the thread that wakes.
struct Woken(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let action = self.0.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
    }
}

/// Polls a stream that has nothing yet, so that `action` runs once it has.
fn when_woken(stream: &mut TokenStream, action: impl FnOnce() + Send + 'static) {
    let waker = Waker::from(Arc::new(Woken(Mutex::new(Some(Box::new(action))))));
    let next = std::pin::pin!(stream.next_async());
    assert!(next.poll(&mut Context::from_waker(&waker)).is_pending());
}

#[test]
fn a_waker_may_panic() {
    let (model, control) = model(SimSpec::default(), EngineOptions::default());
    let usual = generate(&model, &[7], greedy(5));
    for _ in 0..20 {
        control.hold();
        let mut loud = model.generate(vec![7].into(), greedy(5)).unwrap();
        when_woken(&mut loud, || panic!("woken"));
        control.release();
        assert_eq!(ids(&read(&mut loud)), usual);
    }
    assert_idle(&model);
}

#[test]
fn a_waker_may_call_the_model_but_not_wait_for_it() {
    type Call = fn(&EngineModel) -> Option<ErrorKind>;
    let calls: [(&str, Call, Option<ErrorKind>); 7] = [
        ("metrics", |model| (model.metrics().running > 100).then_some(ErrorKind::Closed), None),
        (
            "generate",
            |model| model.generate(vec![1].into(), greedy(1)).err().map(|e| e.kind()),
            None,
        ),
        (
            "classify",
            |model| {
                let prompts = vec![vec![1].into()];
                model.classify(prompts, &ClassifyOptions::new()).err().map(|e| e.kind())
            },
            Some(ErrorKind::Unsupported),
        ),
        (
            "prompt_logits",
            |model| {
                let logits = model.prompt_logits(vec![1].into(), LogitRows::Last);
                logits.err().map(|e| e.kind())
            },
            Some(ErrorKind::Unsupported),
        ),
        (
            "snapshot",
            |model| {
                let state = model.as_state().unwrap();
                state.snapshot(vec![1].into()).err().map(|e| e.kind())
            },
            Some(ErrorKind::Unsupported),
        ),
        (
            "drain",
            |model| {
                model.drain();
                None
            },
            None,
        ),
        (
            "close",
            |model| {
                model.close();
                None
            },
            None,
        ),
    ];
    for (what, call, expected) in calls {
        let (model, control) = model(SimSpec::default(), EngineOptions::default());
        control.hold();
        let mut stream = model.generate(vec![7].into(), greedy(3)).unwrap();
        let (done, outcome) = mpsc::channel();
        let inner = Arc::clone(&model);
        when_woken(&mut stream, move || done.send(call(&inner)).unwrap());
        control.release();
        let outcome = outcome.recv_timeout(Duration::from_secs(20));
        assert_eq!(outcome.expect(what), expected, "{what}");
        in_time(what, move || stream.finish().unwrap());
    }
}

/// Never finishes with its first event.
struct Stuck(Mutex<mpsc::Receiver<()>>);

impl ProbeSink for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }

    fn interest(&self) -> Interest {
        ProbeKind::ALL.into_iter().fold(ProbeKind::Token.into(), |all, kind| all | kind)
    }

    fn record(&mut self, _: &ProbeRecord) {
        let _ = self.0.lock().unwrap().recv();
    }
}

#[test]
fn a_sink_that_blocks_holds_up_nobody() {
    let (let_go, held) = mpsc::channel();
    let bus = Arc::new(ProbeBus::new(vec![Box::new(Stuck(Mutex::new(held)))]));
    let options = EngineOptions::default().with_probe_bus(Arc::clone(&bus));
    let (model, _) = model(SimSpec::default(), options);
    let busy = Arc::clone(&model);
    in_time("the sink is stuck", move || {
        for _ in 0..20 {
            assert_eq!(generate(&busy, &[1, 2], greedy(300)).len(), 300);
        }
        busy.close();
    });
    assert!(bus.stats()[0].dropped > 0, "what the sink did not take was dropped");
    drop(let_go);
}
