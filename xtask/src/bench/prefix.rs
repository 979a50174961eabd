//! What the prefix cache gains.

use inference::{GenerateOptions, LoadOptions, Prompt, TextModel};

use super::report::{Figure, Goal};
use super::{long_context, prompts};
use crate::Result;

const PREFIX: usize = 1_000;
const QUESTION: usize = 8;
const CONTEXT: usize = 2_048;

/// Times to first token of prompts that begin with the same tokens: of the
/// first, which computes them, and of the next.
pub(super) fn measure(rounds: u32, threads: Option<usize>) -> Result<Vec<Figure>> {
    let mut options = LoadOptions::new().with_backend("cpu").with_parallel_slots(4);
    options.threads = threads;
    let model = inference::load(long_context::demo(CONTEXT)?, &options)?;
    let (mut without, mut with, mut ratio, mut cached) = (vec![], vec![], vec![], vec![]);
    for round in 0..=u64::from(rounds) {
        let (cold, _) = ask(&*model, round, 1)?;
        let (warm, hit) = ask(&*model, round, 2)?;
        // The first round warms up.
        if round > 0 {
            without.push(cold);
            with.push(warm);
            ratio.push(cold / warm);
            cached.push(hit as f64);
        }
    }
    let name = |what: &str| format!("shared prefix of 1,000 tokens, {what}");
    Ok(vec![
        Figure::new(name("first token without cache"), "ms", without),
        Figure::new(name("first token with cache"), "ms", with),
        Figure::new(name("tokens from the cache"), "tokens", cached),
        Figure::new(name("gain"), "x", ratio).with_goal(Goal::AtLeast(10.0)),
    ])
}

/// Milliseconds to the first token, and how many tokens were cached.
fn ask(model: &dyn TextModel, prefix: u64, question: u64) -> Result<(f64, usize)> {
    let vocab = model.info().vocab_size;
    let mut ids = prompts::ids(prefix << 8, PREFIX, vocab);
    ids.extend(prompts::ids(prefix << 8 | question, QUESTION, vocab));
    let options = GenerateOptions::new().with_max_tokens(1).with_temperature(0.0);
    let metrics = model.generate(Prompt::Tokens(ids), options)?.finish()?.metrics;
    let ttft = metrics.ttft.ok_or("no first token")?;
    Ok((ttft.as_secs_f64() * 1e3, metrics.cached_prompt_tokens))
}
