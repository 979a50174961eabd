//! How a caller shares one piece of work with threads that wait for it.
//!
//! One word, the gate, says whether work is open, how many helpers are in it,
//! and how often it was opened. A helper enters by adding 1 and stays if it
//! finds the gate open; the caller opens, takes part, closes, and waits until
//! nobody is inside. So it waits only for helpers that came: one that the
//! operating system does not run costs nothing, and comes too late for work
//! that has changed in the meantime. Pieces are claimed from a counter.
//!
//! Helpers without work spin, then give way, then sleep on a condition
//! variable. A sleeper counts itself before its last look at the gate, a
//! caller looks for sleepers after opening, with a sequentially consistent
//! fence in both between the two: one of them sees the other.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, fence, yield_now,
};

/// The gate's lowest bits count helpers inside.
const INSIDE: u64 = (1 << 16) - 1;

/// Set while there may be work left.
const OPEN: u64 = 1 << 16;

/// Counts how often the gate was opened.
const OPENED: u64 = 1 << 17;

/// Looks at the gate before the first one that gives way to other threads:
/// some microseconds.
const EAGER_LOOKS: u64 = 512;

/// Looks at the gate between two at the clock.
const LOOKS_PER_CLOCK: u64 = 8;

/// A function of a range of items: `(data, first, end)`. It must not unwind.
pub(crate) type Call = fn(*mut (), usize, usize);

/// What is shared. Cache lines that different threads write are kept apart.
#[derive(Debug)]
pub(crate) struct Handshake {
    entrance: Line<Entrance>,
    /// The next item to be claimed.
    next: Line<AtomicUsize>,
    sleep: Sleep,
}

#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

/// The gate and the work behind it, which only its owner writes, while the
/// gate is closed and nobody inside.
#[derive(Debug)]
struct Entrance {
    gate: AtomicU64,
    owned: AtomicBool,
    /// A [`Call`], as an address.
    call: AtomicPtr<()>,
    data: AtomicPtr<()>,
    items: AtomicUsize,
    /// Items per claim.
    grain: AtomicUsize,
}

#[derive(Debug)]
struct Sleep {
    sleepers: AtomicUsize,
    stop: AtomicBool,
    /// How often sleepers were called, with or without work.
    calls: Mutex<u64>,
    called: Condvar,
}

impl Handshake {
    pub(crate) fn new() -> Self {
        Self {
            entrance: Line(Entrance {
                gate: AtomicU64::new(0),
                owned: AtomicBool::new(false),
                call: AtomicPtr::new(std::ptr::null_mut()),
                data: AtomicPtr::new(std::ptr::null_mut()),
                items: AtomicUsize::new(0),
                grain: AtomicUsize::new(1),
            }),
            next: Line(AtomicUsize::new(0)),
            sleep: Sleep {
                sleepers: AtomicUsize::new(0),
                stop: AtomicBool::new(false),
                calls: Mutex::new(0),
                called: Condvar::new(),
            },
        }
    }

