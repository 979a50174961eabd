//! The threads that compute.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use inference_core::{Error, Result};

use crate::ThreadOptions;
use crate::handshake::Handshake;

/// Work, in multiply-adds or elements touched, below which sharing it costs
/// more than it gains: some microseconds of one thread.
const SERIAL_WORK: usize = 1 << 14;

/// The same where helpers have to be woken first.
const SERIAL_WORK_ASLEEP: usize = 1 << 17;

/// Most threads: far more than any machine has CPUs.
const MAX_THREADS: usize = 4096;

/// Claims per thread of one piece of work: enough to even out what threads
/// get done, where items are many.
const CLAIMS: usize = 16;

/// By how much less patiently helpers wait where threads outnumber CPUs.
const CROWDED: u32 = 8;

/// Threads of this process's regions that are computing, over all pools.
static COMPUTING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread runs a task: what it shares it then does itself.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    /// How many regions this thread is in.
    static REGIONS: Cell<usize> = const { Cell::new(0) };
}

/// A pool of threads that belongs to one set of operations.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    handshake: Arc<Handshake>,
    /// All but the calling one.
    helpers: Vec<JoinHandle<()>>,
    /// What the calling thread is pinned to while it computes.
    caller_cpu: Option<usize>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.handshake.stop();
        for helper in self.helpers.drain(..) {
            // Helpers do not panic: tasks are caught.
            let _ = helper.join();
        }
    }
}

impl Workers {
    /// Starts the threads, all but the one that will call.
    pub(crate) fn new(options: &ThreadOptions) -> Result<Self> {
        let threads = match options.threads {
            Some(n) if (1..=MAX_THREADS).contains(&n) => n,
            Some(n) => {
                return Err(Error::invalid_option("threads", n, format!("1 to {MAX_THREADS}")));
            }
            None => available_cpus(),
        };
        let cpus = options.affinity.as_deref();
        if let Some(cpus) = cpus {
            check_affinity(cpus)?;
        }
        let cpu = |index: usize| cpus.and_then(|cpus| cpus.get(index % cpus.len().max(1)).copied());
        let spin = options.spin.unwrap_or(ThreadOptions::DEFAULT_SPIN);
        let handshake = Arc::new(Handshake::new());
        let mut pool = Pool { handshake, helpers: Vec::new(), caller_cpu: cpu(0) };
        let (started, starts) = std::sync::mpsc::channel();
        for index in 1..threads {
            let (handshake, started, cpu) =
                (Arc::clone(&pool.handshake), started.clone(), cpu(index));
            let helper = std::thread::Builder::new()
                .name(format!("inference-cpu-{index}"))
                .spawn(move || {
                    let pinned = cpu.map_or(Ok(()), pin);
                    let failed = pinned.is_err();
                    // The receiver waits for all helpers.
                    let _ = started.send(pinned);
                    drop(started);
                    if !failed {
                        IN_TASK.set(true);
                        handshake.help(|| patience(spin));
                    }
                })
                .map_err(|error| Error::engine("starting worker threads", error))?;
            pool.helpers.push(helper);
        }
        drop(started);
        for pinned in starts {
            pinned?;
        }
        Ok(Self { pool: Arc::new(pool) })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.helpers.len() + 1
    }

    /// Runs `task` on this thread, with the others awake and waiting for what
    /// it shares: waking them costs microseconds, and each operation would.
    pub(crate) fn region<R>(&self, task: impl FnOnce() -> R) -> R {
        if IN_TASK.get() {
            return task();
        }
        let _region = Region::enter(self);
        task()
    }

    /// Calls `task` with each index below `items`, in parallel where the total
    /// work pays for it. Which thread calls must not change what is computed.
    /// A panic of a task is one of the caller's; the other items may be left
    /// out then. Tasks that share in turn do all of it themselves.
    pub(crate) fn for_each(&self, items: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
        let asleep = self.pool.handshake.sleeping();
        let serial = if asleep { SERIAL_WORK_ASLEEP } else { SERIAL_WORK };
        if items <= 1 || self.pool.helpers.is_empty() || work < serial || IN_TASK.get() {
            (0..items).for_each(task);
        } else if REGIONS.get() == 0 {
            self.region(|| self.share(items, &task));
        } else {
            self.share(items, &task);
        }
    }

    /// Calls `task` with each item; otherwise [`for_each`](Self::for_each).
    pub(crate) fn for_each_mut<T: Send>(
        &self,
        items: &mut [T],
        work: usize,
        task: impl Fn(&mut T) + Sync + Send,
    ) {
        let first = Shared(items.as_mut_ptr());
        self.for_each(items.len(), work, |index| {
            // SAFETY: `for_each` calls with each index below the length once,
            // and the items outlive it.
            task(unsafe { &mut *first.at(index) });
        });
    }

