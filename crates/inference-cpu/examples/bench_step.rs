//! Compares the executor of steps with the operations it is made of, one after
//! the other, in one process: microseconds of the first step, least and median. With a
//! number of tokens only steps of so many at depth 0, by the executor alone:
//! what to sample.
//!
//! ```sh
//! cargo run --release -p inference-cpu --example bench_step -- FILE.gguf [THREADS [TOKENS]]
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use inference_candle::{BatchView, Decoder, DecoderConfig, GgufWeights, KvLayout, Ops, reference};
use inference_core::KvDtype;
use inference_cpu::{CpuOps, CpuOptions};
use inference_engine::StepSequence;
use inference_gguf::GgufFile;

/// Keys before the step.
const DEPTH: usize = 64;

const REPEATS: usize = 40;

/// Positions of a block of keys and values.
const BLOCK: usize = 32;

#[expect(clippy::print_stdout, reason = "the program's output")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file?")?;
    let file = GgufFile::open(Path::new(&path))?;
    let mut options = CpuOptions::new();
    options.threads.threads = args.next().map(|threads| threads.parse()).transpose()?;
    let tokens: Option<usize> = args.next().map(|tokens| tokens.parse()).transpose()?;
    let steps = match tokens {
        Some(tokens) => vec![(tokens, 0, REPEATS / 4)],
        None => vec![(1, DEPTH, REPEATS), (8, DEPTH, REPEATS), (256, 0, 4)],
    };
    let compare = tokens.is_none();
    let num_blocks = tokens.unwrap_or(0).div_ceil(BLOCK).max(20);
    let ops = Arc::new(CpuOps::new(&options)?);
    let config = DecoderConfig::from_gguf(&file)?;
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: BLOCK,
        num_blocks,
        dtype: KvDtype::F16,
    };
    let weights = GgufWeights::new(file, &config)?;
    let decoder = Decoder::new(config, &weights, Arc::clone(&ops) as Arc<dyn Ops>)?;
    let mut cache = decoder.ops().kv_cache(&layout)?;
    for (len, position, repeats) in steps {
        let tokens: Vec<u32> = (0..len as u32).map(|token| token * 7 % 100).collect();
        let positions: Vec<usize> = (position..position + len).collect();
        let block_table = (0..num_blocks as u32).collect();
        let prompt_len = position + len;
        let sequences =
            [StepSequence { start: 0, len, position, prompt_len, adapter: None, block_table }];
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..repeats {
            if compare {
                let start = Instant::now();
                reference::step(&*ops, &decoder, &tokens, &batch, Some(&mut *cache), &[len - 1])?;
                times[0].push(start.elapsed().as_micros());
            }
            let start = Instant::now();
            decoder.forward(&tokens, &batch, Some(&mut *cache), &[len - 1])?;
            times[1].push(start.elapsed().as_micros());
        }
        for (name, mut times) in ["one by one", "executor"].into_iter().zip(times) {
            let Some(first) = times.first().copied() else { continue };
            times.sort_unstable();
            let (least, median) = (times[0], times[times.len() / 2]);
            println!("{len} tokens, {name}: first {first}, least {least}, median {median} µs");
        }
    }
    Ok(())
}
