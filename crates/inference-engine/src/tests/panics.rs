//! A panic harms whoever it belongs to, and nobody else.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};

use inference_core::probe::RequestId;
use inference_core::{BatchItem, Error, ErrorKind, Result};

use super::*;
use crate::engine_thread::Engine;
use crate::exporter::Exporter;
use crate::mailbox::Mailbox;
use crate::meter::Meter;
use crate::scheduler::Rank;
use crate::submission::{PrefillTask, RowConsumer, Submission, Task, request_span};
use crate::{KvBlocks, MemoryUsage, ModelRunner, RunnerSpec, StepBatch};

/// A waker that panics.
struct Broken(AtomicUsize);

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a broken waker");
    }
}

#[test]
fn a_panicking_waker_harms_neither_the_engine_nor_its_own_stream() {
    let (model, control) = model(SimSpec::default(), EngineOptions::new());
    let expected = generate(&model, &[1], greedy(6));
    control.hold();
    let mut stream = model.generate(vec![1].into(), greedy(6)).unwrap();
    let mut neighbour = model.generate(vec![2].into(), greedy(6)).unwrap();
    neighbour.start();
    let broken = Arc::new(Broken(AtomicUsize::new(0)));
    {
        let waker = Waker::from(Arc::clone(&broken));
        let next = std::pin::pin!(stream.next_async());
        assert!(next.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    control.release();
    assert_eq!(read(&mut neighbour).len(), 6);
    assert_eq!(ids(&read(&mut stream)), expected);
    assert_eq!(broken.0.load(Ordering::SeqCst), 1);
    assert_eq!(generate(&model, &[1], greedy(6)), expected, "the engine goes on");
}

#[test]
fn a_panicking_waker_outside_of_a_full_queue_keeps_no_other_waiting() {
    let mailbox = Mailbox::new(1, Duration::from_secs(1));
    let broken = Arc::new(Broken(AtomicUsize::new(0)));
    let mut waiting = VecDeque::from([prefill(0, At::Nowhere).0, prefill(1, At::Nowhere).0]);
    mailbox.submit_some(&mut waiting, &Waker::from(Arc::clone(&broken))).unwrap();
    let thread = std::thread::current();
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    mailbox.submit_some(&mut waiting, &Waker::from(Arc::new(Unpark(thread)))).unwrap();
    assert_eq!(waiting.len(), 1);
    mailbox.leave_queue();
    assert_eq!(broken.0.load(Ordering::SeqCst), 1);
    // Returns at once, or never.
    std::thread::park();
}

/// Where a consumer of rows panics.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Nowhere,
    Row,
    End,
}

struct Consumer(At, mpsc::Sender<Result<()>>);

impl RowConsumer for Consumer {
    fn row(&mut self, _: &[f32]) {
        assert!(self.0 != At::Row, "a broken consumer");
    }

    fn end(self: Box<Self>, end: Result<()>) {
        assert!(self.0 != At::End, "a broken consumer");
        self.1.send(end).unwrap();
    }
}

/// A request for all rows of a prompt, and where the outcome comes.
fn prefill(id: u32, at: At) -> (Submission, mpsc::Receiver<Result<()>>) {
    let (sender, reply) = mpsc::channel();
    let task = PrefillTask { all_rows: true, consumer: Box::new(Consumer(at, sender)) };
    let id = RequestId(id.into());
    let submission = Submission {
        id,
        restored: None,
        ids: vec![id.0 as u32; 3],
        adapter: None,
        priority: 0,
        rank: Rank::default(),
        deadline: None,
        cancel: None,
        submitted: Instant::now(),
        span: request_span(id, 3, None),
        task: Task::Prefill(task),
    };
    (submission, reply)
}

/// What is done with the rows of a sequence is that sequence's own affair.
#[test]
fn a_panic_over_the_rows_of_a_sequence_ends_it_alone() {
    let (mailbox, meter) =
        (Arc::new(Mailbox::new(8, Duration::from_secs(1))), Arc::new(Meter::default()));
    let (runner, _) = SimRunner::new(SimSpec::default());
    let engine = Engine::new(
        Box::new(runner),
        EngineOptions::new(),
        None,
        Arc::clone(&mailbox),
        Arc::clone(&meter),
        Exporter::new(&info()),
    );
    let ats = [At::Row, At::Nowhere, At::End, At::Nowhere];
    let (mut submissions, replies): (VecDeque<_>, Vec<_>) =
        (0..).zip(ats).map(|(id, at)| prefill(id, at)).unzip();
    mailbox.submit_some(&mut submissions, Waker::noop()).unwrap();
    let thread = std::thread::spawn(move || engine.run());
    let error = replies[0].recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("panicked: a broken consumer"), "{error}");
    replies[1].recv().unwrap().unwrap();
    assert!(replies[2].recv().is_err(), "it heard nothing, since that is what panicked");
    replies[3].recv().unwrap().unwrap();
    mailbox.check_open().unwrap();
    mailbox.drain();
    thread.join().unwrap();
    let metrics = meter.read();
    assert_eq!((metrics.finished, metrics.failed, metrics.kv_blocks_used), (4, 1, 0));
}

