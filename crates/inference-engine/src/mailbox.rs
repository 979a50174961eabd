//! The bounded queue in front of the engine thread, and its wake-ups.

use std::collections::VecDeque;
use std::sync::{PoisonError, mpsc};
use std::task::Waker;
use std::time::{Duration, Instant};

use inference_core::{AttentionSnapshot, Error, Result, TokenId};

use crate::adapters::AdapterLease;
use crate::channel::wake;
use crate::submission::Submission;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// A look at attention, to be answered between steps.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) adapter: Option<AdapterLease>,
    pub(crate) reply: mpsc::Sender<Result<AttentionSnapshot>>,
}

/// What callers hand to the engine thread.
#[derive(Debug)]
pub(crate) struct Mailbox {
    max_queue: usize,
    aging: Duration,
    start: Instant,
    state: Mutex<State>,
    engine: Condvar,
}

#[derive(Debug, Default)]
struct State {
    submissions: Vec<Submission>,
    inspections: Vec<Inspection>,
    /// Requests that wait for a slot, here or with the engine thread.
    queued: usize,
    /// Submissions so far.
    arrivals: u64,
    closing: bool,
    /// No more requests, but those that are here end by themselves.
    draining: bool,
    /// Why the engine stopped by itself.
    failure: Option<Error>,
    woken: bool,
    /// Who waits for room in the queue, each once.
    waiting_for_room: Vec<Waker>,
    /// Places that became free since they were last woken.
    freed: usize,
}

/// What the engine thread finds.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) submissions: Vec<Submission>,
    pub(crate) inspections: Vec<Inspection>,
    pub(crate) closing: bool,
    pub(crate) draining: bool,
}

