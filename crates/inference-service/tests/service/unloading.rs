//! Unloading and closing, amid requests.

use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::{pin::Pin, sync::Arc, sync::Mutex};

use inference_core::{ErrorKind, FinishReason, GenerateOptions, TokenStream};
use inference_service::action::{Load, Unload};
use inference_service::reply::{Generation, ModelState};
use inference_service::{InferenceService, ServiceOptions, UnloadMode};

use crate::support::{service, wait_until};

fn start(service: &InferenceService, tokens: usize) -> Generation {
    let options = GenerateOptions::new().with_max_tokens(tokens);
    service.generate("sim", vec![1, 2], options).unwrap()
}

#[test]
fn closing_cancels_what_is_streamed() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let mut generation = start(&service, 100);
    generation.stream.next().unwrap().unwrap();
    let unloaded = service.unload("sim").unwrap();
    assert_eq!(unloaded.requests, 1);
    assert!(stage.sim("sim").is_dropped(), "its memory is free when unload returns");
    assert!(service.info().unwrap().models.is_empty());
    let completion = generation.stream.finish().unwrap();
    assert_eq!(completion.finish_reason, FinishReason::Cancelled);
    // The open request of the old model is nothing to the new one.
    service.load("sim", "sim").unwrap();
    assert_eq!(service.info().unwrap().models[0].requests, 0);
}

#[test]
fn draining_lets_what_was_submitted_end() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    control.hold();
    let mut generation = start(&service, 20);
    generation.stream.start();
    let unread = start(&service, 20);
    assert!(control.wait_for(1));
    thread::scope(|scope| {
        let drain = Unload::new("sim").with_mode(UnloadMode::Drain);
        let drained = scope.spawn(|| service.perform(drain).unwrap());
        wait_until(|| service.info().unwrap().models[0].state == ModelState::Unloading);
        let refused = service.generate("sim", vec![1], GenerateOptions::new()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ModelNotFound);
        // It may hold what this thread should read: not waited for.
        let refused = service.load("sim", "sim").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        control.release();
        let completion = generation.stream.finish().unwrap();
        assert_eq!(completion.finish_reason, FinishReason::Length);
        assert_eq!(completion.metrics.generated_tokens, 20);
        assert_eq!(drained.join().unwrap().requests, 2);
    });
    assert_eq!(unread.stream.finish().unwrap_err().kind(), ErrorKind::Closed);
    assert!(service.metrics().unwrap().open.is_empty());
}

#[test]
fn a_drain_is_cut_short_by_a_close() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    control.hold();
    let mut generation = start(&service, 20);
    generation.stream.start();
    assert!(control.wait_for(1));
    thread::scope(|scope| {
        let drain = Unload::new("sim").with_mode(UnloadMode::Drain);
        let drained = scope.spawn(|| service.perform(drain).unwrap());
        wait_until(|| service.info().unwrap().models[0].state == ModelState::Unloading);
        let closed = scope.spawn(|| service.unload("sim").unwrap());
        // Parked for lack of a reader, it would take the lag timeout to end.
        control.release();
        assert_eq!(closed.join().unwrap().name, "sim");
        drained.join().unwrap();
    });
    assert!(service.info().unwrap().models.is_empty());
    assert_eq!(service.metrics().unwrap().unloads, 1);
    let reason = generation.stream.finish().unwrap().finish_reason;
    assert_eq!(reason, FinishReason::Cancelled);
}

