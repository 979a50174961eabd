//! Decoding with adapters, and exchanging them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use inference::{Adapters as _, KvDtype, LoraConfig};
use inference_candle::{CandleRunner, Decoder, DecoderConfig, GgufWeights, KvLayout, Ops};
use inference_cpu::{CpuOps, CpuOptions};
use inference_engine::{AdapterLease, AdapterSource as _, ModelRunner, StepBatch, StepSequence};
use inference_gguf::GgufFile;
use inference_lora::{AdapterWeights, ModuleDelta, PeftConfig, save_peft};

use super::super::report::{Figure, Goal};
use super::LoraBench;
use crate::Result;

/// Tokens of a KV block, and keys before the measured step.
const BLOCK: usize = 32;
const DEPTH: usize = 48;

/// Adapters in one step.
const MIXES: [usize; 3] = [1, 8, 64];

/// Steps with adapters against steps without, and the time to load an adapter
/// in the place of another.
pub(super) fn measure(bench: &LoraBench) -> Result<Vec<Figure>> {
    let mut runner = runner(bench)?;
    let pool = runner.adapters();
    let sequences = bench.sequences as usize;
    let most = MIXES.iter().copied().max().unwrap_or(1).min(sequences);
    let mut leases: Vec<AdapterLease> = Vec::new();
    for index in 0..most {
        let name = format!("{index}");
        pool.insert(&name, &random(bench, &runner)?, 1.0)?;
        leases.extend(pool.acquire(Some(&name))?);
    }
    let mixes: Vec<usize> = MIXES.into_iter().filter(|count| *count <= sequences).collect();
    let plain = batch(sequences, &[]);
    let mixed: Vec<StepBatch> =
        mixes.iter().map(|count| batch(sequences, leases.get(..*count).unwrap_or(&[]))).collect();
    let mut base = Vec::new();
    let mut shares = vec![Vec::new(); mixes.len()];
    for round in 0..=bench.rounds {
        let alone = seconds(&mut runner, &plain)?;
        let times = mixed.iter().map(|batch| seconds(&mut runner, batch));
        let times = times.collect::<Result<Vec<f64>>>()?;
        // The first finds nothing in caches.
        if round > 0 {
            base.push(sequences as f64 / alone);
            shares.iter_mut().zip(times).for_each(|(shares, time)| shares.push(alone / time));
        }
    }
    let mut figures = vec![Figure::new(
        format!("decoding {sequences} sequences without adapters"),
        "tokens/s",
        base,
    )];
    for (count, shares) in mixes.iter().zip(shares) {
        let name = format!("throughput with {count} adapters of rank {}, of that", bench.rank);
        figures.push(Figure::new(name, "", shares).with_goal(Goal::AtLeast(0.85)));
    }
    drop(leases);
    figures.push(swaps(bench, &runner)?);
    Ok(figures)
}

/// Milliseconds of loading one adapter in the place of another of its name.
fn swaps(bench: &LoraBench, runner: &CandleRunner) -> Result<Figure> {
    let folder = std::env::temp_dir().join(format!("bench-lora-{}", std::process::id()));
    let table = runner.decoder().config().modules();
    let config = LoraConfig::new()
        .with_rank(bench.rank as usize)
        .with_alpha(bench.rank as f32)
        .with_target_modules(bench.targets.iter().cloned());
    let config = PeftConfig::new(&config)?;
    let paths = ["one", "two"].map(|name| folder.join(name));
    let mut times = Vec::new();
    let measured = (|| -> Result<()> {
        for path in &paths {
            std::fs::create_dir_all(path)?;
            save_peft(path, &config, &random(bench, runner)?, &table)?;
        }
        let pool = runner.adapters();
        for round in 0..=bench.rounds {
            for path in &paths {
                let start = Instant::now();
                pool.load("swapped", path, 1.0)?;
                // The first maps the kernels' code.
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        Ok(())
    })();
    std::fs::remove_dir_all(&folder)?;
    measured?;
    let name = format!("loading an adapter of rank {} in the place of another", bench.rank);
    Ok(Figure::new(name, "ms", times).with_goal(Goal::AtMost(10.0)))
}

fn runner(bench: &LoraBench) -> Result<CandleRunner> {
    let file = GgufFile::open(&bench.model)?;
    let mut options = CpuOptions::new();
    options.threads.threads = bench.threads;
    let ops: Arc<dyn Ops> = Arc::new(CpuOps::new(&options)?);
    let config = DecoderConfig::from_gguf(&file)?;
    let blocks = (DEPTH + 1).div_ceil(BLOCK);
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: BLOCK,
        num_blocks: blocks * bench.sequences as usize,
        dtype: KvDtype::F16,
    };
    let weights = GgufWeights::new(file, &config)?;
    let cache = ops.kv_cache(&layout)?;
    let decoder = Decoder::new(config, &weights, ops)?;
    Ok(CandleRunner::new(decoder, cache, blocks * BLOCK).with_adapter_budget(1 << 34))
}

/// An adapter of random values.
fn random(bench: &LoraBench, runner: &CandleRunner) -> Result<AdapterWeights> {
    let rank = bench.rank as usize;
    let table = runner.decoder().config().modules();
    let mut modules = BTreeMap::new();
    for (name, module) in &table.modules {
        let targeted = |target: &String| name.rsplit('.').next() == Some(target);
        if bench.targets.iter().any(targeted) {
            let a = Tensor::randn(0_f32, 0.02, (rank, module.input), &Device::Cpu)?;
            let b = Tensor::randn(0_f32, 0.02, (module.out, rank), &Device::Cpu)?;
            modules.insert(name.clone(), ModuleDelta::new(a, b, 1.0));
        }
    }
    if modules.is_empty() {
        let targets = bench.targets.join(", ");
        return Err(format!("no map of the model ends in one of {targets}").into());
    }
    Ok(AdapterWeights::new(modules))
}

/// A step of one token per sequence; the adapters take turns.
fn batch(sequences: usize, leases: &[AdapterLease]) -> StepBatch {
    let blocks = (DEPTH + 1).div_ceil(BLOCK);
    let mut batch = StepBatch::default();
    for index in 0..sequences {
        // Sequences of one adapter do not lie together.
        let adapter = leases.get(index % leases.len().max(1)).map(AdapterLease::id);
        let first = (index * blocks) as u32;
        batch.sequences.push(StepSequence {
            start: index,
            len: 1,
            position: DEPTH,
            prompt_len: DEPTH,
            adapter,
            block_table: (first..first + blocks as u32).collect(),
        });
        batch.tokens.push(index as u32 * 7 % 100);
        batch.logit_rows.push(index);
    }
    batch
}

fn seconds(runner: &mut CandleRunner, batch: &StepBatch) -> Result<f64> {
    let start = Instant::now();
    runner.forward(batch)?;
    Ok(start.elapsed().as_secs_f64())
}
