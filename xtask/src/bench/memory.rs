//! Whether memory grows with the number of requests.

use inference::{BatchItem, GenerateOptions, LoadOptions, ModelMetrics, TextModel, TokenEvent};

use super::prompts;
use super::report::{Figure, Goal};
use crate::Result;

const FIRST: u32 = 1_000;
/// Requests that are handed over together.
const WAVE: u32 = 250;
const SLOTS: usize = 16;
const PROMPT: usize = 4;
const TOKENS: usize = 3;

/// Resident set and the model's own account, after 1,000 requests and after
/// `requests`. The KV pool is small enough that the first have touched all of
/// it. Of every ten requests one is dropped before its end.
pub(super) fn measure(requests: u32, threads: Option<usize>) -> Result<Vec<Figure>> {
    let mut options =
        LoadOptions::new().with_backend("cpu").with_parallel_slots(SLOTS).with_context_len(32);
    options.threads = threads;
    let model = inference::load(inference::demo(), &options)?;
    let mut done = 0;
    run(&*model, &mut done, FIRST)?;
    let (early, early_metrics) = (resident_bytes()?, settled(&*model));
    run(&*model, &mut done, requests)?;
    let (late, late_metrics) = (resident_bytes()?, settled(&*model));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let held = |metrics: &ModelMetrics| metrics.active_bytes as f64;
    let ratio = late as f64 / early as f64;
    let left = late_metrics.running + late_metrics.queued + late_metrics.kv_blocks_used;
    Ok(vec![
        Figure::single(format!("resident after {FIRST} requests"), "MiB", mib(early)),
        Figure::single(format!("resident after {done} requests"), "MiB", mib(late)),
        Figure::single("resident, the last against the first", "x", ratio)
            .with_goal(Goal::AtMost(1.01)),
        Figure::single(
            "bytes by the model's account, the last against the first",
            "x",
            held(&late_metrics) / held(&early_metrics),
        )
        .with_goal(Goal::AtMost(1.0)),
        Figure::single("sequences and KV blocks left in use", "left", left as f64)
            .with_goal(Goal::AtMost(0.0)),
    ])
}

fn run(model: &dyn TextModel, done: &mut u32, until: u32) -> Result<()> {
    let vocab = model.info().vocab_size;
    let options =
        GenerateOptions::new().with_max_tokens(TOKENS).with_temperature(0.0).with_ignore_eos(true);
    while *done < until {
        let wave = WAVE.min(until - *done);
        let item = |seed: u32| {
            let prompt = prompts::prompt(u64::from(seed), PROMPT, vocab);
            BatchItem::new(prompt).with_options(options.clone())
        };
        let items: Vec<_> = (*done..*done + wave).map(item).collect();
        let (mut read, kept) = (0, wave - wave / 10);
        for (_, event) in model.batch_generate(items)? {
            match event {
                TokenEvent::Failed(error) => return Err(error.into()),
                TokenEvent::Finished(_) => read += 1,
                _ => {}
            }
            if read >= kept {
                break;
            }
        }
        *done += wave;
    }
    Ok(())
}

/// The metrics once the engine has seen that readers went away.
fn settled(model: &dyn TextModel) -> ModelMetrics {
    loop {
        let metrics = model.metrics();
        if metrics.running == 0 && metrics.queued == 0 {
            return metrics;
        }
        std::thread::yield_now();
    }
}

/// The process's resident set (Linux).
fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("the resident set is read from Linux's /proc: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    let kibibytes: u64 = kibibytes.ok_or("/proc/self/status has no VmRSS in kB")?;
    Ok(kibibytes * 1024)
}
