//! The threads that compute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use inference_core::{Error, Result};

/// Most threads: far more than any machine has CPUs.
const MAX_THREADS: usize = 4096;

/// How long a thread looks for the next work before it sleeps: about what it
/// takes to wake one.
const SPIN: Duration = Duration::from_micros(50);

/// A pool of threads, shared by the groups that it is given to. Clones are the
/// same pool; the threads end with the last of them.
#[derive(Clone, Debug)]
pub struct Workers {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held by the caller whose work the helpers share.
    taken: Mutex<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or it is over.
    wake: Condvar,
    /// No helper works any more.
    idle: Condvar,
    /// How many works there have been; what waits looks here without a lock.
    works: AtomicUsize,
    /// Helpers that are in the work; changed with the lock held.
    active: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    work: Option<Work>,
    /// As [`Shared::works`].
    works: usize,
    panicked: bool,
    stop: bool,
}

/// A closure of a caller that waits until no helper runs it.
#[derive(Clone, Copy, Debug)]
struct Work {
    data: *const (),
    /// Calls the closure at `data`.
    run: unsafe fn(*const ()),
}

// SAFETY: the pointer is to a closure that is `Sync`, and is only followed while
// its owner waits in `Workers::run`.
unsafe impl Send for Work {}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a helper does all its life.
    fn help(&self) {
        let mut seen = 0;
        loop {
            spin_while(|| self.works.load(Ordering::Acquire) == seen);
            let mut state = self.state();
            let work = loop {
                if state.stop {
                    return;
                }
                if state.works != seen {
                    seen = state.works;
                    if let Some(work) = state.work {
                        break work;
                    }
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            self.active.fetch_add(1, Ordering::Relaxed);
            drop(state);
            // SAFETY: the owner of the work waits until `active` is 0 again.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (work.run)(work.data) }));
            let mut state = self.state();
            state.panicked |= done.is_err();
            if self.active.fetch_sub(1, Ordering::Release) == 1 {
                self.idle.notify_one();
            }
        }
    }
}

/// Looks again and again, for a while.
fn spin_while(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while condition() && began.elapsed() < SPIN {
        for _ in 0..32 {
            std::hint::spin_loop();
        }
    }
}

/// Takes the work back, and waits until nobody is in it; also when unwinding.
struct Taken<'a>(&'a Shared);

impl Taken<'_> {
    fn end(&self) -> bool {
        self.0.state().work = None;
        spin_while(|| self.0.active.load(Ordering::Acquire) > 0);
        let mut state = self.0.state();
        while self.0.active.load(Ordering::Acquire) > 0 {
            state = self.0.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.panicked)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl Workers {
    /// A pool of `threads`, the calling one among them; `None`: as many as the
    /// process may use CPUs.
    ///
    /// # Errors
    ///
    /// `InvalidOption` for 0 or more than 4096; `Engine` where the operating
    /// system starts no more.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        let threads = match threads {
            Some(n) if (1..=MAX_THREADS).contains(&n) => n,
            Some(n) => {
                return Err(Error::invalid_option("threads", n, format!("1 to {MAX_THREADS}")));
            }
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let shared = Arc::new(Shared::default());
        let mut pool =
            Pool { shared: Arc::clone(&shared), helpers: Vec::new(), taken: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let helper = std::thread::Builder::new()
                .name(format!("inference-batched-{index}"))
                .spawn(move || shared.help())
                .map_err(|error| Error::engine("starting worker threads", error))?;
            pool.helpers.push(helper);
        }
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Threads of a call that has the pool to itself, the calling one included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.helpers.len() + 1
    }

    /// Runs `task` on this thread, and on the others too unless another caller
    /// has them; returns when none of them runs it any more. Tasks share out
    /// among themselves what there is to do.
    ///
    /// # Errors
    ///
    /// `Engine` where the task panicked on another thread.
    pub(crate) fn run<F: Fn() + Sync>(&self, task: &F) -> Result<()> {
        if self.pool.helpers.is_empty() {
            task();
            return Ok(());
        }
        let taken = match self.pool.taken.try_lock() {
            Ok(taken) => taken,
            Err(TryLockError::Poisoned(taken)) => taken.into_inner(),
            Err(TryLockError::WouldBlock) => {
                task();
                return Ok(());
            }
        };
        unsafe fn run<F: Fn()>(data: *const ()) {
            // SAFETY: `data` is the `F` of this function's `Work`.
            unsafe { (*data.cast::<F>())() }
        }
        let shared = &*self.pool.shared;
        let work = Work { data: std::ptr::from_ref(task).cast(), run: run::<F> };
        {
            let mut state = shared.state();
            state.work = Some(work);
            state.works = state.works.wrapping_add(1);
            shared.works.store(state.works, Ordering::Release);
        }
        shared.wake.notify_all();
        let guard = Taken(shared);
        task();
        let panicked = guard.end();
        drop(guard);
        drop(taken);
        if panicked {
            return Err(Error::engine_message("a worker thread panicked"));
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // Helpers do not panic: tasks are caught.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use inference_core::ErrorKind;

    use super::*;

    #[test]
    fn all_threads_take_part() {
        let workers = Workers::new(Some(3)).unwrap();
        for _ in 0..100 {
            // Nobody passes before all three are there.
            let barrier = Barrier::new(3);
            let task = || {
                barrier.wait();
            };
            workers.run(&task).unwrap();
        }
    }

    #[test]
    fn callers_do_not_wait_for_each_other() {
        let workers = Workers::new(Some(2)).unwrap();
        let outer = || {
            let count = AtomicUsize::new(0);
            let inner = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            workers.run(&inner).unwrap();
            assert_eq!(count.into_inner(), 1);
        };
        workers.run(&outer).unwrap();
    }

    #[test]
    fn a_panic_of_a_helper_is_an_error_and_loses_no_thread() {
        let workers = Workers::new(Some(2)).unwrap();
        let caller = std::thread::current().id();
        for _ in 0..20 {
            let barrier = Barrier::new(2);
            let task = || {
                barrier.wait();
                assert_eq!(std::thread::current().id(), caller);
            };
            assert_eq!(workers.run(&task).unwrap_err().kind(), ErrorKind::Engine);
        }
        let barrier = Barrier::new(2);
        let task = || {
            barrier.wait();
        };
        workers.run(&task).unwrap();
    }

    #[test]
    fn absurd_numbers_of_threads_are_refused() {
        for threads in [0, MAX_THREADS + 1] {
            let error = Workers::new(Some(threads)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
        }
    }
}
