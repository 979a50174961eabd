//! `inference bench`: how fast a model runs on this machine.

mod measure;
mod report;

use std::time::Instant;

use inference::{Availability, DeviceInfo, Registry};

use crate::args::LoadArgs;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::load;
use crate::output::Output;
use measure::{Plan, Spread};
use report::Report;

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference bench --model ./my-model
  inference bench --model model.gguf --prompt-tokens 512 --gen-tokens 128 --batch 1,8
  inference bench --model model.gguf --depth 4096 --repeat 3 --json";

/// Measure how fast a model runs
///
/// Prefill: sequences of DEPTH + PROMPT tokens are read up to their first generated token; where
/// the depth is not 0, the time of reading DEPTH tokens alone is measured too and taken off.
/// Decode: sequences of DEPTH tokens (at least one) generate GEN tokens, counted from the moment
/// at which all sequences of the batch decode until the first of them ends. Rates are those of the
/// whole batch. Token ids are random, so a model needs no tokenizer. One round warms up.
///
/// With --json: an object per batch size, a line each, with prefill_tokens_per_sec and
/// decode_tokens_per_sec (median, min, max), load_ms, first_token_ms (of the first request after
/// the load), peak_rss_bytes (null where the system does not tell) and machine.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Prompt tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive())]
    prompt_tokens: usize,

    /// Generated tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive())]
    gen_tokens: usize,

    /// Tokens that every sequence holds before what is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,

    /// Sequences at once; several numbers are measured one after the other
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',', value_parser = positive())]
    batch: Vec<usize>,

    /// Measured rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    repeat: usize,

    /// Seed of the token ids
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    load: LoadArgs,
}

fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::builder::RangedU64ValueParser::<u64>::new()
        .range(1..=1 << 24)
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let slots = args.batch.iter().copied().max().unwrap_or(1);
    let longest = args.prompt_tokens.max(args.gen_tokens + 1);
    let begin = Instant::now();
    let model = load::load_with(&args.load, context, |options| {
        options.parallel_slots = options.parallel_slots.or(Some(slots));
        // What was computed before must cost what it does the first time.
        options.prefix_cache = Some(false);
        options.context_len = options.context_len.or(Some(args.depth.saturating_add(longest + 1)));
    })?;
    let load_ms = begin.elapsed().as_secs_f64() * 1e3;
    let info = model.info().clone();

    let mut output = Output::new();
    let mut reports = Vec::new();
    let mut first_token_ms = None;
    for batch in &args.batch {
        let plan = Plan {
            batch: *batch,
            prompt_tokens: args.prompt_tokens,
            gen_tokens: args.gen_tokens,
            depth: args.depth,
            vocab_size: info.vocab_size,
            seed: args.seed,
        };
        // The first of all requests is the user's first: nothing is warm yet.
        let warm = measure::prefill(&*model, &plan, 0)?;
        let first_token_ms = *first_token_ms.get_or_insert(warm.first_token_ms);
        measure::decode(&*model, &plan, 0)?;
        let rounds = 1..=args.repeat as u64;
        let prefill: Vec<f64> = rounds
            .clone()
            .map(|round| Ok(measure::prefill(&*model, &plan, round)?.tokens_per_sec))
            .collect::<Result<_>>()?;
        let decode: Vec<f64> =
            rounds.map(|round| measure::decode(&*model, &plan, round)).collect::<Result<_>>()?;
        let report = Report {
            model: args.load.source.label(),
            architecture: &info.architecture,
            backend: &info.backend,
            weight_dtype: &info.weight_dtype,
            parameters: info.parameters,
            threads: args.load.threads(),
            batch: *batch,
            prompt_tokens: args.prompt_tokens,
            gen_tokens: args.gen_tokens,
            depth: args.depth,
            repeat: args.repeat,
            prefill_tokens_per_sec: Spread::of(prefill),
            decode_tokens_per_sec: Spread::of(decode),
            load_ms,
            first_token_ms,
            peak_rss_bytes: peak_rss_bytes(),
            machine: machine(&info.backend)?,
        };
        if context.json {
            output.json(&report)?;
        } else {
            reports.push(report);
        }
    }
    if context.json { Ok(()) } else { output.text(&report::table(&reports)) }
}

/// The device that the backend runs on.
fn machine(backend: &str) -> Result<Option<DeviceInfo>> {
    match Registry::global().get(backend).map_err(Failure::Load)?.availability() {
        Availability::Ready { devices } => Ok(devices.into_iter().next()),
        _ => Ok(None),
    }
}

/// The largest resident size of this process so far (Linux).
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
