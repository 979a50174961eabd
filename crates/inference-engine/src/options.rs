//! Options of one engine.

use std::sync::Arc;
use std::time::Duration;

use inference_core::probe::ProbeBus;
use inference_core::{Error, LoadOptions, Result};

/// The most sequences that may run at once.
const MAX_BATCH: usize = 4096;

/// How one engine shares its runner among requests.
///
/// ```
/// use inference_engine::EngineOptions;
///
/// let options = EngineOptions::default().with_max_batch(4).with_step_token_budget(256);
/// options.validate()?;
/// # Ok::<(), inference_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Sequences that run at the same time (parallel slots), 1 to 4096.
    /// More: higher throughput under load. Fewer: each sequence is faster and
    /// the KV blocks are shared by fewer. Default: 8.
    pub max_batch: usize,
    /// Most tokens that one step computes; at least `max_batch`. Larger:
    /// prompts are computed in fewer, more efficient steps. Smaller: tokens of
    /// running sequences are held up less by a long prompt, and a step's
    /// activations take less memory. Default: 512.
    pub step_token_budget: usize,
    /// How long an idle engine waits, from the arrival of the first request, for
    /// more before it starts a batch of fewer than `max_batch` (or `max_queue`
    /// where that is less). Longer: fuller batches and higher throughput
    /// where requests come in bursts. Shorter: a lone request starts sooner.
    /// Default: 0.
    pub max_wait: Duration,
    /// Waiting counts as priority: a request is served before one that is by
    /// `n` levels of priority higher and came more than `n` times this time
    /// later, so that nobody starves. Longer: priorities weigh more. Greater
    /// than zero. Default: 5 s.
    pub aging: Duration,
    /// Whether the blocks of sequences are kept, as long as nobody needs them,
    /// for later prompts that begin the same. On: shared prefixes are computed
    /// once. Off: nothing of an ended request is left in the pool. Default: on.
    pub prefix_cache: bool,
    /// Tokens a stream buffers ahead of its reader, at least 1. When they are
    /// there unread, the sequence is parked; it keeps its slot and its blocks
    /// until others need them.
    /// Larger: uneven readers park less. Smaller: less is computed in vain for
    /// a reader that goes away. Default: 64.
    pub channel_capacity: usize,
    /// Requests that may wait for a slot, or without one for their reader, at
    /// least 1. A further one is refused
    /// with [`Exhausted`](inference_core::ErrorKind::Exhausted); those of a
    /// batch or of `classify` wait outside instead. Default: 1024.
    pub max_queue: usize,
    /// How long a sequence stays parked before it ends as
    /// [`Lagging`](inference_core::FinishReason::Lagging); greater than zero.
    /// Longer: patient with readers. Shorter: their places in the queue and their
    /// blocks are free sooner.
    /// Default: 30 s.
    pub lag_timeout: Duration,
    /// Where events go. Default: nowhere.
    pub probe_bus: Option<Arc<ProbeBus>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_batch: 8,
            step_token_budget: 512,
            max_wait: Duration::ZERO,
            aging: Duration::from_secs(5),
            prefix_cache: true,
            channel_capacity: 64,
            max_queue: 1024,
            lag_timeout: Duration::from_secs(30),
            probe_bus: None,
        }
    }
}

impl EngineOptions {
    /// Default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the options of a load say about the engine: slots, step budget,
    /// waiting, queue, lag, prefix cache and probe bus; the rest is for the
    /// loader. With more slots than the default step budget has tokens, the
    /// budget is as large.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// for the first value outside its range.
    pub fn for_load(options: &LoadOptions) -> Result<Self> {
        let mut engine = Self::default();
        engine.probe_bus.clone_from(&options.probe_bus);
        if let Some(slots) = options.parallel_slots {
            if !(1..=MAX_BATCH).contains(&slots) {
                let expected = format!("1 to {MAX_BATCH}");
                return Err(Error::invalid_option("parallel_slots", slots, expected));
            }
            engine.max_batch = slots;
            engine.step_token_budget = engine.step_token_budget.max(slots);
        }
        engine.step_token_budget = options.step_token_budget.unwrap_or(engine.step_token_budget);
        engine.max_wait = options.max_wait.unwrap_or(engine.max_wait);
        engine.max_queue = options.max_queue.unwrap_or(engine.max_queue);
        engine.lag_timeout = options.lag_timeout.unwrap_or(engine.lag_timeout);
        engine.prefix_cache = options.prefix_cache.unwrap_or(engine.prefix_cache);
        engine.validate()?;
        Ok(engine)
    }