impl State {
    fn check_open(&self) -> Result<()> {
        match &self.failure {
            _ if self.closing || self.draining => Err(Error::Closed),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn accept(&mut self, mut submission: Submission, start: Instant, aging: Duration) {
        submission.enter_queue(self.arrivals, start, aging);
        self.arrivals += 1;
        self.queued += 1;
        self.submissions.push(submission);
        self.woken = true;
    }
}

impl Mailbox {
    pub(crate) fn new(max_queue: usize, aging: Duration) -> Self {
        let (start, state) = (Instant::now(), Mutex::default());
        Self { max_queue, aging, start, state, engine: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests are taken.
    ///
    /// # Errors
    ///
    /// `Closed`, or the error that stopped the engine.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.lock().check_open()
    }

    /// Queues a request.
    ///
    /// # Errors
    ///
    /// As [`check_open`](Self::check_open), and `Exhausted` where the queue is
    /// full.
    pub(crate) fn submit(&self, submission: Submission) -> Result<()> {
        let mut state = self.lock();
        state.check_open()?;
        if state.queued >= self.max_queue {
            return Err(Error::Exhausted {
                resource: "request queue (requests)".into(),
                needed: state.queued as u64 + 1,
                available: self.max_queue as u64,
            });
        }
        state.accept(submission, self.start, self.aging);
        drop(state);
        self.engine.notify_one();
        Ok(())
    }

    /// Queues, from the front, as many of `submissions` as there is room for,
    /// in one go; wakes `waker` when there is room for more.
    ///
    /// # Errors
    ///
    /// As [`check_open`](Self::check_open).
    pub(crate) fn submit_some(
        &self,
        submissions: &mut VecDeque<Submission>,
        waker: &Waker,
    ) -> Result<()> {
        let mut state = self.lock();
        state.check_open()?;
        while state.queued < self.max_queue {
            let Some(submission) = submissions.pop_front() else { break };
            state.accept(submission, self.start, self.aging);
        }
        let registered = state.waiting_for_room.iter().any(|other| other.will_wake(waker));
        if !submissions.is_empty() && !registered {
            state.waiting_for_room.push(waker.clone());
        }
        drop(state);
        self.engine.notify_one();
        Ok(())
    }

    /// Queues a look at attention.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub(crate) fn inspect(&self, inspection: Inspection) -> Result<()> {
        let mut state = self.lock();
        state.check_open()?;
        if state.inspections.len() >= self.max_queue {
            return Err(Error::Exhausted {
                resource: "inspection queue (requests)".into(),
                needed: state.inspections.len() as u64 + 1,
                available: self.max_queue as u64,
            });
        }
        state.inspections.push(inspection);
        state.woken = true;
        drop(state);
        self.engine.notify_one();
        Ok(())
    }

    /// Makes the engine thread look at its sequences.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.engine.notify_one();
    }

    /// Refuses further requests and asks the engine thread to end once those
    /// that it has are ended.
    pub(crate) fn drain(&self) {
        self.shut(|state| state.draining = true);
    }

    /// Refuses further requests and asks the engine thread to end.
    pub(crate) fn close(&self) {
        self.shut(|state| state.closing = true);
    }

    fn shut(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        how(&mut state);
        state.woken = true;
        let waiting = std::mem::take(&mut state.waiting_for_room);
        drop(state);
        self.engine.notify_one();
        waiting.into_iter().for_each(wake);
    }

    /// Refuses further requests with `error`, if they are not refused already.
    pub(crate) fn refuse(&self, error: &Error) {
        self.lock().failure.get_or_insert_with(|| error.clone());
    }

    /// The engine stopped: refuses further requests with `error`, and returns
    /// what was not looked at.
    pub(crate) fn fail(&self, error: &Error) -> Mail {
        let mut state = self.lock();
        state.failure.get_or_insert_with(|| error.clone());
        let waiting = std::mem::take(&mut state.waiting_for_room);
        let mail = state.take();
        drop(state);
        waiting.into_iter().for_each(wake);
        mail
    }

    /// Requests that wait for a slot.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Everything new.
    pub(crate) fn collect(&self) -> Mail {
        let mut state = self.lock();
        state.woken = false;
        state.take()
    }

    /// Notes that a request waits for a slot again.
    pub(crate) fn join_queue(&self) {
        self.lock().queued += 1;
    }

    /// Notes that a request stopped waiting for a slot.
    ///
    /// Whoever waits for room is woken when half of the queue is free, or was
    /// since, though others took it: all at once, since some may be gone, but
    /// not for every single place.
    pub(crate) fn leave_queue(&self) {
        let mut state = self.lock();
        state.queued = state.queued.saturating_sub(1);
        state.freed += 1;
        if state.queued > self.max_queue / 2 && state.freed < self.max_queue.div_ceil(2) {
            return;
        }
        state.freed = 0;
        let waiting = std::mem::take(&mut state.waiting_for_room);
        drop(state);
        waiting.into_iter().for_each(wake);
    }

    /// Blocks the engine thread until there is something new, or `patience`
    /// is over.
    pub(crate) fn wait(&self, patience: Option<Duration>) {
        let mut state = self.lock();
        // A time beyond what the clock can hold is for ever.
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        while !state.woken && !state.closing {
            let Some(until) = until else {
                state = self.engine.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.engine.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn take(&mut self) -> Mail {
        Mail {
            submissions: std::mem::take(&mut self.submissions),
            inspections: std::mem::take(&mut self.inspections),
            closing: self.closing,
            draining: self.draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn full(places: usize) -> Mailbox {
        let mailbox = Mailbox::new(places, Duration::from_secs(1));
        (0..places).for_each(|_| mailbox.join_queue());
        mailbox
    }

    #[test]
    fn who_waits_for_room_is_woken_although_others_take_every_place() {
        let (mailbox, woken) = (full(10), Arc::new(Count::default()));
        let mut outside = VecDeque::from([Submission::test(0)]);
        mailbox.submit_some(&mut outside, &Waker::from(Arc::clone(&woken))).unwrap();
        for _ in 0..5 {
            assert_eq!(woken.0.load(Ordering::Relaxed), 0);
            mailbox.leave_queue();
            mailbox.join_queue();
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_asks_again_waits_once() {
        let mailbox = full(1);
        let wakers =
            [Waker::from(Arc::new(Count::default())), Waker::from(Arc::new(Count::default()))];
        let mut outside = VecDeque::from([Submission::test(0)]);
        for waker in wakers.iter().cycle().take(100) {
            mailbox.submit_some(&mut outside, waker).unwrap();
        }
        assert_eq!(mailbox.lock().waiting_for_room.len(), 2);
    }
}
