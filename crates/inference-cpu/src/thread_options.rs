//! Which threads compute, and how they wait.

use std::time::Duration;

/// The threads of one set of operations.
///
/// ```
/// use std::time::Duration;
/// use inference_cpu::{CpuOps, CpuOptions, ThreadOptions};
///
/// let threads = ThreadOptions::new().with_threads(2).with_spin(Duration::ZERO);
/// let ops = CpuOps::new(&CpuOptions::new().with_thread_options(threads))?;
/// assert_eq!(ops.threads(), 2);
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadOptions {
    /// Threads that compute, from 1 to 4096, the calling one included.
    /// Default: the available parallelism.
    pub threads: Option<usize>,
    /// The logical CPUs that they are pinned to, in turn; not empty. The
    /// calling thread is pinned to the first while it computes. Linux only.
    /// Default: not pinned.
    pub affinity: Option<Vec<usize>>,
    /// How long a thread without work looks for some before it sleeps; a sleep
    /// costs the next step some microseconds. Shortened while more threads
    /// compute in this process than it may use CPUs. Default:
    /// [`DEFAULT_SPIN`](Self::DEFAULT_SPIN).
    pub spin: Option<Duration>,
}

impl ThreadOptions {
    /// Long enough for what happens between two steps of a sequence.
    pub const DEFAULT_SPIN: Duration = Duration::from_micros(200);

    /// Options with every field unset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Pins the threads to these logical CPUs.
    #[must_use]
    pub fn with_affinity(mut self, cpus: Vec<usize>) -> Self {
        self.affinity = Some(cpus);
        self
    }

    /// Sets how long threads look for work before they sleep.
    #[must_use]
    pub fn with_spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }
}
