//! Holding one backend to one behaviour.

use std::any::Any;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use inference_core::Backend;

use crate::behaviour::{Behaviour, behaviour};
use crate::context::Context;
use crate::model_under_test::ModelUnderTest;
use crate::outcome::{Outcome, undeclared};
use crate::refusal;

/// How long a check may take before it counts as hung.
pub const HANG_AFTER: Duration = Duration::from_secs(120);

/// Holds one backend to the behaviour of this id with one model. A check that
/// panics fails, and so does one that has not ended after [`HANG_AFTER`]; its
/// thread is then left behind.
///
/// ```
/// use std::sync::Arc;
/// use inference_conformance::{ModelUnderTest, Outcome, run_one};
/// use inference_core::doc::EchoBackend;
///
/// let model = ModelUnderTest::new("echo", "echo").with_prompts(vec![vec![72, 105]]);
/// let outcome = run_one("stream/lazy", Arc::new(EchoBackend), &model);
/// assert_eq!(outcome, Outcome::PASS);
/// ```
#[must_use]
pub fn run_one(id: &str, backend: Arc<dyn Backend>, model: &ModelUnderTest) -> Outcome {
    match behaviour(id) {
        Some(behaviour) => run_within(&behaviour, backend, model, HANG_AFTER),
        None => Outcome::Fail(format!("there is no behaviour `{id}`")),
    }
}

/// [`run_one`], with a bound of the caller's on the time that the check takes.
#[must_use]
pub fn run_within(
    behaviour: &Behaviour,
    backend: Arc<dyn Backend>,
    model: &ModelUnderTest,
    hang_after: Duration,
) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let (behaviour, context) = (*behaviour, Context::new(backend, model.clone(), hang_after));
    let thread = std::thread::Builder::new().name(behaviour.id.to_owned()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| run(&behaviour, &context));
        let outcome = std::panic::catch_unwind(run).unwrap_or_else(|payload| {
            Outcome::Fail(format!("the check panicked: {}", panic_message(&*payload)))
        });
        // The context, and with it the model, goes before the outcome is told:
        // a hang while it is closed is one too.
        let closed = std::panic::AssertUnwindSafe(move || drop(context));
        let outcome = match std::panic::catch_unwind(closed) {
            Ok(()) => outcome,
            Err(payload) => {
                Outcome::Fail(format!("dropping the model panicked: {}", panic_message(&*payload)))
            }
        };
        // Nobody waits any more for a check that took too long.
        let _ = sender.send(outcome);
    });
    match thread {
        Ok(_) => receiver.recv_timeout(hang_after).unwrap_or_else(|_| {
            Outcome::Fail(format!("hung: not ended after {} s", hang_after.as_secs_f32()))
        }),
        Err(error) => Outcome::Fail(format!("no thread for the check: {error}")),
    }
}

fn run(behaviour: &Behaviour, context: &Context) -> Outcome {
    let capabilities = context.backend().capabilities();
    for id in behaviour.requires {
        if !capabilities.status(*id).is_usable() || context.data().lacks.contains(id) {
            let detail = capabilities.get(*id).map_or("", |c| c.detail.as_str());
            return match refusal::check(context, *id) {
                Ok(_) => undeclared(*id, detail),
                Err(stop) => stop.into(),
            };
        }
    }
    (behaviour.check)(context).unwrap_or_else(Outcome::from)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned())
}