    /// Calls `call` with ranges that cover `0..items`, on this thread and any
    /// that help; they have returned when this returns. False, and nothing
    /// done, where another caller shares its work at this moment.
    pub(crate) fn share(&self, call: Call, data: *mut (), items: usize, grain: usize) -> bool {
        let entrance = &self.entrance.0;
        if entrance.owned.swap(true, Ordering::Acquire) {
            return false;
        }
        // Published by the opening of the gate.
        entrance.call.store(call as *mut (), Ordering::Relaxed);
        entrance.data.store(data, Ordering::Relaxed);
        entrance.items.store(items, Ordering::Relaxed);
        entrance.grain.store(grain.max(1), Ordering::Relaxed);
        self.next.0.store(0, Ordering::Relaxed);
        entrance.gate.fetch_add(OPENED | OPEN, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.sleep.sleepers.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
        self.take_part(call, data, items, grain.max(1));
        entrance.gate.fetch_sub(OPEN, Ordering::Relaxed);
        let mut looks = 0;
        // Acquires what those who left have written.
        while entrance.gate.load(Ordering::Acquire) & INSIDE != 0 {
            looks += 1;
            pause(looks < EAGER_LOOKS);
        }
        entrance.owned.store(false, Ordering::Release);
        true
    }

    /// No more items are claimed of the work at hand. For a [`Call`] that is
    /// running.
    pub(crate) fn abandon(&self) {
        self.next.0.store(usize::MAX / 2, Ordering::Relaxed);
    }

    /// Wakes the helpers that sleep: work is to be expected.
    pub(crate) fn wake(&self) {
        let mut calls = self.sleep.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        // All of them, so that the next piece of work does not call again.
        self.sleep.sleepers.store(0, Ordering::Relaxed);
        drop(calls);
        self.sleep.called.notify_all();
    }

    /// Whether helpers sleep.
    pub(crate) fn sleeping(&self) -> bool {
        self.sleep.sleepers.load(Ordering::Relaxed) > 0
    }

    /// Lets the helpers return.
    pub(crate) fn stop(&self) {
        self.sleep.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Helps until [`stop`](Self::stop). `patience` says how long to look for
    /// work before sleeping, and whether other threads want the CPU now.
    pub(crate) fn help(&self, patience: impl Fn() -> (Duration, bool)) {
        let entrance = &self.entrance.0;
        let mut last = 0;
        while self.wait(last, &patience) {
            // Acquires the work: later additions continue the release.
            let gate = entrance.gate.fetch_add(1, Ordering::Acquire);
            if gate & OPEN != 0 {
                last = opening(gate);
                let data = entrance.data.load(Ordering::Relaxed);
                let items = entrance.items.load(Ordering::Relaxed);
                let grain = entrance.grain.load(Ordering::Relaxed);
                // SAFETY: the gate is open and this helper inside: the field
                // holds the `Call` that `share` put there.
                let call: Call =
                    unsafe { std::mem::transmute(entrance.call.load(Ordering::Relaxed)) };
                self.take_part(call, data, items, grain);
            }
            entrance.gate.fetch_sub(1, Ordering::Release);
        }
    }

    fn take_part(&self, call: Call, data: *mut (), items: usize, grain: usize) {
        loop {
            let first = self.next.0.fetch_add(grain, Ordering::Relaxed);
            if first >= items {
                return;
            }
            call(data, first, items.min(first.saturating_add(grain)));
        }
    }

    /// Waits for an opening other than `last`; false: to stop.
    fn wait(&self, last: u64, patience: &impl Fn() -> (Duration, bool)) -> bool {
        let new = || {
            let gate = self.entrance.0.gate.load(Ordering::Relaxed);
            gate & OPEN != 0 && opening(gate) != last
        };
        let mut since = None;
        let mut looks = 0u64;
        let mut eager = true;
        loop {
            if new() {
                return true;
            }
            if looks.is_multiple_of(LOOKS_PER_CLOCK) {
                if self.sleep.stop.load(Ordering::Relaxed) {
                    return false;
                }
                let (spin, crowded) = patience();
                eager = !crowded && looks < EAGER_LOOKS;
                let now = (!spin.is_zero()).then(Instant::now);
                if now.is_none_or(|now| now - *since.get_or_insert(now) >= spin) {
                    self.sleep_until(&new);
                    (since, looks) = (None, 0);
                    continue;
                }
            }
            looks += 1;
            pause(eager);
        }
    }

    /// Sleeps until there is something new, or a call.
    fn sleep_until(&self, new: &impl Fn() -> bool) {
        let mut calls = self.sleep.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *calls;
        self.sleep.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while *calls == before && !new() && !self.sleep.stop.load(Ordering::Relaxed) {
            calls = self.sleep.called.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        if *calls == before {
            // Not called: still counted.
            self.sleep.sleepers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Which opening of the gate this is.
fn opening(gate: u64) -> u64 {
    gate / OPENED
}

/// Waits a moment: on the CPU, or giving it to other threads.
fn pause(eager: bool) {
    if cfg!(all(test, feature = "loom-tests")) || !eager {
        yield_now();
    } else {
        std::hint::spin_loop();
    }
}
