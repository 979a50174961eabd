//! `TokenStream`.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use inference_core::{
    Error, ErrorKind, FinishReason, TextModel, TokenEvent, TokenSource, TokenStream,
};

use crate::support::{CountingWaker, Script, finished, next, run, token};

fn ids(stream: &mut TokenStream) -> Vec<u32> {
    stream.map(|token| token.unwrap().id).collect()
}

#[test]
fn the_contract_is_object_safe_and_crosses_threads() {
    fn sends<T: Send + ?Sized>() {}
    fn shares<T: Sync + ?Sized>() {}
    sends::<TokenStream>();
    sends::<inference_core::BatchStream>();
    sends::<dyn TextModel>();
    shares::<dyn TextModel>();
    shares::<Error>();
}

#[test]
fn nothing_is_submitted_before_the_first_read() {
    let script = Script::new([token(1), finished(FinishReason::Length)]);
    let mut stream = TokenStream::new(script.source());
    assert_eq!(script.polls(), 0);
    assert!(stream.completion().is_none());
    assert_eq!(ids(&mut stream), [1]);
    assert_eq!(stream.completion().unwrap().finish_reason, FinishReason::Length);
    assert!(stream.next().is_none());
    assert_eq!(script.polls(), 2);
}

#[test]
fn start_submits_once_and_loses_nothing() {
    let script = Script::new([token(1), token(2), finished(FinishReason::Length)]);
    let mut stream = TokenStream::new(script.source());
    stream.start();
    stream.start();
    assert_eq!(script.polls(), 1);
    assert_eq!(ids(&mut stream), [1, 2]);

    // Nothing there yet: the waker of `start` is replaced by the reader's.
    let script = Script::default();
    let mut stream = TokenStream::new(script.source());
    stream.start();
    assert_eq!(script.polls(), 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            script.push(finished(FinishReason::Length));
        });
        assert!(stream.next().is_none());
    });
}

#[test]
fn dropping_the_stream_drops_its_source() {
    let script = Script::new([token(1)]);
    let mut stream = TokenStream::new(script.source());
    stream.next().unwrap().unwrap();
    assert!(!script.dropped());
    drop(stream);
    assert!(script.dropped());
}

#[test]
fn the_source_is_dropped_at_the_end_although_the_stream_lives() {
    let script = Script::new([finished(FinishReason::Length)]);
    let mut stream = TokenStream::new(script.source());
    assert!(stream.next().is_none());
    assert!(script.dropped());
}

/// Notes when it is dropped, and whether the source was gone by then.
struct Guard(Script, Arc<std::sync::Mutex<Vec<bool>>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.1.lock().unwrap().push(self.0.dropped());
    }
}

#[test]
fn a_guard_is_dropped_once_after_the_source_at_the_end_or_with_the_stream() {
    let drops = Arc::new(std::sync::Mutex::new(Vec::new()));
    let guarded = |script: &Script| {
        TokenStream::new(script.source()).with_guard(Guard(script.clone(), Arc::clone(&drops)))
    };
    let script = Script::new([token(1), finished(FinishReason::Length)]);
    let mut ended = guarded(&script);
    assert_eq!(ended.next().unwrap().unwrap().id, 1);
    assert!(drops.lock().unwrap().is_empty());
    assert!(ended.next().is_none());
    assert_eq!(*drops.lock().unwrap(), [true]);
    drop(ended);
    assert_eq!(*drops.lock().unwrap(), [true]);

    let script = Script::new([token(1)]);
    let mut dropped = guarded(&script);
    dropped.start();
    drop(dropped);
    assert_eq!(*drops.lock().unwrap(), [true, true]);

    // Nothing is left to guard.
    let script = Script::new([finished(FinishReason::Length)]);
    let mut ended = TokenStream::new(script.source());
    assert!(ended.next().is_none());
    let ended = ended.with_guard(Guard(script, Arc::clone(&drops)));
    assert_eq!(drops.lock().unwrap().len(), 3);
    drop(ended);
}

#[test]
fn cancel_ends_it_and_finish_says_so() {
    let script = Script::new([token(1)]);
    let mut stream = TokenStream::new(script.source());
    stream.next().unwrap().unwrap();
    stream.cancel();
    assert!(script.cancelled());
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::Cancelled);

    let mut unread = TokenStream::new(Script::default().source());
    unread.cancel();
    assert_eq!(unread.finish().unwrap().finish_reason, FinishReason::Cancelled);
}

