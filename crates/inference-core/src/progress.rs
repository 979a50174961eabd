//! Progress of long operations, as events a program may draw.

use std::fmt;
use std::sync::Arc;

/// One step of a long operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// A phase such as `load weights` began; `total` is in `unit`s, if known.
    Started {
        /// The phase.
        phase: String,
        /// How much there is to do.
        total: Option<u64>,
        /// The unit of the counts, for example `bytes` or `tensors`.
        unit: &'static str,
    },
    /// So much of the phase is done.
    Advanced {
        /// The phase.
        phase: String,
        /// Done so far, in the phase's unit.
        done: u64,
    },
    /// The phase ended.
    Finished {
        /// The phase.
        phase: String,
    },
    /// Something the user should know, such as an option that the model's
    /// files override.
    Note {
        /// The message, one sentence.
        message: String,
    },
}

/// Receives [`ProgressEvent`]s; libraries report, binaries print.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(&ProgressEvent) + Send + Sync>);

impl ProgressSink {
    /// A sink that calls `report`, from whatever thread does the work.
    pub fn new(report: impl Fn(&ProgressEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Reports one event.
    pub fn report(&self, event: &ProgressEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink(..)")
    }
}
