//! The test's hand on a simulated runner.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inference_core::TokenId;

use super::{FaultRates, InjectedFault, SimClock, SimFault, StepCosts};
use crate::runner::StepBatch;

/// The one row that a prompt's history leads to, by hand.
pub(super) type Script = Arc<dyn Fn(&[TokenId]) -> Option<TokenId> + Send + Sync>;

#[derive(Default)]
struct Control {
    steps: usize,
    batches: Vec<StepBatch>,
    forgets: bool,
    faults: HashMap<usize, SimFault>,
    rates: Option<(u64, FaultRates)>,
    injected: Vec<InjectedFault>,
    delay: Duration,
    costs: StepCosts,
    clock: SimClock,
    elapsed: Duration,
    /// Forward passes that may still run; `None` is without limit.
    permits: Option<usize>,
    script: Option<Script>,
    dropped: bool,
}

/// How a forward pass is to go.
pub(super) struct Orders {
    /// Which one it is, from 0.
    pub(super) step: usize,
    pub(super) fault: Option<SimFault>,
    pub(super) script: Option<Script>,
}

/// Steers a [`SimRunner`](super::SimRunner) and sees what it was given.
#[derive(Clone, Default)]
pub struct SimControl {
    control: Arc<(Mutex<Control>, Condvar)>,
}

impl std::fmt::Debug for SimControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimControl").field("steps", &self.lock().steps).finish()
    }
}

impl SimControl {
    pub(super) fn new(costs: StepCosts, clock: SimClock) -> Self {
        let control = Self::default();
        let mut inner = control.lock();
        (inner.costs, inner.clock) = (costs, clock);
        drop(inner);
        control
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every batch so far, but for those [forgotten](Self::forget_batches).
    #[must_use]
    pub fn batches(&self) -> Vec<StepBatch> {
        self.lock().batches.clone()
    }

    /// Keeps no batch from now on, so that a long run takes no memory.
    pub fn forget_batches(&self) {
        let mut control = self.lock();
        control.forgets = true;
        control.batches = Vec::new();
    }

    /// Forward passes that have begun.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.lock().steps
    }

    /// The costs of all forward passes so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.lock().elapsed
    }

    /// Makes forward pass `index` (from 0) go wrong.
    pub fn fail_at(&self, index: usize, fault: SimFault) {
        self.lock().faults.insert(index, fault);
    }

    /// Makes forward passes go wrong at random; which ones depends on the seed
    /// alone.
    pub fn fail_randomly(&self, seed: u64, rates: FaultRates) {
        self.lock().rates = Some((seed, rates));
    }

    /// What went wrong so far.
    #[must_use]
    pub fn injected(&self) -> Vec<InjectedFault> {
        self.lock().injected.clone()
    }

    /// Makes every forward pass take at least so long.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Chooses the next token by the history, where `script` returns one:
    /// that token then has by far the largest logit.
    pub fn set_script(
        &self,
        script: impl Fn(&[TokenId]) -> Option<TokenId> + Send + Sync + 'static,
    ) {
        self.lock().script = Some(Arc::new(script));
    }

    /// Holds every forward pass until [`allow`](Self::allow) lets it run.
    pub fn hold(&self) {
        self.lock().permits = Some(0);
    }

    /// Lets `passes` more forward passes run.
    pub fn allow(&self, passes: usize) {
        let mut control = self.lock();
        control.permits = control.permits.map(|permits| permits + passes);
        drop(control);
        self.control.1.notify_all();
    }

    /// Lets every forward pass run.
    pub fn release(&self) {
        self.lock().permits = None;
        self.control.1.notify_all();
    }

    /// Waits until `passes` forward passes have begun; `false` if they have
    /// not after ten seconds.
    #[must_use]
    pub fn wait_for(&self, passes: usize) -> bool {
        let mut control = self.lock();
        for _ in 0..100 {
            if control.steps >= passes {
                return true;
            }
            let waited = self.control.1.wait_timeout(control, Duration::from_millis(100));
            control = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        control.steps >= passes
    }

    /// Whether the runner was dropped, and its memory with it.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.lock().dropped
    }

    pub(super) fn note_drop(&self) {
        self.lock().dropped = true;
    }

    pub(super) fn note_fault(&self, step: usize, fault: SimFault, victims: usize) {
        self.lock().injected.push(InjectedFault { step, fault, victims });
    }

    /// Notes a batch, waits for its permit and its cost, and returns what is
    /// to come of it.
    pub(super) fn begin(&self, batch: &StepBatch) -> Orders {
        let mut control = self.lock();
        let index = control.steps;
        control.steps += 1;
        if !control.forgets {
            control.batches.push(batch.clone());
        }
        self.control.1.notify_all();
        while control.permits == Some(0) {
            control = self.control.1.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
        control.permits = control.permits.map(|permits| permits - 1);
        let drawn = control.rates.and_then(|(seed, rates)| rates.draw(seed, index));
        let fault = control.faults.remove(&index).or(drawn);
        let cost = control.costs.of(batch);
        control.elapsed += cost;
        let real = if control.clock == SimClock::Real { cost } else { Duration::ZERO };
        let (delay, script) = (control.delay.max(real), control.script.clone());
        drop(control);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        Orders { step: index, fault, script }
    }
}
