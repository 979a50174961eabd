//! How the operations are set up.

use inference_core::Precision;

use crate::{ThreadOptions, Tier};

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
    /// The threads that compute.
    pub threads: ThreadOptions,
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

    /// Sets the number of threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads.threads = Some(threads);
        self
    }

    /// Sets all options of the threads.
    #[must_use]
    pub fn with_thread_options(mut self, threads: ThreadOptions) -> Self {
        self.threads = threads;
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