#[test]
fn an_error_is_yielded_once_and_finish_repeats_it() {
    let failed = || TokenEvent::Failed(Error::engine_message("the device is gone"));
    let script = Script::new([token(1), failed()]);
    let mut stream = TokenStream::new(script.source());
    assert!(stream.next().unwrap().is_ok());
    assert_eq!(stream.next().unwrap().unwrap_err().kind(), ErrorKind::Engine);
    assert!(stream.next().is_none());
    assert!(stream.completion().is_none());
    assert_eq!(stream.finish().unwrap_err().to_string(), "the device is gone");

    let unread = TokenStream::new(Script::new([token(1), failed()]).source());
    assert_eq!(unread.finish().unwrap_err().to_string(), "the device is gone");
    let text = TokenStream::new(Script::new([token(1), failed()]).source()).collect_text();
    assert_eq!(text.unwrap_err().to_string(), "the device is gone");
}

#[test]
fn finish_reads_what_is_left() {
    let script = Script::new([token(1), token(2), finished(FinishReason::StopToken(9))]);
    let mut stream = TokenStream::new(script.source());
    stream.next().unwrap().unwrap();
    assert_eq!(stream.finish().unwrap().finish_reason, FinishReason::StopToken(9));

    let script = Script::new([token(1), token(2), finished(FinishReason::Length)]);
    let (text, _) = TokenStream::new(script.source()).collect_text().unwrap();
    assert_eq!(text, "12");
}

#[test]
fn blocking_inside_an_executor_neither_panics_nor_disturbs_it() {
    let script = Script::default();
    let writer = script.clone();
    let writer = thread::spawn(move || {
        for id in 0..100 {
            thread::sleep(Duration::from_micros(50));
            writer.push(token(id));
        }
        writer.push(finished(FinishReason::Length));
    });
    let read = run(async {
        let mut stream = TokenStream::new(script.source());
        let mut read = Vec::new();
        // Blocking and awaiting take turns on the same stream.
        loop {
            let Some(token) = stream.next() else { break };
            read.push(token.unwrap().id);
            let Some(token) = next(&mut stream).await else { break };
            read.push(token.unwrap().id);
            let Some(token) = stream.next_async().await else { break };
            read.push(token.unwrap().id);
        }
        assert_eq!(stream.finish_async().await.unwrap().finish_reason, FinishReason::Length);
        read
    });
    writer.join().unwrap();
    assert_eq!(read, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_pending_stream_wakes_the_latest_waker_only() {
    let script = Script::default();
    let mut stream = Box::pin(TokenStream::new(script.source()));
    let wakers = [Arc::new(CountingWaker::default()), Arc::new(CountingWaker::default())];
    for waker in &wakers {
        let waker = Waker::from(Arc::clone(waker));
        assert!(stream.as_mut().poll_next(&mut Context::from_waker(&waker)).is_pending());
    }
    script.push(token(1));
    assert_eq!((wakers[0].count(), wakers[1].count()), (0, 1));
}

#[test]
fn dropping_next_async_loses_no_token() {
    let script = Script::default();
    let mut stream = TokenStream::new(script.source());
    {
        let mut future = Box::pin(stream.next_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    script.push(token(1));
    script.push(finished(FinishReason::Length));
    assert_eq!(ids(&mut stream), [1]);
}

/// Wakes during its poll, and then takes the thread's park token.
struct Parks(usize);

impl TokenSource for Parks {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<TokenEvent> {
        if self.0 == 0 {
            return Poll::Ready(finished(FinishReason::Length));
        }
        self.0 -= 1;
        cx.waker().wake_by_ref();
        thread::park_timeout(Duration::from_millis(1));
        Poll::Pending
    }

    fn cancel(&mut self) {}
}

#[test]
fn a_source_that_parks_does_not_lose_the_wake_up() {
    assert!(TokenStream::new(Box::new(Parks(10))).next().is_none());
}

#[test]
fn the_callers_own_park_token_is_left_alone() {
    let script = Script::default();
    let mut stream = TokenStream::new(script.source());
    // Not a scope, whose end parks this thread itself.
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        script.push(token(1));
    });
    thread::current().unpark();
    stream.next().unwrap().unwrap();
    let before = Instant::now();
    thread::park_timeout(Duration::from_secs(60));
    assert!(before.elapsed() < Duration::from_secs(30));
    writer.join().unwrap();
}
