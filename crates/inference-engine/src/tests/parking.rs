//! Slots go to those that can go on, the best first.

use inference_core::{ErrorKind, FinishReason};

use super::sharing::expected;
use super::*;

fn started(model: &EngineModel, prompt: &[TokenId], options: GenerateOptions) -> TokenStream {
    let mut stream = model.generate(prompt.to_vec().into(), options).unwrap();
    stream.start();
    stream
}

/// `count` requests of 60 tokens that nobody reads, with prompts of one token
/// each, all waiting for their readers.
fn parked(
    model: &EngineModel,
    control: &SimControl,
    count: u32,
    capacity: u64,
) -> Vec<TokenStream> {
    let before = model.metrics().generated_tokens;
    let unread = |id| {
        let mut stream = model.generate(vec![id].into(), greedy(60)).unwrap();
        submit(control, &mut stream);
        stream
    };
    let streams = (0..count).map(unread).collect();
    let ahead = u64::from(count) * (capacity + 1);
    eventually(model, "they are parked", |metrics| metrics.generated_tokens == before + ahead);
    streams
}

#[test]
fn slow_readers_in_all_slots_hold_up_nobody() {
    let options = EngineOptions::new().with_channel_capacity(2).with_max_batch(2);
    let (model, control) = model(SimSpec::default(), options);
    let slow = parked(&model, &control, 5, 2);
    assert_eq!(generate(&model, &[9; 3], greedy(100)), expected(&[9; 3], 100));
    eventually(&model, "the slow ones are there", |metrics| {
        (metrics.running, metrics.queued) == (2, 3)
    });
    let metrics = model.metrics();
    assert_eq!(metrics.preemptions, 0);
    let computed = metrics.step_tokens;
    for (id, mut slow) in (0..).zip(slow) {
        assert_eq!(ids(&read(&mut slow)), expected(&[id], 60));
        assert_eq!(slow.finish().unwrap().finish_reason, FinishReason::Length);
    }
    // With their blocks they need not compute anything again.
    assert_eq!(model.metrics().step_tokens, computed + 5 * 57);
    assert_idle(&model);
}

#[test]
fn without_slots_blocks_are_given_up() {
    for shares in [true, false] {
        let spec =
            SimSpec::default().with_context_len(64).with_blocks(4, 16).with_shared_blocks(shares);
        let options = EngineOptions::new().with_channel_capacity(30).with_max_batch(1);
        let (model, control) = model(spec, options);
        let slow = parked(&model, &control, 2, 30);
        assert_eq!(generate(&model, &[9; 3], greedy(60)), expected(&[9; 3], 60));
        assert!(model.metrics().preemptions >= 2);
        for (id, mut slow) in (0..).zip(slow) {
            assert_eq!(ids(&read(&mut slow)), expected(&[id], 60));
        }
        assert_idle(&model);
    }
}

#[test]
fn those_without_slots_count_as_waiting() {
    let options = EngineOptions::new().with_channel_capacity(2).with_max_batch(1).with_max_queue(2);
    let (model, control) = model(SimSpec::default(), options);
    // One after the other: the queue has no place for three.
    let mut slow: Vec<_> = (0..3).flat_map(|_| parked(&model, &control, 1, 2)).collect();
    let error = started(&model, &[9], greedy(2)).next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(read(&mut slow[0]).len(), 60);
    // One of the others has the slot now, as nobody else wants it.
    eventually(&model, "there is room", |metrics| (metrics.running, metrics.queued) == (1, 1));
    assert_eq!(generate(&model, &[9], greedy(2)), expected(&[9], 2));
    drop(slow);
    assert_idle(&model);
}

#[test]
fn those_without_slots_can_lag_be_cancelled_and_closed() {
    let options = EngineOptions::new().with_channel_capacity(2).with_max_batch(1);
    let (model, control) = model(SimSpec::default(), options.clone());
    let mut slow = parked(&model, &control, 3, 2);
    slow[0].cancel();
    drop(slow.remove(1));
    eventually(&model, "they ended", |metrics| metrics.finished == 2);
    let completion = slow.remove(0).finish().unwrap();
    assert_eq!(completion.finish_reason, FinishReason::Cancelled);
    model.close();
    assert_eq!(slow.remove(0).finish().unwrap().finish_reason, FinishReason::Cancelled);

    let (model, _) =
        super::model(SimSpec::default(), options.with_lag_timeout(Duration::from_millis(50)));
    let slow: Vec<_> = (0..3).map(|id| started(&model, &[id], greedy(60))).collect();
    assert_idle(&model);
    for slow in slow {
        assert_eq!(slow.finish().unwrap().finish_reason, FinishReason::Lagging);
    }
}

/// The prompts' first tokens of the sequences of each step from `from` on.
fn members(control: &SimControl, from: usize, prompt_lens: &[usize]) -> Vec<Vec<usize>> {
    let batches = control.batches();
    let of = |batch: &crate::StepBatch| {
        let lens = batch.sequences.iter().map(|s| s.prompt_len);
        lens.filter(|len| prompt_lens.contains(len)).collect()
    };
    batches[from..].iter().map(of).collect()
}

