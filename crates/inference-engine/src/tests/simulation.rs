//! Random workloads through the real engine thread, compared with a naive
//! loop per request.
//!
//! A failing property prints the smallest workload that it found; a failing
//! seed is run again by `SIM_SEED=… cargo test -p inference-engine
//! simulation`. What a seed does not fix is the order in which threads run.

mod client;
mod twin;
mod workload;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};

use proptest::prelude::*;

use super::*;
use crate::sim_runner::{InjectedFault, SimClock, SimFault, StepCosts};
use client::{Ends, World};
use workload::{End, Knobs, Workload};

/// No simulation takes that long: a request hangs.
const HANGS: Duration = Duration::from_secs(60);

fn start_model(workload: &Workload) -> (Arc<EngineModel>, SimControl) {
    let Workload { model: sizes, knobs, faults, .. } = workload;
    let Knobs { max_batch, spare_budget, capacity, max_queue, prefix_cache, .. } = *knobs;
    let step = Duration::from_micros(knobs.step_micros);
    let costs = StepCosts::new(step, Duration::ZERO, Duration::ZERO);
    let spec = SimSpec::default()
        .with_vocab_size(sizes.vocab_size())
        .with_context_len(sizes.context_len)
        .with_blocks(sizes.block_size, sizes.num_blocks)
        .with_shared_blocks(sizes.shares_blocks)
        .with_long_prompt(sizes.long_prompt.unwrap_or(usize::MAX))
        .with_costs(costs, SimClock::Real);
    let options = EngineOptions::new()
        .with_max_batch(max_batch)
        .with_step_token_budget(max_batch + spare_budget)
        .with_channel_capacity(capacity)
        .with_max_queue(max_queue)
        .with_prefix_cache(prefix_cache)
        .with_lag_timeout(Duration::from_millis(knobs.lag_millis))
        .with_aging(Duration::from_micros(knobs.aging_micros))
        .with_max_wait(Duration::from_micros(knobs.max_wait_micros));
    let mut parts = ModelParts::new(info());
    if sizes.text {
        parts = parts.with_tokenizer(byte_tokenizer());
    }
    let (model, control) = start(spec, parts, options);
    if sizes.repeats {
        control.set_script(twin::repetition);
    }
    control.fail_randomly(faults.seed, faults.rates);
    (model, control)
}

/// Runs a workload and checks everything that must hold of it.
fn run(workload: &Workload) -> Ends {
    let (model, control) = start_model(workload);
    let world = World { workload, model: &model, ends: Ends::default(), done: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let (done, over) = channel::<()>();
        let (model, control) = (&model, &control);
        scope.spawn(move || {
            if over.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
                let (metrics, faults) = (model.metrics(), control.injected());
                let text = format!("a request hangs: {workload:?}\n{metrics:?}\n{faults:?}\n");
                // Not into what the test harness captures, and loses here.
                let _ = std::io::stderr().write_all(text.as_bytes());
                std::process::abort();
            }
        });
        std::thread::scope(|scope| {
            let world = &world;
            for client in &workload.clients {
                scope.spawn(move || world.serve(client));
            }
            for calls in &workload.callers {
                scope.spawn(move || world.call(calls));
            }
            match workload.end {
                End::CloseEarly(steps) => {
                    reach(control, world, steps);
                    model.close();
                }
                End::DrainEarly(steps) => {
                    reach(control, world, steps);
                    model.drain();
                }
                End::Close | End::Drain => {}
            }
        });
        check_after(workload, model, control);
        drop(done);
    });
    world.ends
}

/// Waits for so many steps, or until there is nothing left to do.
fn reach(control: &SimControl, world: &World<'_>, steps: usize) {
    let threads = world.workload.clients.len() + world.workload.callers.len();
    while control.steps() < steps && world.done.load(Ordering::Relaxed) < threads {
        std::thread::yield_now();
    }
}

