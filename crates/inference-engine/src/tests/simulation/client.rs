//! The readers: a thread that drives several streams at once, each at its own
//! pace, and threads that make blocking calls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use inference_core::{
    BatchItem, CancelToken, ClassifyOptions, Error, ErrorKind, FinishReason, LogitRows, TokenEvent,
};

use super::super::*;
use super::twin::{self, Expected};
use super::workload::{Call, Client, End, Pace, Reader, Request, Workload};

/// What all clients of a simulation share.
pub(super) struct World<'a> {
    pub(super) workload: &'a Workload,
    pub(super) model: &'a EngineModel,
    pub(super) ends: Ends,
    /// Threads that are done.
    pub(super) done: AtomicUsize,
}

/// Counts a thread as done, also one that panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        count(self.0);
    }
}

/// How requests ended, counted.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) natural: AtomicUsize,
    pub(super) cancelled: AtomicUsize,
    pub(super) lagging: AtomicUsize,
    pub(super) failed: AtomicUsize,
    pub(super) dropped: AtomicUsize,
    pub(super) refused: AtomicUsize,
}

impl Ends {
    pub(super) fn all(&self) -> [(&'static str, &AtomicUsize); 6] {
        [
            ("natural", &self.natural),
            ("cancelled", &self.cancelled),
            ("lagging", &self.lagging),
            ("failed", &self.failed),
            ("dropped", &self.dropped),
            ("refused", &self.refused),
        ]
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A stream that its client reads.
struct Open<'a> {
    request: &'a Request,
    expected: Expected,
    stream: TokenStream,
    cancel: CancelToken,
    /// What came.
    ids: Vec<TokenId>,
    text: String,
    cancelled: bool,
    /// Rounds that it still stands still.
    standing: usize,
    paused: bool,
}

/// What a round did for a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It may have more to read at once.
    Moved,
    /// It is woken when there is more.
    Pending,
    /// The reader does not want to read now.
    Standing,
    Over,
}

impl World<'_> {
    /// Whether the model may refuse or end requests at any time.
    fn ends_early(&self) -> bool {
        matches!(self.workload.end, End::CloseEarly(_) | End::DrainEarly(_))
    }

    /// Checks an error that a request may end with.
    fn check_error(&self, error: &Error) {
        let rates = self.workload.faults.rates;
        let text = error.to_string();
        let allowed = match error.kind() {
            ErrorKind::Closed => self.ends_early(),
            ErrorKind::Exhausted => text.contains("request queue"),
            ErrorKind::Engine => {
                text.contains("simulated failure") && rates.error + rates.fatal > 0.0
                    || text.contains("simulated panic") && rates.panic > 0.0
                    || text.contains("logit NaN") && rates.nan > 0.0
                    || text.contains("logits, expected") && rates.short > 0.0
            }
            _ => false,
        };
        assert!(allowed, "{error}");
        count(if error.kind() == ErrorKind::Engine {
            &self.ends.failed
        } else {
            &self.ends.refused
        });
    }

    fn check_bounds(&self) {
        let (metrics, knobs) = (self.model.metrics(), &self.workload.knobs);
        assert!(metrics.kv_blocks_used <= metrics.kv_blocks_total, "{metrics:?}");
        // A sequence that was preempted waits too, beyond the limit.
        assert!(metrics.queued <= knobs.max_queue + knobs.max_batch, "{metrics:?}");
        assert!(metrics.running <= knobs.max_batch, "{metrics:?}");
    }

    /// Serves one client's requests, all of them to their end.
    pub(super) fn serve(&self, client: &Client) {
        let _done = Done(&self.done);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut coming = client.requests.iter().peekable();
        let mut open: Vec<Open<'_>> = Vec::new();
        let mut gap = 0;
        while coming.peek().is_some() || !open.is_empty() {
            let mut busy = false;
            let due = |request: &mut &Request| gap >= request.gap;
            if open.len() < client.window
                && let Some(request) = coming.next_if(|request| due(&mut &**request))
            {
                open.extend(self.open(request));
                (gap, busy) = (0, true);
            }
            gap += 1;
            let progress: Vec<_> =
                open.iter_mut().map(|open| self.advance(open, &mut cx)).collect();
            let mut over = progress.iter().map(|progress| *progress == Progress::Over);
            open.retain(|_| !over.next().unwrap());
            self.check_bounds();
            busy |= progress.iter().any(|p| matches!(p, Progress::Moved | Progress::Over));
            let standing = progress.contains(&Progress::Standing);
            let room = coming.peek().is_some() && open.len() < client.window;
            if busy {
                continue;
            }
            if standing || room {
                std::thread::park_timeout(Duration::from_micros(300));
            } else {
                // A wake-up that is lost hangs the simulation.
                std::thread::park();
            }
        }
    }

