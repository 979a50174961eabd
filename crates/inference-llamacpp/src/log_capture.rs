//! What llama.cpp says while it fails.
//!
//! Its functions return no reason but log it, and its log goes to `tracing`.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};

/// The target of llama.cpp's messages.
const TARGET: &str = "llama-cpp-2";

/// Runs `call`; where it fails, `fail` gets the errors that llama.cpp logged
/// meanwhile on this thread, or `silent` where it logged none.
pub(crate) fn explained<T, E>(
    silent: &str,
    call: impl FnOnce() -> Result<T, E>,
    fail: impl FnOnce(String) -> inference_core::Error,
) -> inference_core::Result<T> {
    let errors = Errors::default();
    let capture =
        Capture { errors: Arc::clone(&errors), outer: dispatcher::get_default(Dispatch::clone) };
    let outcome = dispatcher::with_default(&Dispatch::new(capture), call);
    outcome.map_err(|_| {
        let errors = std::mem::take(&mut *errors.lock().unwrap_or_else(PoisonError::into_inner));
        fail(if errors.is_empty() { silent.to_owned() } else { errors.join("; ") })
    })
}

type Errors = Arc<Mutex<Vec<String>>>;

/// Keeps errors of llama.cpp and passes everything on.
struct Capture {
    errors: Errors,
    outer: Dispatch,
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_error(metadata) || self.outer.enabled(metadata)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.outer.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.outer.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.outer.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        if is_error(event.metadata()) {
            let mut message = Message::default();
            event.record(&mut message);
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            errors.extend(message.0);
        }
        if self.outer.enabled(event.metadata()) {
            self.outer.event(event);
        }
    }

    fn enter(&self, span: &Id) {
        self.outer.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.outer.exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.outer.clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.outer.try_close(span)
    }
}

fn is_error(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::ERROR && metadata.target() == TARGET
}

/// The text of an event.
#[derive(Default)]
struct Message(Option<String>);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}").trim().to_owned());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0 = Some(value.trim().to_owned());
        }
    }
}
