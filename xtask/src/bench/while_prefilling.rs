//! A short prompt while a long one is read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inference::probe::{Interest, ProbeBus, ProbeEvent, ProbeKind, ProbeRecord, ProbeSink};
use inference::{GenerateOptions, LoadOptions, TextModel};

use super::report::{Figure, Goal};
use super::{long_context, prompts};
use crate::Result;

const LONG: usize = 4_000;
const SHORT: usize = 8;
const CONTEXT: usize = 4_096;
/// A short prompt waits for the end of the step that runs, and shares the
/// next with a chunk.
const GOAL: Goal = Goal::AtMost(2.0);

/// Notes how long each step took, and how many tokens it had.
#[derive(Clone, Default)]
struct Steps(Arc<Mutex<Vec<(usize, Duration)>>>);

impl Steps {
    fn take(&self) -> Vec<(usize, Duration)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ProbeSink for Steps {
    fn name(&self) -> &str {
        "steps"
    }

    fn interest(&self) -> Interest {
        ProbeKind::Scheduler.into()
    }

    fn record(&mut self, record: &ProbeRecord) {
        if let ProbeEvent::Step { tokens, duration, .. } = record.event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((tokens, duration));
        }
    }
}

/// Times to first token in milliseconds, for two sizes of chunk.
pub(super) fn measure(rounds: u32, threads: Option<usize>) -> Result<Vec<Figure>> {
    let source = long_context::demo(CONTEXT)?;
    let mut figures = Vec::new();
    for budget in [512, 128] {
        let steps = Steps::default();
        let bus = ProbeBus::new(vec![Box::new(steps.clone())]);
        let mut options = LoadOptions::new()
            .with_backend("cpu")
            .with_parallel_slots(2)
            .with_prefix_cache(false)
            .with_step_token_budget(budget)
            .with_probe_bus(Arc::new(bus));
        options.threads = threads;
        let model = inference::load(source.clone(), &options)?;
        let mut samples = Samples::default();
        for round in 0..=rounds {
            samples.round(&*model, &steps, u64::from(round), budget)?;
        }
        figures.extend(samples.figures(budget));
    }
    Ok(figures)
}

#[derive(Default)]
struct Samples {
    /// Milliseconds to the short prompt's first token.
    alone: Vec<f64>,
    beside: Vec<f64>,
    /// Milliseconds of the longest step.
    chunk: Vec<f64>,
    ratio: Vec<f64>,
}

impl Samples {
    fn round(
        &mut self,
        model: &dyn TextModel,
        steps: &Steps,
        round: u64,
        budget: usize,
    ) -> Result<()> {
        let vocab = model.info().vocab_size;
        let one = GenerateOptions::new().with_max_tokens(1).with_temperature(0.0);
        let short = |seed: u64| -> Result<f64> {
            let prompt = prompts::prompt(seed, SHORT, vocab);
            let completion = model.generate(prompt, one.clone())?.finish()?;
            Ok(completion.metrics.ttft.ok_or("no first token")?.as_secs_f64() * 1e3)
        };
        let alone = short(round << 8)?;
        steps.take();
        let before = model.metrics().forward_count;
        let mut long = model.generate(prompts::prompt(round << 8 | 1, LONG, vocab), one.clone())?;
        long.start();
        // In the first half of the long prompt, wherever the step then is.
        while model.metrics().forward_count < before + 1 + round % 3 {
            std::thread::yield_now();
        }
        let beside = short(round << 8 | 2)?;
        long.finish()?;
        let chunks = steps.take().into_iter().filter(|(tokens, _)| *tokens >= budget);
        let longest = chunks.map(|(_, time)| time).max().ok_or("no step was a whole chunk")?;
        let chunk = longest.as_secs_f64() * 1e3;
        // The first round warms up.
        if round > 0 {
            self.alone.push(alone);
            self.beside.push(beside);
            self.chunk.push(chunk);
            self.ratio.push(beside / chunk);
        }
        Ok(())
    }

    fn figures(self, budget: usize) -> [Figure; 4] {
        let name = |what: &str| format!("{SHORT}-token prompt, chunks of {budget}, {what}");
        [
            Figure::new(name("first token alone"), "ms", self.alone),
            Figure::new(name("while 4,000 tokens are read"), "ms", self.beside),
            Figure::new(name("the longest chunk itself"), "ms", self.chunk),
            Figure::new(name("against the longest chunk"), "x", self.ratio).with_goal(GOAL),
        ]
    }
}
