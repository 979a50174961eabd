//! A suite of named tests over every backend and model.

use std::process::ExitCode;
use std::sync::Arc;

use inference_core::{Availability, Backend, Registry};
use libtest_mimic::{Arguments, Completion, Trial};

use crate::behaviour::{Behaviour, behaviours};
use crate::execution::{HANG_AFTER, run_within};
use crate::model_under_test::ModelUnderTest;
use crate::outcome::Outcome;
use crate::report::{Column, Report};

/// The name of a backend, and the backend or why it is missing.
type Found = (String, Result<Arc<dyn Backend>, String>);

/// What a suite runs.
///
/// ```
/// use inference_conformance::{ModelUnderTest, SuiteOptions};
///
/// let options = SuiteOptions::new()
///     .with_model(ModelUnderTest::new("echo", "echo"))
///     .with_backend("echo")
///     .with_filter("stream/");
/// assert_eq!(options.models.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SuiteOptions {
    /// The models; each backend runs each of them.
    pub models: Vec<ModelUnderTest>,
    /// Names of the backends to run. Default: every registered one.
    pub backends: Vec<String>,
    /// Parts of the ids of the behaviours to run. Default: all behaviours.
    pub filters: Vec<String>,
}

impl SuiteOptions {
    /// A suite without models.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model.
    #[must_use]
    pub fn with_model(mut self, model: ModelUnderTest) -> Self {
        self.models.push(model);
        self
    }

    /// Adds the name of a backend to run.
    #[must_use]
    pub fn with_backend(mut self, name: impl Into<String>) -> Self {
        self.backends.push(name.into());
        self
    }

    /// Adds a part of the ids of behaviours to run.
    #[must_use]
    pub fn with_filter(mut self, part: impl Into<String>) -> Self {
        self.filters.push(part.into());
        self
    }

    fn wants(&self, behaviour: &Behaviour) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|part| behaviour.id.contains(part))
    }

    /// The backends that are asked for: each one, or why it is missing.
    fn backends(&self, registry: &Registry) -> Vec<Found> {
        let names = if self.backends.is_empty() { registry.list() } else { self.backends.clone() };
        let found = |name: String| {
            let backend = registry.get(&name).map_err(|error| error.to_string());
            (name, backend)
        };
        names.into_iter().map(found).collect()
    }
}

/// One test for each available backend, model and behaviour, named
/// `backend::model::group/name`. What a backend declares that it lacks, and
/// what does not apply, is reported as ignored, with the reason; a backend that
/// cannot run here as one ignored test, and one that was asked for by name but
/// is not registered as a failing one.
#[must_use]
pub fn suite(registry: &Registry, options: &SuiteOptions) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, backend) in options.backends(registry) {
        let backend = match backend {
            Ok(backend) => backend,
            Err(message) => {
                let failing = move || Err(message.into());
                trials.push(Trial::test(format!("{name}::registered"), failing));
                continue;
            }
        };
        if let Availability::Unavailable { reason } = backend.availability() {
            let ignored = move || Ok(Completion::ignored_with(reason));
            trials.push(Trial::ignorable_test(format!("{name}::available"), ignored));
            continue;
        }
        for model in &options.models {
            for behaviour in behaviours().into_iter().filter(|b| options.wants(b)) {
                let (backend, shared) = (Arc::clone(&backend), model.clone());
                let test = move || match run_within(&behaviour, backend, &shared, HANG_AFTER) {
                    Outcome::Pass { .. } => Ok(Completion::Completed),
                    Outcome::Fail(message) => {
                        Err(format!("{message}\ndemanded: {}", behaviour.demand).into())
                    }
                    other => Ok(Completion::ignored_with(other)),
                };
                let name = format!("{name}::{}::{}", model.name, behaviour.id);
                trials.push(Trial::ignorable_test(name, test));
            }
        }
    }
    trials
}

/// Runs the [`suite`] as a test program would be: with the arguments of the
/// command line, which are those of the standard test harness. For the `main`
/// of a test with `harness = false`.
#[must_use]
pub fn run(registry: &Registry, options: &SuiteOptions) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), suite(registry, options)).exit_code()
}

/// Runs everything, one check after the other, and reports what came of it.
/// `progress` is told each outcome as it comes: backend, model, behaviour.
#[must_use]
pub fn report(
    registry: &Registry,
    options: &SuiteOptions,
    mut progress: impl FnMut(&str, &str, &Behaviour, &Outcome),
) -> Report {
    let mut report = Report::default();
    for (name, backend) in options.backends(registry) {
        let backend = match backend {
            Ok(backend) => backend,
            Err(message) => {
                report.missing.push((name, message));
                continue;
            }
        };
        if let Availability::Unavailable { reason } = backend.availability() {
            report.unavailable.push((name, reason));
            continue;
        }
        for model in &options.models {
            let mut column = Column::new(&name, &model.name);
            for behaviour in behaviours().into_iter().filter(|b| options.wants(b)) {
                let outcome = run_within(&behaviour, Arc::clone(&backend), model, HANG_AFTER);
                progress(&name, &model.name, &behaviour, &outcome);
                column.outcomes.push((behaviour.id.to_owned(), outcome));
            }
            report.columns.push(column);
        }
    }
    report
}