    /// Sets how many sequences run at the same time.
    #[must_use]
    pub fn with_max_batch(mut self, sequences: usize) -> Self {
        self.max_batch = sequences;
        self
    }

    /// Sets the most tokens of one step.
    #[must_use]
    pub fn with_step_token_budget(mut self, tokens: usize) -> Self {
        self.step_token_budget = tokens;
        self
    }

    /// Sets how long an idle engine waits to fill a batch.
    #[must_use]
    pub fn with_max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Sets the waiting time that counts as one level of priority.
    #[must_use]
    pub fn with_aging(mut self, time: Duration) -> Self {
        self.aging = time;
        self
    }

    /// Sets whether blocks are kept for later prompts.
    #[must_use]
    pub fn with_prefix_cache(mut self, keep: bool) -> Self {
        self.prefix_cache = keep;
        self
    }

    /// Sets how many tokens a stream buffers.
    #[must_use]
    pub fn with_channel_capacity(mut self, tokens: usize) -> Self {
        self.channel_capacity = tokens;
        self
    }

    /// Sets how many requests may wait for a slot.
    #[must_use]
    pub fn with_max_queue(mut self, requests: usize) -> Self {
        self.max_queue = requests;
        self
    }

    /// Sets how long a slow reader is waited for.
    #[must_use]
    pub fn with_lag_timeout(mut self, timeout: Duration) -> Self {
        self.lag_timeout = timeout;
        self
    }

    /// Sets where events go.
    #[must_use]
    pub fn with_probe_bus(mut self, bus: Arc<ProbeBus>) -> Self {
        self.probe_bus = Some(bus);
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// for the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_BATCH).contains(&self.max_batch) {
            let expected = format!("1 to {MAX_BATCH}");
            return Err(Error::invalid_option("max_batch", self.max_batch, expected));
        }
        if self.step_token_budget < self.max_batch {
            let expected = format!("at least max_batch ({})", self.max_batch);
            let value = self.step_token_budget;
            return Err(Error::invalid_option("step_token_budget", value, expected));
        }
        if self.channel_capacity == 0 {
            return Err(Error::invalid_option("channel_capacity", 0, "at least 1"));
        }
        if self.max_queue == 0 {
            return Err(Error::invalid_option("max_queue", 0, "at least 1"));
        }
        for (field, time) in [("lag_timeout", self.lag_timeout), ("aging", self.aging)] {
            if time.is_zero() {
                return Err(Error::invalid_option(field, "0 s", "more than 0 s"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_chooses_its_engine() {
        let load = LoadOptions::new().with_parallel_slots(600).with_prefix_cache(false);
        let engine = EngineOptions::for_load(&load).unwrap();
        assert_eq!((engine.max_batch, engine.step_token_budget), (600, 600));
        assert!(!engine.prefix_cache);
        let load = LoadOptions::new().with_parallel_slots(5000);
        let message = EngineOptions::for_load(&load).unwrap_err().to_string();
        assert!(message.contains("parallel_slots"), "{message}");
    }

    #[test]
    fn each_field_is_checked() {
        let bad = [
            (EngineOptions::new().with_max_batch(0), "max_batch"),
            (EngineOptions::new().with_max_batch(5000), "max_batch"),
            (EngineOptions::new().with_step_token_budget(7), "step_token_budget"),
            (EngineOptions::new().with_channel_capacity(0), "channel_capacity"),
            (EngineOptions::new().with_max_queue(0), "max_queue"),
            (EngineOptions::new().with_lag_timeout(Duration::ZERO), "lag_timeout"),
            (EngineOptions::new().with_aging(Duration::ZERO), "aging"),
        ];
        for (options, field) in bad {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
        EngineOptions::new().validate().unwrap();
    }
}
