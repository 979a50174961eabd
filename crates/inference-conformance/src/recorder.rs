//! A probe sink that keeps what it is given.

use std::sync::{Arc, Mutex, PoisonError};

use inference_core::probe::{Interest, ProbeRecord, ProbeSink};
use inference_core::{ProbeBus, TextModel};

use crate::context::Context;
use crate::outcome::Stop;

/// Keeps what it is given.
struct Recorder {
    interest: Interest,
    records: Arc<Mutex<Vec<ProbeRecord>>>,
}

impl ProbeSink for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn interest(&self) -> Interest {
        self.interest
    }

    fn record(&mut self, record: &ProbeRecord) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
    }
}

/// What a [`recorder`] was given.
pub(crate) type Records = Arc<Mutex<Vec<ProbeRecord>>>;

/// A sink that keeps what it is given.
pub(crate) fn recorder(interest: Interest) -> (Box<dyn ProbeSink>, Records) {
    let records = Records::default();
    (Box::new(Recorder { interest, records: Arc::clone(&records) }), records)
}

/// What was recorded, once the model is idle.
pub(crate) fn recorded(
    context: &Context,
    model: &dyn TextModel,
    bus: &ProbeBus,
    records: &Records,
) -> Result<Vec<ProbeRecord>, Stop> {
    context.wait_idle(model)?;
    bus.flush();
    Ok(std::mem::take(&mut *records.lock().unwrap_or_else(PoisonError::into_inner)))
}
