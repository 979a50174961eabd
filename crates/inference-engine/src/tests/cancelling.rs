//! Cancelling frees everything, whatever the request was doing.

use inference_core::{CancelToken, FinishReason};

use super::*;

fn small_steps() -> EngineOptions {
    EngineOptions::new().with_max_batch(1).with_step_token_budget(4).with_channel_capacity(1000)
}

#[test]
fn a_dropped_stream_stops_in_the_middle_of_decoding() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let mut stream = model.generate(vec![1, 2].into(), greedy(400)).unwrap();
    stream.next().unwrap().unwrap();
    drop(stream);
    assert_idle(&model);
    assert!(control.batches().len() < 400);
    assert_eq!((model.metrics().finished, model.metrics().failed), (1, 0));
}

#[test]
fn a_dropped_stream_stops_in_the_middle_of_its_prompt() {
    let (model, control) = model(SimSpec::default(), small_steps());
    control.hold();
    let mut stream = model.generate(vec![1; 100].into(), greedy(5)).unwrap();
    stream.start();
    assert!(control.wait_for(1));
    control.allow(2);
    assert!(control.wait_for(3));
    drop(stream);
    control.release();
    assert_idle(&model);
    assert_eq!(control.batches().len(), 3);
}

#[test]
fn a_dropped_stream_leaves_the_queue() {
    let (model, control) = model(SimSpec::default(), small_steps());
    control.hold();
    let mut first = model.generate(vec![1].into(), greedy(3)).unwrap();
    first.start();
    assert!(control.wait_for(1));
    let mut second = model.generate(vec![2].into(), greedy(3)).unwrap();
    second.start();
    assert_eq!(model.metrics().queued, 1);
    drop(second);
    control.release();
    assert_eq!(read(&mut first).len(), 3);
    assert_idle(&model);
    assert!(control.batches().iter().all(|batch| batch.tokens[0] != 2));
}

#[test]
fn a_cancelled_stream_reports_it_and_keeps_what_it_has() {
    let (model, _) = model(SimSpec::default(), EngineOptions::new());
    let mut stream = model.generate(vec![1].into(), greedy(400)).unwrap();
    let first = stream.next().unwrap().unwrap();
    stream.cancel();
    let rest = read(&mut stream);
    let completion = stream.finish().unwrap();
    assert_eq!(completion.finish_reason, FinishReason::Cancelled);
    assert_eq!(completion.metrics.generated_tokens, 1 + rest.len());
    let all = generate(&model, &[1], greedy(400));
    assert_eq!(first.id, all[0]);
    assert_eq!(ids(&rest), all[1..=rest.len()]);
    assert_idle(&model);
}

#[test]
fn a_cancelled_stream_that_was_never_read_costs_nothing() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let mut stream = model.generate(vec![1].into(), greedy(4)).unwrap();
    stream.cancel();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    assert!(control.batches().is_empty());
    assert_eq!(model.metrics().requests, 0);
}

#[test]
fn a_token_cancels_all_its_requests() {
    let (model, control) = model(SimSpec::default(), small_steps());
    control.set_delay(Duration::from_millis(2));
    let cancel = CancelToken::new();
    let options = greedy(400).with_cancel(cancel.clone());
    let mut running = model.generate(vec![1].into(), options.clone()).unwrap();
    let mut queued = model.generate(vec![2].into(), options).unwrap();
    running.next().unwrap().unwrap();
    queued.start();
    cancel.cancel();
    for stream in [running, queued] {
        assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    }
    assert_idle(&model);
}

#[test]
fn a_token_wakes_an_engine_that_only_waits_for_a_reader() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_channel_capacity(2));
    let cancel = CancelToken::new();
    let mut stream =
        model.generate(vec![1].into(), greedy(100).with_cancel(cancel.clone())).unwrap();
    submit(&control, &mut stream);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 3);
    cancel.cancel();
    assert_idle(&model);
    assert_eq!(read(&mut stream).len(), 3, "no token is lost");
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
}

