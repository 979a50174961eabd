//! The bus between the engine and its sinks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Interest, Phase, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink, RequestId};

/// Events that fit into each sink's queue.
const DEFAULT_QUEUE: usize = 1024;

/// Distributes events to sinks without ever waiting for one.
///
/// Dropping the bus lets every sink finish what is queued, and waits for it.
///
/// ```
/// use inference_core::probe::{Interest, Phase, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink};
/// use std::sync::mpsc::{Sender, channel};
///
/// struct Forward(Sender<usize>);
/// impl ProbeSink for Forward {
///     fn name(&self) -> &str { "forward" }
///     fn interest(&self) -> Interest { ProbeKind::Scheduler.into() }
///     fn record(&mut self, record: &ProbeRecord) {
///         if let ProbeEvent::Admitted { prompt_tokens, .. } = record.event {
///             let _ = self.0.send(prompt_tokens);
///         }
///     }
/// }
///
/// let (sender, receiver) = channel();
/// let bus = ProbeBus::new(vec![Box::new(Forward(sender))]);
/// assert!(!bus.wants(ProbeKind::Logits));
/// bus.emit(None, Phase::Queued, ProbeEvent::Admitted { prompt_tokens: 7, cached_tokens: 0 });
/// bus.flush();
/// assert_eq!(receiver.recv(), Ok(7));
/// ```
pub struct ProbeBus {
    interest: Interest,
    started: Instant,
    lanes: Vec<Lane>,
}

struct Lane {
    name: String,
    interest: Interest,
    queue: Option<SyncSender<Command>>,
    dropped: AtomicU64,
    panicked: Arc<AtomicBool>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Record(Arc<ProbeRecord>),
    Flush(SyncSender<()>),
}

/// What became of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkStats {
    /// The sink's name.
    pub name: String,
    /// Events that its queue had no room for.
    pub dropped: u64,
    /// Whether it panicked and was switched off.
    pub panicked: bool,
}

impl ProbeBus {
    /// A bus to these sinks, each with a queue of 1024 events.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn ProbeSink>>) -> Self {
        Self::with_queue(sinks, DEFAULT_QUEUE)
    }

    /// A bus to these sinks, each with a queue of `capacity` events (at least
    /// one).
    #[must_use]
    pub fn with_queue(sinks: Vec<Box<dyn ProbeSink>>, capacity: usize) -> Self {
        let lanes: Vec<_> = sinks.into_iter().map(|sink| Lane::start(sink, capacity)).collect();
        let interest = lanes.iter().fold(Interest::NONE, |all, lane| all | lane.interest);
        Self { interest, started: Instant::now(), lanes }
    }

    /// Whether any working sink wants this kind. Ask before computing or
    /// copying anything for an event.
    #[must_use]
    pub fn wants(&self, kind: ProbeKind) -> bool {
        self.interest.contains(kind) && self.lanes.iter().any(|lane| lane.wants(kind))
    }

    /// Hands an event to every sink that wants it; never blocks.
    pub fn emit(&self, request: Option<RequestId>, phase: Phase, event: ProbeEvent) {
        let kind = event.kind();
        if !self.wants(kind) {
            return;
        }
        let record = Arc::new(ProbeRecord { at: self.started.elapsed(), request, phase, event });
        for lane in self.lanes.iter().filter(|lane| lane.wants(kind)) {
            lane.send(&record);
        }
    }

    /// Waits until every sink has taken what was emitted before, and flushes
    /// it. Meant for tests and for the end of a program.
    pub fn flush(&self) {
        for lane in &self.lanes {
            let (done, wait) = sync_channel(1);
            if let Some(queue) = &lane.queue
                && queue.send(Command::Flush(done)).is_ok()
            {
                // An error means that the sink panicked: nothing left to wait for.
                let _ = wait.recv();
            }
        }
    }

    /// What became of each sink.
    #[must_use]
    pub fn stats(&self) -> Vec<SinkStats> {
        let stats = |lane: &Lane| SinkStats {
            name: lane.name.clone(),
            dropped: lane.dropped.load(Ordering::Relaxed),
            panicked: lane.panicked.load(Ordering::Relaxed),
        };
        self.lanes.iter().map(stats).collect()
    }
}

impl fmt::Debug for ProbeBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeBus").field("sinks", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for ProbeBus {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            lane.queue = None;
            let worker = lane.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            // A sink may have held the last reference: a thread cannot wait
            // for itself.
            if let Some(worker) = worker
                && worker.thread().id() != std::thread::current().id()
            {
                // The worker catches panics of its sink.
                let _ = worker.join();
            }
        }
    }
}

impl Lane {
    fn start(sink: Box<dyn ProbeSink>, capacity: usize) -> Self {
        let name = sink.name().to_owned();
        let interest = sink.interest();
        let (queue, commands) = sync_channel(capacity.max(1));
        let panicked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&panicked);
        let worker = std::thread::Builder::new()
            .name(format!("probe-{name}"))
            .spawn(move || work(sink, &commands, &flag))
            .ok();
        // Without a thread nothing receives: every event counts as dropped.
        Self {
            name,
            interest,
            queue: worker.is_some().then_some(queue),
            dropped: AtomicU64::new(0),
            panicked,
            worker: Mutex::new(worker),
        }
    }

    fn wants(&self, kind: ProbeKind) -> bool {
        self.interest.contains(kind) && !self.panicked.load(Ordering::Relaxed)
    }

    fn send(&self, record: &Arc<ProbeRecord>) {
        let sent = match &self.queue {
            Some(queue) => queue.try_send(Command::Record(Arc::clone(record))),
            None => Err(TrySendError::Disconnected(Command::Record(Arc::clone(record)))),
        };
        if sent.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn work(mut sink: Box<dyn ProbeSink>, commands: &Receiver<Command>, panicked: &AtomicBool) {
    let run = AssertUnwindSafe(|| {
        for command in commands {
            match command {
                Command::Record(record) => sink.record(&record),
                Command::Flush(done) => {
                    sink.flush();
                    // Whoever flushed may have gone.
                    let _ = done.send(());
                }
            }
        }
        sink.flush();
    });
    if catch_unwind(run).is_err() {
        panicked.store(true, Ordering::Relaxed);
    }
}
