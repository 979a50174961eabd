//! What a step costs besides the runner.

use inference::{BatchItem, GenerateOptions, ModelInfo, Prompt, TextModel, TokenEvent};
use inference_engine::{EngineModel, EngineOptions, ModelParts};

use super::instant_runner::{InstantRunner, Pass, Passes};
use super::report::{Figure, Goal};
use crate::Result;

/// Sequences that run at once.
const SEQUENCES: usize = 256;
const PROMPT: usize = 16;
/// Tokens that each generates: the steps of a round.
const STEPS: usize = 400;
const BLOCK_SIZE: usize = 16;
/// Microseconds per step.
const GOAL: Goal = Goal::AtMost(50.0);

/// The time between one forward pass and the next, in microseconds: sampling,
/// delivery, scheduling and the next batch of all sequences.
pub(super) fn measure(rounds: u32) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, greedy, reader) in [
        ("scheduler, 256 sequences, greedy, unread", true, false),
        ("scheduler, 256 sequences, greedy, one reader of all", true, true),
        ("scheduler, 256 sequences, top-k and top-p, unread", false, false),
    ] {
        let mut gaps = Vec::new();
        let mut passes = Vec::new();
        for _ in 0..rounds {
            let round = run(greedy, reader)?;
            gaps.push(median(round.windows(2).map(gap)));
            passes.push(median(round.iter().map(|pass| micros(pass.began, pass.ended))));
        }
        figures.push(Figure::new(name, "µs/step", gaps).with_goal(GOAL));
        figures.push(Figure::new(format!("{name}: in the runner"), "µs/step", passes));
    }
    Ok(figures)
}

fn micros(from: std::time::Instant, to: std::time::Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}

fn gap(passes: &[Pass]) -> f64 {
    match passes {
        [first, second] => micros(first.ended, second.began),
        _ => f64::NAN,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Figure::new("", "", values.collect()).value()
}

/// The passes with all sequences in them.
fn run(greedy: bool, reader: bool) -> Result<Vec<Pass>> {
    let (model, passes) = start()?;
    let options = GenerateOptions::new().with_max_tokens(STEPS).with_seed(1);
    let options =
        if greedy { options } else { options.with_temperature(0.8).with_top_k(4).with_top_p(0.9) };
    let prompt = || Prompt::Tokens(vec![1; PROMPT]);
    if reader {
        passes.open();
        let item = || BatchItem::new(prompt()).with_options(options.clone());
        for (_, event) in model.batch_generate((0..SEQUENCES).map(|_| item()).collect())? {
            if let TokenEvent::Failed(error) = event {
                return Err(error.into());
            }
        }
    } else {
        let mut streams = Vec::new();
        for _ in 0..SEQUENCES {
            let mut stream = model.generate(prompt(), options.clone())?;
            stream.start();
            streams.push(stream);
        }
        passes.open();
        // The channels hold everything: nothing is read before the end.
        model.drain();
        for stream in streams {
            stream.finish()?;
        }
    }
    let full: Vec<Pass> =
        passes.take().into_iter().filter(|pass| pass.sequences == SEQUENCES).collect();
    if full.len() < STEPS / 2 {
        return Err(format!("{} of {STEPS} steps had all sequences", full.len()).into());
    }
    Ok(full)
}

fn start() -> Result<(std::sync::Arc<EngineModel>, Passes)> {
    let context = PROMPT + STEPS;
    let blocks = SEQUENCES * context.div_ceil(BLOCK_SIZE);
    let (runner, passes) = InstantRunner::new(context, BLOCK_SIZE, blocks);
    let options = EngineOptions::new()
        .with_max_batch(SEQUENCES)
        .with_step_token_budget(SEQUENCES * PROMPT)
        .with_channel_capacity(STEPS);
    let mut info = ModelInfo::default();
    "simulated".clone_into(&mut info.architecture);
    let model = EngineModel::start(Box::new(runner), ModelParts::new(info), options)?;
    Ok((model, passes))
}
