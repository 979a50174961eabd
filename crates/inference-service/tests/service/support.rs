//! Backends that a test steers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use inference_core::doc::EchoBackend;
use inference_core::{
    Availability, Backend, BatchItem, BatchStream, Capabilities, Classification, ClassifyOptions,
    DeviceInfo, Error, GenerateOptions, LoadOptions, ModelInfo, ModelMetrics, ModelSource,
    ProgressEvent, Prompt, Registry, Result, TextModel, TokenId, TokenStream, doc,
};
use inference_engine::sim_runner::{SimControl, SimRunner, SimSpec};
use inference_engine::{EngineModel, EngineOptions, ModelParts};
use inference_service::{InferenceService, ServiceOptions};

/// What the test backends have done, and what they are to do.
#[derive(Default)]
pub(crate) struct Stage {
    /// Loads that were begun, by source.
    loads: Mutex<Vec<String>>,
    /// Loads of the source `gated` wait until it is open.
    gate: (Mutex<bool>, Condvar),
    /// Echo models that are neither closed nor dropped.
    alive: AtomicUsize,
    sims: Mutex<HashMap<String, SimControl>>,
}

impl Stage {
    pub(crate) fn loads(&self) -> Vec<String> {
        self.loads.lock().unwrap().clone()
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    /// Waits until so many loads were begun.
    pub(crate) fn await_loads(&self, loads: usize) {
        wait_until(|| self.loads().len() >= loads);
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// The control of the simulated model that was loaded last from `source`.
    pub(crate) fn sim(&self, source: &str) -> SimControl {
        self.sims.lock().unwrap()[source].clone()
    }
}

/// Waits for what certainly comes, or fails after half a minute.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("waited in vain");
}

/// A service over the backends `stage` (automatic choice), `echo`, and
/// `absent`, which cannot run.
pub(crate) fn service(options: ServiceOptions) -> (InferenceService, Arc<Stage>) {
    let stage = Arc::new(Stage::default());
    let registry = Registry::new();
    doc::register(&registry);
    registry.register(Arc::new(StageBackend(Arc::clone(&stage))));
    registry.register(Arc::new(Absent));
    let mut load = options.load_options.clone();
    if load.backend.is_none() {
        load = load.with_backend("stage");
    }
    let options = options.with_load_options(load);
    (InferenceService::with_registry(options, Arc::new(registry)).unwrap(), stage)
}

struct Absent;

impl Backend for Absent {
    fn name(&self) -> &str {
        "absent"
    }

    fn availability(&self) -> Availability {
        Availability::unavailable("no such device")
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    fn load_model(&self, _: &ModelSource, _: &LoadOptions) -> Result<Arc<dyn TextModel>> {
        Err(Error::engine_message("nobody may call this"))
    }
}

/// Sources: `<n> bytes` is an echo model that says it holds so many, `gated` one
/// that waits for the gate, `sim…` a simulated one on an engine; `fail`,
/// `panic`.
struct StageBackend(Arc<Stage>);

impl Backend for StageBackend {
    fn name(&self) -> &str {
        "stage"
    }

    fn availability(&self) -> Availability {
        Availability::ready(vec![DeviceInfo::new("a stage")])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn TextModel>> {
        let stage = &self.0;
        let text = source.to_string();
        stage.loads.lock().unwrap().push(text.clone());
        if let Some(progress) = &options.progress {
            progress.report(&ProgressEvent::Note { message: text.clone() });
        }
        if text.starts_with("gated") {
            let open = stage.gate.0.lock().unwrap();
            drop(stage.gate.1.wait_while(open, |open| !*open).unwrap());
        }
        match text.as_str() {
            "fail" | "gated fail" => return Err(Error::invalid_model("m", "x", "y", "z")),
            "panic" | "gated panic" => panic!("the backend is broken"),
            _ => {}
        }
        if text.starts_with("sim") {
            let (runner, control) = SimRunner::new(SimSpec::default());
            stage.sims.lock().unwrap().insert(text, control);
            let parts = ModelParts::new(ModelInfo::default());
            let model = EngineModel::start(
                Box::new(runner),
                parts,
                EngineOptions::default().with_channel_capacity(4),
            )?;
            return Ok(model);
        }
        let bytes = text.split(' ').next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let echo = EchoBackend.load_model(&"echo".into(), &LoadOptions::new())?;
        stage.alive.fetch_add(1, Ordering::SeqCst);
        let stage = Arc::clone(stage);
        Ok(Arc::new(Weighed { echo, bytes, stage, closed: AtomicBool::new(false) }))
    }
}

/// An echo model that says how many bytes it holds.
struct Weighed {
    echo: Arc<dyn TextModel>,
    bytes: u64,
    stage: Arc<Stage>,
    closed: AtomicBool,
}

impl Weighed {
    fn depart(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.stage.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.depart();
    }
}

impl TextModel for Weighed {
    fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<TokenStream> {
        self.echo.generate(prompt, options)
    }

    fn classify(
        &self,
        prompts: Vec<Prompt>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Result<Classification>>> {
        self.echo.classify(prompts, options)
    }

    fn batch_generate(&self, items: Vec<BatchItem>) -> Result<BatchStream> {
        self.echo.batch_generate(items)
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        self.echo.encode(text, add_special)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        self.echo.decode(ids, skip_special)
    }

    fn model_type(&self) -> &str {
        self.echo.model_type()
    }

    fn info(&self) -> &ModelInfo {
        self.echo.info()
    }

    fn metrics(&self) -> ModelMetrics {
        let mut metrics = self.echo.metrics();
        metrics.active_bytes = self.bytes;
        metrics.peak_bytes = self.bytes;
        metrics
    }

    fn drain(&self) {
        self.echo.drain();
        self.depart();
    }

    fn close(&self) {
        self.echo.close();
        self.depart();
        assert!(self.bytes != 666, "this one cannot be closed");
    }
}
