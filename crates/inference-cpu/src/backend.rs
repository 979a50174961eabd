//! The backend `cpu`.

use std::sync::Arc;
use std::time::Duration;

use inference_core::{
    Availability, Backend, Capabilities, CapabilityId, CapabilityStatus, DiscoveredModel,
    LoadOptions, ModelSource, Result, TextModel,
};

use crate::device::describe;
use crate::{CpuOps, CpuOptions, ThreadOptions, Tier};

/// The name in the registry.
const NAME: &str = "cpu";

/// Runs models on the CPU.
///
/// Of [`LoadOptions`] it honours `threads`, `precision` and (on Linux) `affinity`
/// itself;
/// the loader honours or refuses the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend {
    tier: Option<Tier>,
    spin: Option<Duration>,
}

impl CpuBackend {
    /// The backend with the fastest kernels of this CPU.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses the kernels of one instruction set.
    #[must_use]
    pub fn with_tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Sets how long threads look for work before they sleep
    /// ([`ThreadOptions::spin`]).
    #[must_use]
    pub fn with_spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    fn tier(self) -> Tier {
        self.tier.unwrap_or_else(Tier::best)
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn availability(&self) -> Availability {
        let tier = self.tier();
        if tier.is_available() {
            Availability::ready(vec![describe(tier)])
        } else {
            Availability::unavailable(format!("this CPU lacks the instructions of `{tier}`"))
        }
    }

    fn capabilities(&self) -> Capabilities {
        inference_candle::capabilities(CapabilityStatus::Supported, "").with(
            CapabilityId::LoraTraining,
            CapabilityStatus::Supported,
            "",
        )
    }

    fn accepts(&self, model: &DiscoveredModel) -> Result<()> {
        inference_candle::accepts(model)
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        options.validate()?;
        let mut threads = ThreadOptions::new();
        threads.threads = options.threads;
        threads.affinity.clone_from(&options.affinity);
        threads.spin = self.spin;
        let mut cpu = CpuOptions::new().with_tier(self.tier()).with_thread_options(threads);
        cpu.precision = options.precision;
        let ops = CpuOps::new(&cpu)?;
        tracing::debug!(tier = %ops.tier(), threads = ops.threads(), model = %source, "loading");
        inference_candle::load_model(NAME, source, options, Arc::new(ops))
    }
}