    fn open<'r>(&self, request: &'r Request) -> Option<Open<'r>> {
        let sizes = &self.workload.model;
        let expected = twin::expected(sizes, request);
        let cancel = CancelToken::new();
        let mut options = request.options(sizes);
        if matches!(request.reader, Reader::CancelsByToken(_)) {
            options = options.with_cancel(cancel.clone());
        }
        if let Reader::IsInAHurry(micros) = request.reader {
            options = options.with_timeout(Duration::from_micros(micros));
        }
        let mut stream = match self.model.generate(expected.prompt.clone().into(), options) {
            Ok(stream) => stream,
            Err(error) => {
                self.check_error(&error);
                return None;
            }
        };
        stream.start();
        if request.reader == Reader::ForgetsIt {
            count(&self.ends.dropped);
            return None;
        }
        let (ids, text) = (Vec::new(), String::new());
        let (cancelled, standing, paused) = (false, 0, false);
        Some(Open { request, expected, stream, cancel, ids, text, cancelled, standing, paused })
    }

    /// Reads what the pace allows.
    fn advance(&self, open: &mut Open<'_>, cx: &mut Context<'_>) -> Progress {
        let read = open.ids.len();
        match open.request.reader {
            Reader::Drops(after) if read >= after => {
                count(&self.ends.dropped);
                return Progress::Over;
            }
            Reader::Cancels(after) if read >= after && !open.cancelled => {
                open.stream.cancel();
                open.cancelled = true;
            }
            Reader::CancelsByToken(after) if read >= after && !open.cancelled => {
                open.cancel.cancel();
                open.cancelled = true;
            }
            _ => {}
        }
        if open.standing > 0 {
            open.standing -= 1;
            return Progress::Standing;
        }
        // One that stands is ended as lagging where the engine is impatient.
        let lag = self.workload.knobs.lag_millis;
        match open.request.pace {
            Pace::Pauses(after, rounds) if read >= after && !open.paused => {
                (open.standing, open.paused) = (rounds, true);
            }
            Pace::Stands(after) if read >= after && !open.paused => {
                let rounds = if lag < 1000 { lag as usize * 6 } else { 50 };
                (open.standing, open.paused) = (rounds, true);
            }
            _ => {}
        }
        let event = pin!(open.stream.next_async()).poll(cx);
        match event {
            Poll::Pending => Progress::Pending,
            Poll::Ready(Some(Ok(token))) => {
                open.ids.push(token.id);
                open.text.push_str(&token.text);
                assert!(open.expected.ids.starts_with(&open.ids), "{open:?}");
                let wanted = open.request.sampling.logprobs;
                assert_eq!(token.logprob.is_some(), wanted.is_some());
                assert_eq!(token.top_logprobs.len(), wanted.unwrap_or(0));
                if let Pace::Slow(rounds) = open.request.pace {
                    open.standing = rounds;
                }
                Progress::Moved
            }
            Poll::Ready(Some(Err(error))) => {
                self.check_error(&error);
                self.over(open, cx)
            }
            Poll::Ready(None) => {
                self.check_end(open);
                self.over(open, cx)
            }
        }
    }

    /// A stream that ended stays at its end.
    fn over(&self, open: &mut Open<'_>, cx: &mut Context<'_>) -> Progress {
        assert!(matches!(pin!(open.stream.next_async()).poll(cx), Poll::Ready(None)));
        Progress::Over
    }

    fn check_end(&self, open: &Open<'_>) {
        let Open { request, expected, ids, text, .. } = open;
        let completion = open.stream.completion().unwrap();
        let (reason, metrics) = (&completion.finish_reason, &completion.metrics);
        let knobs = &self.workload.knobs;
        assert_eq!(completion.seed, request.sampling.seed);
        assert_eq!(metrics.prompt_tokens, expected.prompt.len());
        let stopped = usize::from(matches!(reason, FinishReason::StopToken(_)));
        assert_eq!(metrics.generated_tokens, ids.len() + stopped, "{open:?}");
        assert!(metrics.accepted_draft_tokens <= metrics.draft_tokens, "{metrics:?}");
        match reason {
            FinishReason::Cancelled => {
                assert!(open.cancelled || self.ends_early(), "{open:?}");
                count(&self.ends.cancelled);
            }
            FinishReason::Deadline => {
                assert!(matches!(request.reader, Reader::IsInAHurry(_)), "{open:?}");
                count(&self.ends.cancelled);
            }
            FinishReason::Lagging => {
                // The channel was full, and a token did not fit.
                assert!(knobs.lag_millis < 1000 && ids.len() > knobs.capacity, "{open:?}");
                count(&self.ends.lagging);
            }
            reason => {
                assert_eq!((reason, ids), (&expected.reason, &expected.ids), "{open:?}");
                count(&self.ends.natural);
            }
        }
        if self.workload.model.text {
            let whole = self.decoded(ids);
            match reason {
                FinishReason::StopString(stop) => {
                    assert_eq!(format!("{text}{stop}"), whole, "{open:?}");
                }
                _ => assert_eq!(*text, whole, "{open:?}"),
            }
        }
    }

    fn decoded(&self, ids: &[TokenId]) -> String {
        byte_tokenizer().decode(ids, true).unwrap()
    }

    /// Makes blocking calls, one after the other.
    pub(super) fn call(&self, calls: &[Call]) {
        let _done = Done(&self.done);
        for call in calls {
            match call {
                Call::Batch(requests) => self.batch(requests),
                Call::Classify(prompts) => {
                    let ids: Vec<_> =
                        prompts.iter().map(|p| twin::prompt(&self.workload.model, p)).collect();
                    let prompts = ids.iter().map(|ids| ids.clone().into()).collect();
                    match self.model.classify(prompts, &ClassifyOptions::new().with_logits(true)) {
                        Err(error) => self.check_error(&error),
                        Ok(results) => ids.iter().zip(results).for_each(|(ids, result)| {
                            self.check_logits(ids, 1, result.map(|one| one.token.logits.unwrap()));
                        }),
                    }
                }
                Call::Score(prompt, all) => {
                    let ids = twin::prompt(&self.workload.model, prompt);
                    let rows = if *all { LogitRows::All } else { LogitRows::Last };
                    let scorer = self.model.as_scorer().unwrap();
                    let result = scorer.prompt_logits(ids.clone().into(), rows);
                    let rows = if *all { ids.len() } else { 1 };
                    self.check_logits(&ids, rows, result.map(|logits| logits.values));
                }
            }
            self.check_bounds();
        }
    }

    /// The logits of the last `rows` positions of a prompt.
    fn check_logits(&self, ids: &[TokenId], rows: usize, result: Result<Vec<f32>, Error>) {
        let sizes = &self.workload.model;
        match result {
            Err(error) => self.check_error(&error),
            Ok(values) => {
                let rows = ids.len() + 1 - rows..=ids.len();
                let expected = rows.flat_map(|end| twin::logits(sizes, ids.len(), &ids[..end]));
                let same = |(a, b): (&f32, f32)| *a == b || a.is_nan();
                assert!(values.iter().zip(expected).all(same), "the prompt {ids:?}");
                let spoilt = values.iter().any(|value| value.is_nan());
                assert!(!spoilt || self.workload.faults.rates.nan > 0.0);
                count(&self.ends.natural);
            }
        }
    }

    fn batch(&self, requests: &[Request]) {
        let sizes = &self.workload.model;
        let expected: Vec<_> = requests.iter().map(|r| twin::expected(sizes, r)).collect();
        let items = requests.iter().zip(&expected).map(|(request, expected)| {
            BatchItem::new(expected.prompt.clone()).with_options(request.options(sizes))
        });
        let stream = match self.model.batch_generate(items.collect()) {
            Ok(stream) => stream,
            Err(error) => return self.check_error(&error),
        };
        let mut ids = vec![Vec::new(); requests.len()];
        let mut ended = vec![false; requests.len()];
        for (index, event) in stream {
            assert!(!ended[index], "an event after the end of item {index}");
            match event {
                TokenEvent::Token(token) => ids[index].push(token.id),
                TokenEvent::Failed(error) => {
                    self.check_error(&error);
                    ended[index] = true;
                }
                TokenEvent::Finished(completion) => {
                    ended[index] = true;
                    let early = match completion.finish_reason {
                        FinishReason::Cancelled => self.ends_early(),
                        FinishReason::Lagging => ids[index].len() > self.workload.knobs.capacity,
                        _ => false,
                    };
                    if !early {
                        assert_eq!(completion.finish_reason, expected[index].reason);
                        assert_eq!(ids[index], expected[index].ids);
                        count(&self.ends.natural);
                    }
                }
                event => panic!("{event:?}"),
            }
            assert!(expected[index].ids.starts_with(&ids[index]));
        }
        assert!(ended.iter().all(|ended| *ended), "{ended:?}");
    }
}

impl std::fmt::Debug for Open<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("request", self.request)
            .field("expected", &self.expected)
            .field("ids", &self.ids)
            .field("text", &self.text)
            .field("cancelled", &self.cancelled)
            .field("completion", &self.stream.completion())
            .finish_non_exhaustive()
    }
}
