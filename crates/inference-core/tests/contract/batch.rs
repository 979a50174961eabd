//! `BatchStream`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use futures_core::Stream;
use inference_core::{BatchStream, Error, ErrorKind, FinishReason, TokenEvent, TokenSource};

use crate::support::{CountingWaker, Script, finished, next, run, token};

fn batch(scripts: &[Script]) -> BatchStream {
    BatchStream::new(scripts.iter().map(|script| Ok(script.source())).collect())
}

fn poll(stream: &mut BatchStream, waker: &Arc<CountingWaker>) -> Poll<Option<(usize, TokenEvent)>> {
    let waker = Waker::from(Arc::clone(waker));
    Pin::new(stream).poll_next(&mut Context::from_waker(&waker))
}

fn total_polls(scripts: &[Script]) -> usize {
    scripts.iter().map(Script::polls).sum()
}

#[test]
fn an_empty_batch_is_at_its_end() {
    assert!(batch(&[]).next().is_none());
    assert!(batch(&[]).collect_all().is_empty());
}

#[test]
fn the_first_read_submits_every_item() {
    let scripts: Vec<_> = (0..10).map(|id| Script::new([token(id)])).collect();
    let mut stream = batch(&scripts);
    assert_eq!(total_polls(&scripts), 0);
    let (index, _) = stream.next().unwrap();
    assert_eq!(index, 0);
    assert!(scripts.iter().all(|script| script.polls() == 1));
}

#[test]
fn an_event_costs_one_poll_however_many_items_wait() {
    let scripts: Vec<_> = (0..1000).map(|_| Script::default()).collect();
    let mut stream = batch(&scripts);
    let waker = Arc::new(CountingWaker::default());
    assert!(poll(&mut stream, &waker).is_pending());
    assert_eq!(total_polls(&scripts), 1000);
    assert!(poll(&mut stream, &waker).is_pending());
    assert_eq!(total_polls(&scripts), 1000);

    scripts[700].push(token(7));
    assert_eq!(waker.count(), 1);
    assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some((700, TokenEvent::Token(_))))));
    assert_eq!(total_polls(&scripts), 1001);
    // It may have more, so it is asked once again before the batch waits.
    assert!(poll(&mut stream, &waker).is_pending());
    assert_eq!(total_polls(&scripts), 1002);
}

#[test]
fn items_that_are_all_ready_take_turns() {
    let script = |_| Script::new((0..4).map(token).chain([finished(FinishReason::Length)]));
    let scripts: Vec<_> = (0..3).map(script).collect();
    let order: Vec<_> = batch(&scripts).map(|(index, _)| index).collect();
    assert_eq!(order, [0, 1, 2].repeat(5));
}

#[test]
fn a_refused_or_failing_item_does_not_disturb_the_others() {
    let good = Script::new([token(1), token(2), finished(FinishReason::Length)]);
    let failing = Script::new([token(3), TokenEvent::Failed(Error::engine_message("overflow"))]);
    let refused = Error::invalid_input("prompt", "at least one token", "none");
    let stream = BatchStream::new(vec![Err(refused), Ok(good.source()), Ok(failing.source())]);
    let outputs = stream.collect_all();
    assert_eq!(outputs[0].as_ref().unwrap_err().kind(), ErrorKind::InvalidInput);
    let output = outputs[1].as_ref().unwrap();
    assert_eq!((output.text.as_str(), output.tokens.len()), ("12", 2));
    assert_eq!(outputs[2].as_ref().unwrap_err().to_string(), "overflow");
}

#[test]
fn cancel_ends_every_item_once() {
    let scripts = [Script::new([token(1)]), Script::default(), Script::default()];
    let mut stream = batch(&scripts);
    assert_eq!(stream.next().unwrap().0, 0);
    stream.cancel();
    let mut ends = [0; 3];
    for (index, event) in stream.by_ref() {
        let TokenEvent::Finished(completion) = event else { panic!("{event:?}") };
        assert_eq!(completion.finish_reason, FinishReason::Cancelled);
        ends[index] += 1;
    }
    assert_eq!(ends, [1, 1, 1]);
    assert!(stream.next().is_none());

    let unread = [Script::default()];
    let mut stream = batch(&unread);
    stream.cancel();
    assert_eq!(
        stream.collect_all()[0].as_ref().unwrap().completion.finish_reason,
        FinishReason::Cancelled
    );
}

