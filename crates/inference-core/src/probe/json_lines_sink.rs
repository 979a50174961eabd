//! Events as one JSON object per line.

use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Write};

use super::{Interest, ProbeEvent, ProbeRecord, ProbeSink};

/// Writes events as JSON Lines: `{"at_us":…,"request":…,"phase":"…","kind":"…",…}`.
///
/// Values that JSON cannot hold (NaN, infinities) are written as `null`. A
/// write error ends the sink's work; [`JsonLinesSink::errors`] counts them.
pub struct JsonLinesSink {
    writer: BufWriter<Box<dyn Write + Send>>,
    interest: Interest,
    line: String,
}

impl JsonLinesSink {
    /// A sink for everything but logits and attention.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self::with_interest(writer, Interest::CHEAP)
    }

    /// A sink for these kinds.
    pub fn with_interest(writer: impl Write + Send + 'static, interest: Interest) -> Self {
        Self { writer: BufWriter::new(Box::new(writer)), interest, line: String::new() }
    }
}