#[test]
fn a_deadline_ends_what_runs_what_waits_and_what_is_parked() {
    let options = small_steps().with_channel_capacity(2);
    let (model, _) = model(SimSpec::default(), options);
    let timed = || greedy(400).with_timeout(Duration::from_millis(50));
    let mut parked = model.generate(vec![1].into(), timed()).unwrap();
    let mut queued = model.generate(vec![2].into(), timed()).unwrap();
    parked.start();
    queued.start();
    // Nothing wakes the engine but the deadline itself.
    assert_idle(&model);
    for stream in [parked, queued] {
        assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Deadline);
    }
    let past = greedy(5).with_deadline(Instant::now());
    let stream = model.generate(vec![3].into(), past).unwrap();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Deadline);
}

#[test]
fn a_dropped_batch_ends_all_its_items() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(2));
    control.set_delay(Duration::from_millis(1));
    let items = (0..8).map(|i| inference_core::BatchItem::new(vec![i]).with_options(greedy(300)));
    let mut stream = model.batch_generate(items.collect()).unwrap();
    stream.next().unwrap();
    drop(stream);
    assert_idle(&model);
    assert!(control.batches().len() < 300);
}

/// What ends a request from outside.
enum Limit {
    Token(CancelToken),
    /// So late that whatever must come before it does.
    Deadline(Instant),
}

impl Limit {
    fn both() -> [fn() -> Self; 2] {
        let late = || Self::Deadline(Instant::now() + Duration::from_secs(1));
        [|| Self::Token(CancelToken::new()), late]
    }

    fn options(&self) -> GenerateOptions {
        match self {
            Self::Token(token) => greedy(400).with_cancel(token.clone()),
            Self::Deadline(late) => greedy(400).with_deadline(*late),
        }
    }

    /// Makes it hold, and says what the request then ends by.
    fn strike(&self) -> FinishReason {
        match self {
            Self::Token(token) => {
                token.cancel();
                FinishReason::Cancelled
            }
            Self::Deadline(late) => {
                std::thread::sleep(late.saturating_duration_since(Instant::now()));
                FinishReason::Deadline
            }
        }
    }
}

#[test]
fn tokens_and_deadlines_take_effect_within_a_step_of_the_prompt() {
    for limit in Limit::both() {
        let limit = limit();
        let (model, control) = model(SimSpec::default(), small_steps());
        control.hold();
        let mut stream = model.generate(vec![1; 100].into(), limit.options()).unwrap();
        stream.start();
        assert!(control.wait_for(1));
        let reason = limit.strike();
        control.release();
        assert_eq!(stream.finish().unwrap().finish_reason, reason);
        assert_idle(&model);
        assert_eq!(control.batches().len(), 1, "the step that ran was the last");
    }
}

#[test]
fn tokens_and_deadlines_take_effect_while_preempted() {
    for limit in Limit::both() {
        let limit = limit();
        let spec = SimSpec::default().with_context_len(32).with_blocks(4, 8);
        let (model, control) = model(spec, EngineOptions::new());
        control.hold();
        let mut first = model.generate(vec![1].into(), greedy(28)).unwrap();
        first.start();
        assert!(control.wait_for(1));
        let mut second = model.generate(vec![2; 3].into(), limit.options()).unwrap();
        second.start();
        let mut passes = 1;
        while model.metrics().preemptions == 0 {
            control.allow(1);
            passes += 1;
            assert!(control.wait_for(passes), "{:?}", model.metrics());
        }
        let reason = limit.strike();
        let before = model.metrics().generated_tokens;
        control.allow(1);
        assert!(!super::read(&mut second).is_empty());
        assert_eq!(second.finish().unwrap().finish_reason, reason);
        assert!(model.metrics().generated_tokens <= before + 2);
        control.release();
        assert_eq!(super::read(&mut first).len(), 28);
        assert_idle(&model);
    }
}
