//! The handshake between a caller and its helpers, in every order in which
//! their threads can run (up to a bound on preemptions): by
//! `cargo test -p inference-cpu --features loom-tests --lib loom`.
//!
//! Helpers do not spin here: they sleep whenever there is nothing to do. Loom
//! finds a wake-up that is lost as a deadlock.

use std::sync::atomic::{AtomicUsize as Counter, Ordering::Relaxed};
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::handshake::Handshake;

/// Tries the orders with at most so many preemptions.
#[expect(clippy::print_stdout, reason = "the test's output")]
fn explore(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let orders = std::sync::Arc::new(Counter::new(0));
    let counted = std::sync::Arc::clone(&orders);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        test();
    });
    let orders = orders.load(Relaxed);
    println!("{orders} orders");
    assert!(orders > 10, "only {orders} orders: nothing was explored");
}

const ITEMS: usize = 2;

/// Cells without any synchronisation of their own: loom reports who reads or
/// writes one without being ordered after who wrote it.
struct Cells([UnsafeCell<usize>; ITEMS]);

/// Adds 1 to cells.
fn increment(data: *mut (), first: usize, end: usize) {
    // SAFETY: `data` is the `Cells` of the caller, which waits.
    let cells = unsafe { &*data.cast::<Cells>() };
    for cell in &cells.0[first..end] {
        // SAFETY: loom checks that no other thread has access.
        cell.with_mut(|value| unsafe { *value += 1 });
    }
}

/// Shares two pieces of work, one after the other, with so many helpers.
fn shares(helpers: usize) {
    let handshake = Arc::new(Handshake::new());
    let helpers: Vec<_> = (0..helpers)
        .map(|_| {
            let handshake = Arc::clone(&handshake);
            thread::spawn(move || handshake.help(|| (Duration::ZERO, false)))
        })
        .collect();
    for _ in 0..2 {
        let cells = Cells(std::array::from_fn(|_| UnsafeCell::new(0)));
        let data = std::ptr::from_ref(&cells).cast_mut().cast();
        assert!(handshake.share(increment, data, ITEMS, 1));
        for cell in &cells.0 {
            // SAFETY: as above: nobody is inside any more.
            assert_eq!(cell.with(|value| unsafe { *value }), 1);
        }
    }
    handshake.stop();
    for helper in helpers {
        helper.join().unwrap();
    }
}

#[test]
fn loom_work_is_done_once_and_seen_by_the_caller() {
    explore(3, || shares(1));
}

#[test]
fn loom_helpers_do_not_meet_each_others_work() {
    explore(1, || shares(2));
}

#[test]
fn loom_a_second_caller_is_refused_or_served() {
    explore(2, || {
        let handshake = Arc::new(Handshake::new());
        let helper = {
            let handshake = Arc::clone(&handshake);
            thread::spawn(move || handshake.help(|| (Duration::ZERO, false)))
        };
        let shared = Arc::clone(&handshake);
        let share = |handshake: &Handshake| {
            let cells = Cells(std::array::from_fn(|_| UnsafeCell::new(0)));
            let data = std::ptr::from_ref(&cells).cast_mut().cast();
            let served = handshake.share(increment, data, ITEMS, 1);
            for cell in &cells.0 {
                // SAFETY: as above.
                assert_eq!(cell.with(|value| unsafe { *value }), usize::from(served));
            }
            served
        };
        let other = thread::spawn(move || share(&shared));
        let first = share(&handshake);
        assert!(first | other.join().unwrap(), "both were refused");
        handshake.stop();
        helper.join().unwrap();
    });
}

#[test]
fn loom_a_sleeper_is_woken_without_work() {
    explore(3, || {
        let handshake = Arc::new(Handshake::new());
        let helper = {
            let handshake = Arc::clone(&handshake);
            thread::spawn(move || handshake.help(|| (Duration::ZERO, false)))
        };
        handshake.wake();
        handshake.stop();
        helper.join().unwrap();
    });
}