#[test]
fn who_comes_back_from_waiting_for_its_reader_has_its_turn() {
    let options = EngineOptions::new().with_channel_capacity(4).with_max_batch(1);
    let (model, control) = model(SimSpec::default(), options);
    let mut slow = model.generate(vec![1].into(), greedy(60)).unwrap();
    submit(&control, &mut slow);
    eventually(&model, "it is parked", |metrics| metrics.generated_tokens == 5);
    control.hold();
    let mut other = started(&model, &[2; 2], greedy(3));
    assert!(control.wait_for(6));
    slow.by_ref().take(3).for_each(|token| drop(token.unwrap()));
    control.release();
    assert_eq!(ids(&read(&mut other)), expected(&[2; 2], 3));
    // It came first, so it goes first, until it is parked again.
    assert_eq!(members(&control, 5, &[1, 2]), [[2], [1], [1], [1], [2], [2]]);
    drop(slow);
    assert_idle(&model);
}

#[test]
fn a_higher_priority_takes_the_slot_of_the_lowest() {
    let options = EngineOptions::new().with_max_batch(2).with_aging(Duration::from_secs(3600));
    let (model, control) = model(SimSpec::default(), options);
    control.hold();
    let requests = [(1, 0), (2, -1), (3, 0), (4, 1), (5, 1)];
    let mut streams = Vec::new();
    for (len, priority) in requests {
        let options = greedy(3).with_priority(priority);
        streams.push((len, started(&model, &vec![7; len], options)));
        // The first two run; of the others nobody knows before the next step.
        assert!(control.wait_for(1));
        if len == 1 {
            control.allow(1);
            assert!(control.wait_for(2));
        }
    }
    control.release();
    for (len, stream) in &mut streams {
        assert_eq!(ids(&read(stream)), expected(&vec![7; *len], 3));
    }
    let metrics = streams.pop().unwrap().1.finish().unwrap().metrics;
    assert_eq!((metrics.preemptions, model.metrics().preemptions), (0, 0), "no block is lost");
    let steps = members(&control, 0, &[1, 2, 3, 4, 5]);
    let first_of = |len| steps.iter().position(|step| step.contains(&len)).unwrap();
    // The two of priority 1 take both slots, though the first one was running.
    let both: Vec<_> = steps.iter().filter(|step| step.contains(&4)).collect();
    assert!(both.iter().all(|step| step.contains(&5)), "{steps:?}");
    assert!(first_of(4) < first_of(3), "{steps:?}");
    let last = steps.iter().rposition(|step| step.contains(&2)).unwrap();
    assert_eq!(last, steps.len() - 1, "the lowest is served last: {steps:?}");
    assert_idle(&model);
}

#[test]
fn an_equal_priority_takes_no_slot() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new().with_max_batch(1));
    control.hold();
    let mut first = started(&model, &[7], greedy(4));
    assert!(control.wait_for(1));
    let mut second = started(&model, &[7; 2], greedy(4));
    control.release();
    assert_eq!((read(&mut first).len(), read(&mut second).len()), (4, 4));
    let steps = members(&control, 0, &[1, 2]);
    assert_eq!(steps, [[1], [1], [1], [1], [2], [2], [2], [2]]);
}

#[test]
fn a_new_request_of_higher_priority_takes_blocks_too() {
    for shares in [true, false] {
        let spec =
            SimSpec::default().with_context_len(64).with_blocks(4, 16).with_shared_blocks(shares);
        let options = EngineOptions::new().with_aging(Duration::from_secs(3600));
        let (model, control) = model(spec, options);
        control.hold();
        // 15 of 16 blocks, in one sequence.
        let mut low = started(&model, &[1; 57], greedy(6));
        control.allow(1);
        assert!(control.wait_for(2));
        let mut high = started(&model, &[2; 30], greedy(20).with_priority(1));
        let mut equal = started(&model, &[3; 31], greedy(20));
        control.release();
        assert_eq!(ids(&read(&mut high)), expected(&[2; 30], 20));
        assert_eq!(ids(&read(&mut low)), expected(&[1; 57], 6));
        assert_eq!(ids(&read(&mut equal)), expected(&[3; 31], 20));
        assert_eq!(low.finish().unwrap().metrics.preemptions, 1);
        let steps = members(&control, 2, &[57, 30, 31]);
        assert_eq!(steps[0], [30], "{steps:?}");
        let last_high = steps.iter().rposition(|step| step.contains(&30)).unwrap();
        let equal = steps.iter().position(|step| step.contains(&31)).unwrap();
        let low = steps.iter().position(|step| step.contains(&57)).unwrap();
        assert!(last_high < low && low < equal, "{steps:?}");
        assert_idle(&model);
    }
}