/// Where a runner panics outside of its forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spot {
    Spec,
    Memory(usize),
    KvBlocks,
    Drop,
}

/// A simulated runner with a fault.
struct Faulty {
    runner: SimRunner,
    spot: Spot,
    asked: AtomicUsize,
}

impl Faulty {
    fn start(spot: Spot) -> Result<Arc<EngineModel>> {
        let (runner, _) = SimRunner::new(SimSpec::default());
        let faulty = Self { runner, spot, asked: AtomicUsize::new(0) };
        EngineModel::start(Box::new(faulty), ModelParts::new(info()), EngineOptions::new())
    }
}

impl ModelRunner for Faulty {
    fn spec(&self) -> &RunnerSpec {
        assert!(self.spot != Spot::Spec, "no spec");
        self.runner.spec()
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<Vec<f32>> {
        self.runner.forward(batch)
    }

    fn survives(&self, error: &Error) -> bool {
        self.runner.survives(error)
    }

    fn kv_blocks(&mut self) -> Option<&mut dyn KvBlocks> {
        assert!(self.spot != Spot::KvBlocks, "no blocks");
        self.runner.kv_blocks()
    }

    fn memory(&self) -> MemoryUsage {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(self.spot != Spot::Memory(asked), "no memory");
        self.runner.memory()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(self.spot != Spot::Drop || std::thread::panicking(), "no end");
    }
}

#[test]
fn a_runner_that_panics_when_asked_for_its_facts_is_an_error_of_the_load() {
    for (spot, message) in
        [(Spot::Spec, "no spec"), (Spot::KvBlocks, "no blocks"), (Spot::Memory(0), "no memory")]
    {
        let error = Faulty::start(spot).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine);
        assert!(error.to_string().contains(message), "{spot:?}: {error}");
    }
}

#[test]
fn a_panic_of_the_engine_itself_is_told_to_everybody_as_the_first_cause() {
    let model = Faulty::start(Spot::Memory(3)).unwrap();
    let items = (0..12).map(|i| BatchItem::new(vec![i]).with_options(greedy(50)));
    let outputs = model.batch_generate(items.collect()).unwrap().collect_all();
    assert_eq!(outputs.len(), 12);
    for output in outputs {
        let error = output.unwrap_err();
        assert!(error.to_string().contains("no memory"), "{error}");
    }
    let error = model.generate(vec![1].into(), greedy(1)).err().unwrap();
    assert!(error.to_string().contains("no memory"), "{error}");
    model.close();
    let metrics = model.metrics();
    assert_eq!((metrics.requests, metrics.finished, metrics.failed), (12, 12, 12));
    assert_eq!((metrics.running, metrics.queued, metrics.kv_blocks_used), (0, 0, 0));
}

#[test]
fn a_runner_that_panics_as_it_is_dropped_does_not_hinder_closing() {
    let model = Faulty::start(Spot::Drop).unwrap();
    assert_eq!(generate(&model, &[1], greedy(3)).len(), 3);
    model.close();
    assert_eq!(model.metrics().active_bytes, 0);
}
