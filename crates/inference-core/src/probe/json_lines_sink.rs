//! Events as one JSON object per line.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::json::Object;
use super::{Interest, ProbeEvent, ProbeRecord, ProbeSink};
use crate::FinishReason;

/// Bytes gathered before they are written.
const BUFFER: usize = 64 * 1024;

/// Writes events as [JSON Lines](https://jsonlines.org), UTF-8.
///
/// Every line has `at_us` (microseconds since the bus was made), `request`
/// (`null` outside of one), `phase` and `event`, then the fields of the
/// [`ProbeEvent`] under their own names, with these differences: a duration is
/// in microseconds (`duration_us`), the end of a request is `reason` (`error`
/// for one that failed) with `stop_token` or `stop_string` where there was one.
/// What JSON cannot hold (NaN, infinities) is `null`.
///
/// Lines are written in blocks, and when the bus is flushed or dropped. A write
/// error ends the sink's work; [`errors`](Self::errors) tells of it.
///
/// ```
/// use inference_core::probe::{JsonLinesSink, ProbeBus};
///
/// let sink = JsonLinesSink::new(std::io::sink());
/// let errors = sink.errors();
/// let bus = ProbeBus::new(vec![Box::new(sink)]);
/// // … generate with this bus in the load options …
/// bus.flush();
/// assert_eq!(errors.lost(), 0);
/// ```
pub struct JsonLinesSink {
    writer: Box<dyn Write + Send>,
    interest: Interest,
    buffer: String,
    /// Lines in the buffer.
    lines: u64,
    errors: WriteErrors,
}

impl JsonLinesSink {
    /// A sink for everything but logits and attention.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self::with_interest(writer, Interest::CHEAP)
    }

    /// A sink for these kinds.
    pub fn with_interest(writer: impl Write + Send + 'static, interest: Interest) -> Self {
        Self {
            writer: Box::new(writer),
            interest,
            buffer: String::new(),
            lines: 0,
            errors: WriteErrors::default(),
        }
    }

    /// What went wrong with writing; readable after the bus took the sink.
    #[must_use]
    pub fn errors(&self) -> WriteErrors {
        self.errors.clone()
    }

    fn write_out(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self.writer.write_all(self.buffer.as_bytes());
        if let Err(error) = written.and_then(|()| self.writer.flush()) {
            self.errors.failed(&error, self.lines);
        }
        self.buffer.clear();
        self.lines = 0;
    }
}

impl fmt::Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink")
            .field("interest", &self.interest)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

impl ProbeSink for JsonLinesSink {
    fn name(&self) -> &str {
        "json_lines"
    }

    fn interest(&self) -> Interest {
        self.interest
    }

    fn record(&mut self, record: &ProbeRecord) {
        if self.errors.lost_one_more() {
            return;
        }
        write_line(&mut self.buffer, record);
        self.lines += 1;
        if self.buffer.len() >= BUFFER {
            self.write_out();
        }
    }

    fn flush(&mut self) {
        self.write_out();
    }
}

impl Drop for JsonLinesSink {
    fn drop(&mut self) {
        self.write_out();
    }
}

/// What went wrong with a [`JsonLinesSink`]'s writing; clones share it.
#[derive(Clone, Debug, Default)]
pub struct WriteErrors(Arc<Mutex<Failure>>);

#[derive(Debug, Default)]
struct Failure {
    message: Option<String>,
    lost: u64,
}

impl WriteErrors {
    /// Events that may not have been written: those of the block that failed,
    /// and all that came after it.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// The write error that ended the sink's work, if one did.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        self.lock().message.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error, lost: u64) {
        let mut failure = self.lock();
        failure.message.get_or_insert_with(|| error.to_string());
        failure.lost += lost;
    }

    /// Counts an event that comes after an error; whether there was one.
    fn lost_one_more(&self) -> bool {
        let mut failure = self.lock();
        let failed = failure.message.is_some();
        failure.lost += u64::from(failed);
        failed
    }
}

fn write_line(out: &mut String, record: &ProbeRecord) {
    let mut line = Object::open(out);
    line.integer("at_us", record.at.as_micros());
    match record.request {
        Some(id) => line.integer("request", id.0),
        None => line.null("request"),
    }
    line.string("phase", record.phase.as_str());
    line.string("event", record.event.name());
    match &record.event {
        ProbeEvent::Token { id, text, index } => {
            line.integer("id", *id);
            line.string("text", text);
            line.size("index", *index);
        }
        ProbeEvent::Logits { index, values } => {
            line.size("index", *index);
            line.floats("values", values);
        }
        ProbeEvent::Attention { layer, queries, keys } => {
            line.size("layer", *layer);
            line.floats("queries", queries);
            line.floats("keys", keys);
        }
        ProbeEvent::CachePressure { used, total, waiting } => {
            line.size("used", *used);
            line.size("total", *total);
            line.size("waiting", *waiting);
        }
        ProbeEvent::MemoryPressure { active_bytes, peak_bytes } => {
            line.integer("active_bytes", *active_bytes);
            line.integer("peak_bytes", *peak_bytes);
        }
        ProbeEvent::Training { step, loss, learning_rate, gradient_norm } => {
            line.integer("step", *step);
            line.float("loss", *loss);
            line.float("learning_rate", *learning_rate);
            line.float("gradient_norm", *gradient_norm);
        }
        ProbeEvent::Admitted { prompt_tokens, cached_tokens } => {
            line.size("prompt_tokens", *prompt_tokens);
            line.size("cached_tokens", *cached_tokens);
        }
        ProbeEvent::Preempted { computed } => line.size("computed", *computed),
        ProbeEvent::Ended { reason } => {
            line.string("reason", reason.as_ref().map_or("error", FinishReason::name));
            match reason {
                Some(FinishReason::StopToken(id)) => line.integer("stop_token", *id),
                Some(FinishReason::StopString(text)) => line.string("stop_string", text),
                _ => {}
            }
        }
        ProbeEvent::Step { sequences, tokens, queued, duration } => {
            line.size("sequences", *sequences);
            line.size("tokens", *tokens);
            line.size("queued", *queued);
            line.integer("duration_us", duration.as_micros());
        }
    }
    line.close();
    out.push('\n');
}
