//! `cargo xtask conformance`: every linked backend held to the conformance
//! suite.

mod models;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use inference::Registry;
use inference_conformance::{Report, SuiteOptions, report};

use crate::Result;

/// Runs the conformance suite over the embedded model and the fixtures.
///
/// Prints a table per model, backends as columns and behaviours as rows, with
/// the worst difference of logits from the reference operations in f32. Fails
/// where a backend misbehaves. Backends that cannot run here are named with
/// their reason; build with `--features cuda`, `metal` or `llama-cpp` to link
/// those.
#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// Run this backend only; may be repeated. Default: every linked one.
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<String>,
    /// Run this model (a folder or GGUF file) only; may be repeated. Default:
    /// the embedded model and every fixture.
    #[arg(long = "model", value_name = "DIR")]
    models: Vec<PathBuf>,
    /// Run only behaviours whose id contains this; may be repeated.
    #[arg(long = "behaviour", value_name = "PART")]
    behaviours: Vec<String>,
    /// Print the report as JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Print one line for each outcome that is not a pass, with its reason.
    #[arg(long)]
    reasons: bool,
}

impl Conformance {
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]
    pub(crate) fn run(self) -> Result<()> {
        let registry = Registry::new();
        inference_cpu::register(&registry);
        inference_cuda::register(&registry);
        inference_metal::register(&registry);
        inference_llamacpp::register(&registry);
        let backends = if self.backends.is_empty() { registry.list() } else { self.backends };
        let models =
            if self.models.is_empty() { models::usual()? } else { models::given(&self.models)? };

        let mut all = Report::default();
        for model in models {
            let started = Instant::now();
            for backend in &backends {
                // Only the CPU's kernels promise equal bits in any company.
                let tolerance = if backend == "cpu" { 0.0 } else { model.tolerance };
                let model = model.clone().with_company_tolerance(tolerance);
                let mut options = SuiteOptions::new().with_backend(backend).with_model(model);
                options.filters.clone_from(&self.behaviours);
                let found = report(&registry, &options, |backend, model, behaviour, outcome| {
                    if outcome.is_failure() || (self.reasons && !outcome.message().is_empty()) {
                        eprintln!("{backend} {model} {}: {outcome}", behaviour.id);
                    }
                });
                all.merge(found);
            }
            eprintln!("{}: {:.1} s", model.name, started.elapsed().as_secs_f64());
        }
        if self.json {
            println!("{}", all.to_json());
        } else {
            print!("{all}");
        }
        if all.failed() {
            let failures = all.failures().count() + all.missing.len();
            return Err(format!("{failures} failures").into());
        }
        Ok(())
    }
}