/// What must hold when every client is done.
fn check_after(workload: &Workload, model: &EngineModel, control: &SimControl) {
    assert_idle(model);
    let sizes = &workload.model;
    let alive = model.generate(vec![1].into(), greedy(1));
    let faults = control.injected();
    let fatal = faults.iter().any(|fault| match fault.fault {
        SimFault::Error { survives } => !survives,
        SimFault::NanSequence(_) => false,
        SimFault::Short => fault.victims > 0,
        _ => true,
    });
    let metrics = model.metrics();
    assert_eq!(metrics.requests, metrics.finished, "{metrics:?}");
    assert!(metrics.accepted_draft_tokens <= metrics.draft_tokens, "{metrics:?}");
    assert_eq!(metrics.forward_count as usize, control.steps());
    if workload.knobs.prefix_cache && sizes.shares_blocks {
        // Whatever is cached does not keep others out; see below.
    } else {
        assert_eq!(metrics.cached_prompt_tokens, 0, "{metrics:?}");
    }
    match (fatal, workload.end) {
        (_, End::CloseEarly(_) | End::DrainEarly(_)) => {
            assert_eq!(alive.unwrap_err().kind(), inference_core::ErrorKind::Closed);
        }
        (true, _) => {
            let error = alive.unwrap_err();
            assert_eq!(error.kind(), inference_core::ErrorKind::Engine, "{error}");
        }
        (false, _) => {
            let certain = |fault: &&InjectedFault| !matches!(fault.fault, SimFault::NanSequence(_));
            let all: usize = faults.iter().map(|fault| fault.victims).sum();
            let least: usize = faults.iter().filter(certain).map(|fault| fault.victims).sum();
            // NaN is the answer to a classification, not the end of it.
            let failed = metrics.failed as usize;
            assert!((least..=all).contains(&failed), "{failed} failed: {faults:?}");
            // No block is lost: a sequence still gets all of them.
            control.fail_randomly(0, crate::sim_runner::FaultRates::default());
            let prompt: Vec<TokenId> = (0..sizes.longest() - 1).map(|i| i as u32 % 60).collect();
            let mut logits = twin::logits(sizes, prompt.len(), &prompt).into_iter().zip(0..);
            let first = logits.next().unwrap();
            let best = logits.fold(first, |best, next| if next.0 > best.0 { next } else { best });
            assert_eq!(generate(model, &prompt, greedy(1)), [best.1]);
            assert_idle(model);
        }
    }
    match workload.end {
        End::Drain => model.drain(),
        _ => model.close(),
    }
    assert!(control.is_dropped());
    let metrics = model.metrics();
    assert_eq!((metrics.kv_blocks_used, metrics.active_bytes, metrics.queued), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default()
    })]

    #[test]
    fn every_request_ends_once_with_the_right_tokens_and_nothing_is_left(
        workload in workload::workload(),
    ) {
        run(&workload);
    }
}

/// Workloads by seed, of so many requests together.
fn run_seeds(first: u64, requests: usize) -> (usize, Vec<(&'static str, usize)>) {
    let mut total = 0;
    let mut ends = std::collections::BTreeMap::<_, usize>::new();
    for seed in first.. {
        let workload = Workload::of(seed);
        let outcome = std::panic::catch_unwind(|| run(&workload));
        let Ok(counted) = outcome else { panic!("SIM_SEED={seed}: {workload:?}") };
        total += workload.len();
        for (name, count) in counted.all() {
            *ends.entry(name).or_default() += count.load(Ordering::Relaxed);
        }
        if total >= requests {
            break;
        }
    }
    (total, ends.into_iter().collect())
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn thousands_of_requests_by_seed() {
    if let Some(seed) = from_environment("SIM_SEED") {
        run(&Workload::of(seed));
        return;
    }
    let (_, ends) = run_seeds(0, 5000);
    // The workloads are what they are meant to be.
    assert!(ends.iter().all(|(_, count)| *count > 10), "{ends:?}");
}

/// `SIM_REQUESTS` and `SIM_FIRST_SEED` say how many, and from where.
#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_requests_by_seed() {
    let requests = from_environment("SIM_REQUESTS").unwrap_or(100_000);
    let first = from_environment("SIM_FIRST_SEED").unwrap_or(1_000_000);
    let (total, ends) = run_seeds(first, requests as usize);
    eprintln!("{total} requests: {ends:?}");
}
