//! Throughput of the embedded model, by the number of streams at once.

use std::time::Instant;

use inference::{BatchItem, GenerateOptions, LoadOptions, TextModel};

use super::prompts;
use super::report::{Figure, Goal};
use crate::Result;

const STREAMS: [usize; 4] = [1, 4, 16, 64];
const PROMPT: usize = 16;
const TOKENS: usize = 128;

/// Tokens per second from the first request to the last token, and what that
/// is against one stream's of the same round.
pub(super) fn measure(rounds: u32, threads: Option<usize>) -> Result<Vec<Figure>> {
    let most = STREAMS.iter().copied().max().unwrap_or(1);
    let mut options =
        LoadOptions::new().with_backend("cpu").with_parallel_slots(most).with_prefix_cache(false);
    options.threads = threads;
    let model = inference::load(inference::demo(), &options)?;
    let mut rates = STREAMS.map(|_| Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        for (streams, rates) in STREAMS.iter().zip(&mut rates) {
            let rate = throughput(&*model, *streams, u64::from(round))?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let mut figures = Vec::new();
    for (streams, rate) in STREAMS.iter().zip(&rates) {
        let name = format!("embedded model, {streams} streams");
        figures.push(Figure::new(&name, "tokens/s", rate.clone()));
        if *streams > 1 {
            let ratios = rate.iter().zip(&rates[0]).map(|(many, one)| many / one).collect();
            let figure = Figure::new(format!("{name}, against one"), "x", ratios);
            let goal = (*streams == 16).then_some(Goal::AtLeast(4.0));
            figures.push(match goal {
                Some(goal) => figure.with_goal(goal),
                None => figure,
            });
        }
    }
    Ok(figures)
}

fn throughput(model: &dyn TextModel, streams: usize, round: u64) -> Result<f64> {
    let vocab = model.info().vocab_size;
    let options = GenerateOptions::new()
        .with_max_tokens(TOKENS)
        .with_temperature(0.0)
        .with_repeat_penalty(1.0)
        .with_ignore_eos(true);
    let items = (0..streams as u64)
        .map(|stream| {
            let prompt = prompts::prompt(round << 32 | stream, PROMPT, vocab);
            BatchItem::new(prompt).with_options(options.clone())
        })
        .collect();
    let began = Instant::now();
    let mut tokens = 0;
    for output in model.batch_generate(items)?.collect_all() {
        tokens += output?.completion.metrics.generated_tokens;
    }
    Ok(tokens as f64 / began.elapsed().as_secs_f64())
}
