//! The threads that compute.

use std::sync::Arc;

use inference_core::{Error, Result};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Work, in multiply-adds or elements touched, below which waking other
/// threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 16;

/// Most worker threads: far more than any machine has CPUs.
const MAX_THREADS: usize = 4096;

/// A pool of threads that belongs to one set of operations.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    pool: Arc<ThreadPool>,
}

impl Workers {
    /// Starts `threads` workers, pinned to `affinity` in turn.
    pub(crate) fn new(threads: Option<usize>, affinity: Option<&[usize]>) -> Result<Self> {
        let threads = match threads {
            Some(n) if (1..=MAX_THREADS).contains(&n) => n,
            Some(n) => {
                return Err(Error::invalid_option("threads", n, format!("1 to {MAX_THREADS}")));
            }
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("inference-cpu-{index}"))
            .build()
            .map_err(|error| Error::engine("starting worker threads", error))?;
        if let Some(cpus) = affinity {
            pin(&pool, cpus)?;
        }
        Ok(Self { pool: Arc::new(pool) })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `task` on one of the workers, which then shares what it does in
    /// parallel without waiting for the others to wake up: entering the pool
    /// from outside costs two context switches, and each operation would.
    pub(crate) fn region<R: Send>(&self, task: impl FnOnce() -> R + Send) -> R {
        if self.threads() == 1 { task() } else { self.pool.install(task) }
    }

    /// Calls `task` with each index below `items`, in parallel where the total
    /// work pays for it. Which thread calls must not change what is computed.
    pub(crate) fn for_each(&self, items: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
        if items <= 1 || self.threads() == 1 || work < SERIAL_WORK {
            (0..items).for_each(task);
        } else {
            self.pool.install(|| (0..items).into_par_iter().for_each(task));
        }
    }

    /// Calls `task` with each item; otherwise [`for_each`](Self::for_each).
    pub(crate) fn for_each_mut<T: Send>(
        &self,
        items: &mut [T],
        work: usize,
        task: impl Fn(&mut T) + Sync + Send,
    ) {
        if items.len() <= 1 || self.threads() == 1 || work < SERIAL_WORK {
            items.iter_mut().for_each(task);
        } else {
            self.pool.install(|| items.par_iter_mut().for_each(task));
        }
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
        let chunk = chunk.max(1);
        if out.len() <= chunk || self.threads() == 1 || work < SERIAL_WORK {
            out.chunks_mut(chunk).enumerate().for_each(|(index, out)| task(index, out));
        } else {
            self.pool.install(|| {
                out.par_chunks_mut(chunk).enumerate().for_each(|(index, out)| task(index, out));
            });
        }
    }
}

#[cfg(target_os = "linux")]
fn pin(pool: &ThreadPool, cpus: &[usize]) -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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
    let pinned = pool.broadcast(|worker| {
        let mut set = CpuSet::new();
        // In range: the remainder by a length that is not 0.
        if let Some(cpu) = cpus.get(worker.index() % cpus.len()) {
            set.set(*cpu);
        }
        sched_setaffinity(None, &set)
    });
    for result in pinned {
        result.map_err(|error| Error::engine("pinning a worker thread", error))?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn pin(_: &ThreadPool, _: &[usize]) -> Result<()> {
    Err(Error::unsupported("the backend `cpu` on this operating system", "affinity"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use inference_core::ErrorKind;

    use super::*;

    #[test]
    fn every_index_is_visited_once() {
        let workers = Workers::new(Some(2), None).unwrap();
        for (items, work) in [(0, 0), (1, usize::MAX), (100, 0), (100, usize::MAX)] {
            let visits: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            workers.for_each(items, work, |i| {
                visits[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(visits.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn absurd_numbers_of_threads_are_refused() {
        for threads in [0, MAX_THREADS + 1] {
            let error = Workers::new(Some(threads), None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn workers_are_pinned_to_the_cpus_asked_for() {
        use rustix::thread::{CpuSet, sched_getaffinity};

        let allowed = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
        let workers = Workers::new(Some(2), Some(&[cpu])).unwrap();
        for set in workers.pool.broadcast(|_| sched_getaffinity(None).unwrap()) {
            assert_eq!((set.count(), set.is_set(cpu)), (1, true));
        }
        for bad in [CpuSet::MAX_CPU, usize::MAX] {
            let error = Workers::new(Some(1), Some(&[bad])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        }
    }
}