#[test]
fn dropping_it_drops_every_source() {
    let scripts = [Script::new([token(1)]), Script::default()];
    let mut stream = batch(&scripts);
    stream.next();
    drop(stream);
    assert!(scripts.iter().all(Script::dropped));
}

#[test]
fn a_source_is_dropped_when_its_item_ends() {
    let scripts = [Script::new([finished(FinishReason::Length)]), Script::default()];
    let mut stream = batch(&scripts);
    stream.next();
    assert!(scripts[0].dropped() && !scripts[1].dropped());
}

/// Writers on their own threads, in no particular order.
#[test]
fn a_guard_is_dropped_when_the_last_item_ends_or_with_the_stream() {
    let guard = Arc::new(());
    let scripts = [
        Script::new([finished(FinishReason::Length)]),
        Script::new([token(1), finished(FinishReason::Length)]),
    ];
    let mut stream = batch(&scripts).with_guard(Arc::clone(&guard));
    for _ in 0..2 {
        stream.next().unwrap();
        assert_eq!(Arc::strong_count(&guard), 2);
    }
    stream.next().unwrap();
    assert_eq!(Arc::strong_count(&guard), 1, "the stream lives, its items do not");

    let stream = batch(&[Script::default()]).with_guard(Arc::clone(&guard));
    assert_eq!(Arc::strong_count(&guard), 2);
    drop(stream);
    assert_eq!(Arc::strong_count(&guard), 1);

    let empty = batch(&[]).with_guard(Arc::clone(&guard));
    assert_eq!(Arc::strong_count(&guard), 1);
    drop(empty);
}

fn write(scripts: &[Script], tokens: u32) -> Vec<thread::JoinHandle<()>> {
    let lanes = scripts.chunks(scripts.len().div_ceil(4)).map(<[Script]>::to_vec);
    let writer = |lane: Vec<Script>| {
        thread::spawn(move || {
            for id in 0..tokens {
                lane.iter().for_each(|script| script.push(token(id)));
            }
            lane.iter().for_each(|script| script.push(finished(FinishReason::Length)));
        })
    };
    lanes.map(writer).collect()
}

/// Every item got its tokens in order and then its one end.
fn check(events: Vec<(usize, TokenEvent)>, items: usize, tokens: u32) {
    let mut seen = vec![(0, false); items];
    for (index, event) in events {
        let (next, ended) = &mut seen[index];
        assert!(!*ended, "item {index}: an event after its end");
        match event {
            TokenEvent::Token(token) => {
                assert_eq!(token.id, *next);
                *next += 1;
            }
            TokenEvent::Finished(_) => *ended = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, vec![(tokens, true); items]);
}

#[test]
fn every_item_ends_exactly_once_read_blocking() {
    let scripts: Vec<_> = (0..1000).map(|_| Script::default()).collect();
    let writers = write(&scripts, 20);
    check(batch(&scripts).collect(), 1000, 20);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn every_item_ends_exactly_once_read_by_an_executor() {
    let scripts: Vec<_> = (0..100).map(|_| Script::default()).collect();
    let writers = write(&scripts, 50);
    let events = run(async {
        let mut stream = batch(&scripts);
        let mut events = Vec::new();
        while let Some(event) = next(&mut stream).await {
            events.push(event);
        }
        events
    });
    check(events, 100, 50);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn a_waker_that_outlives_its_item_does_nothing() {
    let scripts = [Script::default(), Script::default()];
    let mut stream = batch(&scripts);
    let waker = Arc::new(CountingWaker::default());
    assert!(poll(&mut stream, &waker).is_pending());
    let stale = scripts[0].waker().unwrap();
    scripts[0].push(finished(FinishReason::Length));
    assert!(poll(&mut stream, &waker).is_ready());
    stale.wake_by_ref();
    assert!(poll(&mut stream, &waker).is_pending());
    drop(stream);
    stale.wake();
}

/// Is never ready and always says that it will be.
struct Restless;

impl TokenSource for Restless {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn cancel(&mut self) {}
}

#[test]
fn a_restless_source_neither_holds_the_thread_nor_starves_the_others() {
    let script = Script::default();
    let mut stream = BatchStream::new(vec![Ok(Box::new(Restless)), Ok(script.source())]);
    let waker = Arc::new(CountingWaker::default());
    assert!(poll(&mut stream, &waker).is_pending());
    assert!(waker.count() > 0);
    script.push(token(1));
    assert!(matches!(poll(&mut stream, &waker), Poll::Ready(Some((1, TokenEvent::Token(_))))));
}
