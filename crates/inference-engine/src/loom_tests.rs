//! The handshakes between engine, readers and callers, in every order in which
//! their threads can run (up to a bound on preemptions): by
//! `cargo test -p inference-engine --features loom-tests --lib loom`.
//!
//! Loom finds a wake-up that is lost as a deadlock: its waits have no timeout.
//! The block pool is not here, since the engine thread alone owns it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use inference_core::{
    Completion, Error, ErrorKind, FinishReason, GenerateMetrics, GenerateOptions, ModelInfo,
    TextModel, Token, TokenEvent, TokenStream,
};

use crate::channel::{TokenReader, channel};
use crate::mailbox::Mailbox;
use crate::sim_runner::{SimControl, SimFault, SimRunner, SimSpec};
use crate::sync::{Condvar, Mutex, thread};
use crate::{EngineModel, EngineOptions, ModelParts};

/// Tries the orders with at most so many preemptions.
#[expect(clippy::print_stdout, reason = "the test's output")]
fn explore(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        test();
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders");
    assert!(orders > 10, "only {orders} orders: nothing was explored");
}

/// Sleeps until it is woken.
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let signal = Arc::new(Signal { woken: Mutex::new(false), changed: Condvar::new() });
    let waker = Waker::from(Arc::clone(&signal));
    loop {
        if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let mut woken = signal.woken.lock().unwrap();
        while !*woken {
            woken = signal.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

fn mailbox(max_queue: usize) -> Arc<Mailbox> {
    Arc::new(Mailbox::new(max_queue, Duration::from_secs(1)))
}

fn finished() -> inference_core::Result<Completion> {
    Ok(Completion::new(FinishReason::Length, GenerateMetrics::default(), 0))
}

/// What a stream brings, and how it ends.
fn read_all(reader: &TokenReader) -> (Vec<u32>, inference_core::Result<FinishReason>) {
    let mut ids = Vec::new();
    loop {
        match block_on(|cx| reader.poll(cx)) {
            TokenEvent::Token(token) => ids.push(token.id),
            TokenEvent::Finished(completion) => return (ids, Ok(completion.finish_reason)),
            TokenEvent::Failed(error) => return (ids, Err(error)),
            _ => unreachable!(),
        }
    }
}

#[test]
fn loom_a_parked_sender_is_woken_and_no_token_is_lost() {
    explore(5, || {
        let mailbox = mailbox(1);
        let (mut sender, reader) = channel(1, Arc::clone(&mailbox));
        let reading = thread::spawn(move || read_all(&reader));
        for id in 0..3 {
            let mut token = Token::new(id, "");
            while let Err(back) = sender.send(token) {
                token = *back;
                mailbox.wait(None);
                mailbox.collect();
            }
            sender.wake_reader();
        }
        sender.end([], finished());
        let (ids, reason) = reading.join().unwrap();
        assert_eq!((ids, reason.unwrap()), (vec![0, 1, 2], FinishReason::Length));
    });
}

#[test]
fn loom_a_sender_that_waits_hears_that_its_reader_left() {
    explore(5, || {
        let mailbox = mailbox(1);
        let (mut sender, reader) = channel(1, Arc::clone(&mailbox));
        let reading = thread::spawn(move || {
            let _ = reader.poll(&mut Context::from_waker(Waker::noop()));
            drop(reader);
        });
        let mut sent = 0;
        while !sender.is_cancelled() {
            match sender.send(Token::new(sent, "")) {
                Ok(()) => sent += 1,
                Err(_) => {
                    mailbox.wait(None);
                    mailbox.collect();
                }
            }
            if sent == 3 {
                break;
            }
        }
        sender.end([], finished());
        reading.join().unwrap();
    });
}

#[test]
fn loom_the_end_reaches_a_reader_that_waits() {
    explore(5, || {
        let (mut sender, reader) = channel(1, mailbox(1));
        let ending = thread::spawn(move || {
            if sender.send(Token::new(1, "")).is_ok() {
                sender.end([Token::new(2, "")], finished());
            }
        });
        assert_eq!(read_all(&reader).0, [1, 2]);
        ending.join().unwrap();
        let (sender, reader) = channel(1, mailbox(1));
        let dropping = thread::spawn(move || drop(sender));
        assert_eq!(read_all(&reader).1.unwrap_err().kind(), ErrorKind::Engine);
        dropping.join().unwrap();
    });
}

#[test]
fn loom_a_wake_up_before_the_wait_is_not_lost() {
    explore(6, || {
        let mailbox = mailbox(1);
        let shared = Arc::clone(&mailbox);
        let caller = thread::spawn(move || {
            shared.wake();
            shared.drain();
        });
        while !mailbox.collect().draining {
            mailbox.wait(None);
        }
        caller.join().unwrap();
    });
}

/// A whole engine.
fn model(options: EngineOptions) -> (Arc<EngineModel>, SimControl) {
    let (runner, control) = SimRunner::new(SimSpec::default().with_vocab_size(4).with_blocks(4, 4));
    let parts = ModelParts::new(ModelInfo::default());
    (EngineModel::start(Box::new(runner), parts, options).unwrap(), control)
}

fn small() -> EngineOptions {
    EngineOptions::new().with_max_batch(1).with_channel_capacity(1).with_prefix_cache(false)
}

fn request(model: &EngineModel, tokens: usize) -> inference_core::Result<TokenStream> {
    let options = GenerateOptions::new().with_max_tokens(tokens).with_seed(0);
    model.generate(vec![1].into(), options)
}

fn read(stream: &mut TokenStream) -> Result<usize, Error> {
    let mut count = 0;
    while let Some(token) = block_on(|cx| pin!(stream.next_async()).poll(cx)) {
        token?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn loom_an_engine_that_drains_lets_a_slow_reader_finish() {
    explore(2, || {
        let (model, _) = model(small());
        let mut stream = request(&model, 3).unwrap();
        stream.start();
        let draining = Arc::clone(&model);
        let draining = thread::spawn(move || draining.drain());
        assert_eq!(read(&mut stream).unwrap(), 3);
        draining.join().unwrap();
    });
}

#[test]
fn loom_an_engine_that_drains_hears_of_a_dropped_stream() {
    explore(3, || {
        let (model, _) = model(small());
        let mut stream = request(&model, 3).unwrap();
        stream.start();
        let draining = Arc::clone(&model);
        let draining = thread::spawn(move || draining.drain());
        drop(stream);
        draining.join().unwrap();
        assert_eq!(model.metrics().kv_blocks_used, 0);
    });
}

#[test]
fn loom_a_request_that_meets_a_close_ends_or_is_refused() {
    explore(2, || {
        let (model, _) = model(small());
        let closing = Arc::clone(&model);
        let closing = thread::spawn(move || closing.close());
        match request(&model, 2).map(|mut stream| (read(&mut stream), stream)) {
            Err(error) | Ok((Err(error), _)) => assert_eq!(error.kind(), ErrorKind::Closed),
            Ok((Ok(count), stream)) => match stream.completion().unwrap().finish_reason {
                FinishReason::Length => assert_eq!(count, 2),
                ref reason => assert_eq!(*reason, FinishReason::Cancelled),
            },
        }
        model.close();
        closing.join().unwrap();
        assert_eq!(model.metrics().kv_blocks_used, 0);
    });
}

#[test]
fn loom_every_request_hears_of_a_fatal_failure() {
    explore(3, || {
        let (model, control) = model(small());
        control.fail_at(0, SimFault::Error { survives: false });
        let other = Arc::clone(&model);
        let other = thread::spawn(move || {
            request(&other, 2).and_then(|mut stream| read(&mut stream)).unwrap_err()
        });
        let own = request(&model, 2).and_then(|mut stream| read(&mut stream)).unwrap_err();
        let other = other.join().unwrap();
        for error in [own, other] {
            assert_eq!(error.to_string(), "simulated failure");
        }
        model.close();
    });
}

#[test]
fn loom_a_batch_that_waits_for_room_in_the_queue_gets_it() {
    explore(2, || {
        let (model, _) = model(small().with_max_queue(1).with_channel_capacity(2));
        let sharing = Arc::clone(&model);
        let other = thread::spawn(move || {
            let mut stream = request(&sharing, 1)?;
            read(&mut stream)
        });
        let options = GenerateOptions::new().with_max_tokens(1).with_seed(0);
        let item = || inference_core::BatchItem::new(vec![2]).with_options(options.clone());
        let mut batch = model.batch_generate(vec![item(), item()]).unwrap();
        let mut ended = 0;
        while let Some((_, event)) = block_on(|cx| pin!(&mut batch).poll_next(cx)) {
            match event {
                TokenEvent::Token(_) => {}
                TokenEvent::Finished(_) => ended += 1,
                event => unreachable!("{event:?}"),
            }
        }
        assert_eq!(ended, 2);
        // The other may have found the queue full.
        if let Err(error) = other.join().unwrap() {
            assert_eq!(error.kind(), ErrorKind::Exhausted);
        }
        model.close();
    });
}