    /// Calls `task` with each chunk of `out` and its index; otherwise
    /// [`for_each`](Self::for_each).
    pub(crate) fn for_each_chunk(
        &self,
        out: &mut [f32],
        chunk: usize,
        work: usize,
        task: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) {
        let (chunk, len) = (chunk.max(1), out.len());
        let first = Shared(out.as_mut_ptr());
        self.for_each(len.div_ceil(chunk), work, |index| {
            let start = index * chunk;
            // SAFETY: `for_each` calls with each index once: the chunks are
            // disjoint, lie within `out`, and `out` outlives the call.
            let out =
                unsafe { std::slice::from_raw_parts_mut(first.at(start), chunk.min(len - start)) };
            task(index, out);
        });
    }

    fn share<F: Fn(usize) + Sync>(&self, items: usize, task: &F) {
        let handshake = &*self.pool.handshake;
        let work = Work { task, handshake, panic: Mutex::new(None) };
        let grain = items / (self.threads() * CLAIMS);
        let data = std::ptr::from_ref(&work).cast_mut().cast();
        IN_TASK.set(true);
        let shared = handshake.share(run::<F>, data, items, grain);
        if !shared {
            // Another thread's work has the helpers.
            run::<F>(data, 0, items);
        }
        IN_TASK.set(false);
        if let Some(panic) = work.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

/// Tasks, and the panic of one of them.
struct Work<'a, F> {
    task: &'a F,
    handshake: &'a Handshake,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Runs some of the tasks of the [`Work`] at `data`.
fn run<F: Fn(usize) + Sync>(data: *mut (), first: usize, end: usize) {
    // SAFETY: `share` passes this function with a `Work<F>`, which it keeps
    // until the handshake's own `share` has returned; it is `Sync`, because `F` is.
    let work = unsafe { &*data.cast::<Work<'_, F>>() };
    // What a panic leaves broken, the caller's own panic reports.
    let done = catch_unwind(AssertUnwindSafe(|| (first..end).for_each(work.task)));
    if let Err(panic) = done {
        work.handshake.abandon();
        *work.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

/// The start of items that tasks take disjoint ones of.
struct Shared<T>(*mut T);

// SAFETY: the pointer is only handed on; whoever writes through it promises
// that no two threads take the same item.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// While this lives, the helpers are awake and the calling thread is where it
/// should be.
struct Region {
    /// What it counts as computing: none within another region.
    threads: usize,
    #[cfg(target_os = "linux")]
    restore: Option<rustix::thread::CpuSet>,
}

impl Region {
    fn enter(workers: &Workers) -> Self {
        let threads = if REGIONS.get() == 0 { workers.threads() } else { 0 };
        REGIONS.set(REGIONS.get() + 1);
        COMPUTING.fetch_add(threads, Ordering::Relaxed);
        if workers.pool.handshake.sleeping() {
            workers.pool.handshake.wake();
        }
        Self {
            threads,
            #[cfg(target_os = "linux")]
            restore: workers.pool.caller_cpu.and_then(pin_for_now),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(set) = &self.restore
            && let Err(error) = rustix::thread::sched_setaffinity(None, set)
        {
            tracing::warn!(%error, "the calling thread stays pinned");
        }
        COMPUTING.fetch_sub(self.threads, Ordering::Relaxed);
        REGIONS.set(REGIONS.get() - 1);
    }
}

/// How long to look for work now, and whether threads outnumber CPUs.
fn patience(spin: Duration) -> (Duration, bool) {
    static CPUS: OnceLock<usize> = OnceLock::new();
    let cpus = *CPUS.get_or_init(available_cpus);
    let crowded = COMPUTING.load(Ordering::Relaxed) > cpus;
    (if crowded { spin / CROWDED } else { spin }, crowded)
}

fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether every CPU is one that this process may use.
#[cfg(target_os = "linux")]
fn check_affinity(cpus: &[usize]) -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let refused = |cpu: &dyn std::fmt::Display, expected: &str| {
        Err(Error::invalid_option("affinity", cpu, expected))
    };
    let allowed = sched_getaffinity(None).map_err(|e| Error::engine("reading the affinity", e))?;
    if cpus.is_empty() {
        return refused(&"[]", "at least one CPU");
    }
    for cpu in cpus {
        if *cpu >= CpuSet::MAX_CPU || !allowed.is_set(*cpu) {
            return refused(cpu, "logical CPUs that this process may use");
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn check_affinity(_: &[usize]) -> Result<()> {
    Err(Error::unsupported("the backend `cpu` on this operating system", "affinity"))
}

/// Pins this thread.
#[cfg(target_os = "linux")]
fn pin(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| Error::engine("pinning a worker thread", error))
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) -> Result<()> {
    check_affinity(&[])
}

/// Pins this thread, and says how it was before where that was otherwise.
#[cfg(target_os = "linux")]
fn pin_for_now(cpu: usize) -> Option<rustix::thread::CpuSet> {
    let before = rustix::thread::sched_getaffinity(None).ok()?;
    if before.count() == 1 && before.is_set(cpu) {
        return None;
    }
    match pin(cpu) {
        Ok(()) => Some(before),
        Err(error) => {
            tracing::warn!(%error, cpu, "the calling thread is not pinned");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use inference_core::ErrorKind;

    use super::*;

    fn workers(threads: usize) -> Workers {
        Workers::new(&ThreadOptions::new().with_threads(threads)).unwrap()
    }

    /// How often each index was visited.
    fn visits(workers: &Workers, items: usize, work: usize) -> Vec<usize> {
        let visits: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        workers.for_each(items, work, |i| {
            visits[i].fetch_add(1, Ordering::Relaxed);
        });
        visits.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_is_visited_once() {
        for threads in [1, 2, 5] {
            let workers = workers(threads);
            for (items, work) in [(0, 0), (1, usize::MAX), (100, 0), (100, usize::MAX)] {
                assert_eq!(visits(&workers, items, work), vec![1; items]);
            }
            workers.region(|| assert_eq!(visits(&workers, 1000, usize::MAX), vec![1; 1000]));
        }
    }

    #[test]
    fn items_and_chunks_are_handed_out_once() {
        let workers = workers(3);
        let mut items: Vec<_> = (0..77).collect();
        workers.for_each_mut(&mut items, usize::MAX, |item| *item += 1);
        assert!(items.iter().copied().eq(1..78));
        let mut out = vec![0.0; 103];
        workers.for_each_chunk(&mut out, 10, usize::MAX, |index, chunk| {
            assert_eq!(chunk.len(), if index == 10 { 3 } else { 10 });
            chunk.iter_mut().for_each(|x| *x += index as f32);
        });
        assert!(out.iter().enumerate().all(|(i, x)| *x == (i / 10) as f32));
    }

    #[test]
    fn threads_compute_together() {
        for spin in [Duration::ZERO, ThreadOptions::DEFAULT_SPIN] {
            let options = ThreadOptions::new().with_threads(3).with_spin(spin);
            let workers = Workers::new(&options).unwrap();
            for _ in 0..if cfg!(miri) { 3 } else { 100 } {
                // Nobody passes before all three are there.
                let barrier = Barrier::new(3);
                workers.for_each(3, usize::MAX, |_| {
                    barrier.wait();
                });
            }
        }
    }

    #[test]
    fn a_panic_is_the_callers_and_no_worker_is_lost() {
        let workers = workers(3);
        for round in 0..if cfg!(miri) { 3 } else { 50 } {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                workers.region(|| workers.for_each(64, usize::MAX, |i| assert!(i != round)));
            }));
            assert_eq!(caught.is_err(), round < 64, "round {round}");
            assert!(!IN_TASK.get() && REGIONS.get() == 0);
        }
        let barrier = Barrier::new(3);
        workers.for_each(3, usize::MAX, |_| {
            barrier.wait();
        });
    }

    #[test]
    fn tasks_that_share_do_it_themselves() {
        let (outer, other) = (workers(2), workers(2));
        let count = AtomicUsize::new(0);
        outer.for_each(8, usize::MAX, |_| {
            let thread = std::thread::current().id();
            for inner in [&outer, &other] {
                inner.region(|| {
                    inner.for_each(8, usize::MAX, |_| {
                        assert_eq!(std::thread::current().id(), thread);
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                });
            }
        });
        assert_eq!(count.into_inner(), 2 * 64);
    }

    #[test]
    fn several_callers_may_share_one_pool_and_several_pools_the_machine() {
        let pools = [workers(2), workers(3)];
        std::thread::scope(|scope| {
            for pool in [&pools[0], &pools[0], &pools[1]] {
                scope.spawn(|| {
                    for _ in 0..if cfg!(miri) { 3 } else { 500 } {
                        pool.region(|| assert_eq!(visits(pool, 40, usize::MAX), vec![1; 40]));
                    }
                });
            }
        });
    }

    #[test]
    fn absurd_numbers_of_threads_are_refused() {
        for threads in [0, MAX_THREADS + 1] {
            let error = Workers::new(&ThreadOptions::new().with_threads(threads)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[cfg_attr(miri, ignore = "asks the operating system")]
    fn threads_are_pinned_to_the_cpus_asked_for_while_they_compute() {
        use rustix::thread::{CpuSet, sched_getaffinity};

        let allowed = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
        let options = ThreadOptions::new().with_threads(2).with_affinity(vec![cpu]);
        let barrier = Barrier::new(2);
        Workers::new(&options).unwrap().for_each(2, usize::MAX, |_| {
            barrier.wait();
            let set = sched_getaffinity(None).unwrap();
            assert_eq!((set.count(), set.is_set(cpu)), (1, true));
        });
        assert_eq!(sched_getaffinity(None).unwrap().count(), allowed.count());
        for bad in [CpuSet::MAX_CPU, usize::MAX] {
            let error = Workers::new(&ThreadOptions::new().with_affinity(vec![bad])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        }
    }
}