#[test]
fn a_model_that_panics_on_close_is_gone_nevertheless() {
    let (service, _) = service(ServiceOptions::new());
    service.load("a", "666 bytes").unwrap();
    let error = service.unload("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("cannot be closed"), "{error}");
    service.load("a", "1 bytes").unwrap();
}

#[test]
fn closing_the_service_ends_everything_and_refuses_the_rest() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    service.load("a", "1 bytes").unwrap();
    let mut generation = start(&service, 100);
    generation.stream.next().unwrap().unwrap();
    service.close(UnloadMode::Close).unwrap();
    service.close(UnloadMode::Drain).unwrap();
    assert!(stage.sim("sim").is_dropped());
    assert_eq!(stage.alive(), 0);
    assert_eq!(generation.stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
    assert_eq!(service.load("b", "1 bytes").unwrap_err().kind(), ErrorKind::Closed);
    let refused = service.generate("a", "x", GenerateOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed);
    assert!(service.info().unwrap().models.is_empty());
}

#[test]
fn dropping_the_last_handle_closes_although_streams_live() {
    let (service, stage) = service(ServiceOptions::new());
    service.load("sim", "sim").unwrap();
    let mut generation = start(&service, 100);
    generation.stream.next().unwrap().unwrap();
    let second = service.clone();
    drop(service);
    assert!(generation.stream.next().unwrap().is_ok());
    drop(second);
    assert!(stage.sim("sim").is_dropped());
    assert_eq!(generation.stream.finish().unwrap().finish_reason, FinishReason::Cancelled);
}

#[test]
fn closing_during_a_load_ends_that_model_as_well() {
    let (service, stage) = service(ServiceOptions::new());
    thread::scope(|scope| {
        let load = scope.spawn(|| service.load("a", "gated"));
        stage.await_loads(1);
        let closed = scope.spawn(|| service.close(UnloadMode::Close));
        wait_until(|| service.load("b", "1 bytes").is_err());
        stage.open_gate();
        assert_eq!(load.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        closed.join().unwrap().unwrap();
    });
    assert_eq!(stage.alive(), 0);
}

/// Drops what it was given when it is woken, on the engine's thread.
struct DropInWaker(Mutex<Option<Box<dyn Send>>>, mpsc::Sender<()>);

impl Wake for DropInWaker {
    fn wake(self: Arc<Self>) {
        if let Some(dropped) = self.0.lock().unwrap().take() {
            drop(dropped);
            self.1.send(()).unwrap();
        }
    }
}

fn poll(stream: &mut TokenStream, waker: &Arc<DropInWaker>) {
    let waker = Waker::from(Arc::clone(waker));
    let mut cx = Context::from_waker(&waker);
    let polled = futures_core::Stream::poll_next(Pin::new(stream), &mut cx);
    assert!(matches!(polled, Poll::Pending));
}

#[test]
fn a_stream_or_the_whole_service_may_be_dropped_inside_a_waker() {
    for last_handle in [false, true] {
        let (service, stage) = service(ServiceOptions::new());
        service.load("sim", "sim").unwrap();
        let control = stage.sim("sim");
        control.hold();
        let (dropped, was_dropped) = mpsc::channel();
        let waker = Arc::new(DropInWaker(Mutex::default(), dropped));
        let mut first = start(&service, 100);
        let second = start(&service, 100);
        poll(&mut first.stream, &waker);
        let watched = (!last_handle).then(|| service.clone());
        *waker.0.lock().unwrap() = Some(Box::new((second, service)));
        control.release();
        was_dropped.recv().unwrap();
        match watched {
            Some(service) => {
                assert_eq!(service.metrics().unwrap().open.len(), 1);
                drop(first);
                service.load("other", "1 bytes").unwrap();
            }
            None => {
                let reason = first.stream.finish().unwrap().finish_reason;
                assert_eq!(reason, FinishReason::Cancelled);
            }
        }
    }
}

#[test]
fn an_eviction_waits_for_the_memory_that_another_unload_frees() {
    let options = ServiceOptions::new().with_memory_budget(10_000);
    let (service, stage) = service(options);
    service.load("sim", "sim").unwrap();
    let control = stage.sim("sim");
    control.hold();
    let mut generation = start(&service, 100);
    generation.stream.start();
    assert!(control.wait_for(1));
    thread::scope(|scope| {
        let unload = scope.spawn(|| service.unload("sim").unwrap());
        wait_until(|| service.info().unwrap().models[0].state == ModelState::Unloading);
        // Room is promised, and only used once it is there.
        let load = Load::new("sim2", "sim2").with_memory_bytes(7000);
        let loaded = scope.spawn(|| service.perform(load).unwrap());
        wait_until(|| service.info().unwrap().models.len() == 2);
        let begun = stage.loads();
        control.release();
        unload.join().unwrap();
        assert_eq!(begun, ["sim"]);
        assert!(loaded.join().unwrap().unloaded.is_empty());
    });
    assert_eq!(stage.loads(), ["sim", "sim2"]);
}
