//! How the operations are set up.

use inference_core::Precision;

use crate::Tier;

/// Options of [`CpuOps`](crate::CpuOps).
///
/// ```
/// use inference_cpu::{CpuOps, CpuOptions, Tier};
///
/// let ops = CpuOps::new(&CpuOptions::new().with_threads(1).with_tier(Tier::Scalar))?;
/// assert_eq!(ops.tier(), Tier::Scalar);
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuOptions {
    /// Worker threads, at least 1. Default: the available parallelism.
    pub threads: Option<usize>,
    /// The logical CPUs that the workers are pinned to, in turn; not empty.
    /// Default: not pinned.
    pub affinity: Option<Vec<usize>>,
    /// The instruction set. Default: [`Tier::best`].
    pub tier: Option<Tier>,
    /// How quantized weights are computed with. Default: [`Precision::Fast`].
    pub precision: Option<Precision>,
}

impl CpuOptions {
    /// Options with every field unset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Pins the workers to these logical CPUs.
    #[must_use]
    pub fn with_affinity(mut self, cpus: Vec<usize>) -> Self {
        self.affinity = Some(cpus);
        self
    }

    /// Chooses the instruction set.
    #[must_use]
    pub fn with_tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Chooses how quantized weights are computed with.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }
}
