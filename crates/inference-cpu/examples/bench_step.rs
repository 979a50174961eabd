//! Compares the executor of steps with the operations it is made of, one after
//! the other, in one process: microseconds per step, least and median.
//!
//! ```sh
//! cargo run --release -p inference-cpu --example bench_step -- FILE.gguf [THREADS]
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

#[expect(clippy::print_stdout, reason = "the program's output")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file?")?;
    let file = GgufFile::open(Path::new(&path))?;
    let mut options = CpuOptions::new();
    options.threads.threads = args.next().map(|threads| threads.parse()).transpose()?;
    let ops = Arc::new(CpuOps::new(&options)?);
    let config = DecoderConfig::from_gguf(&file)?;
    let layout = KvLayout {
        num_layers: config.num_layers(),
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        block_size: 32,
        num_blocks: 20,
        dtype: KvDtype::F16,
    };
    let weights = GgufWeights::new(file, &config)?;
    let decoder = Decoder::new(config, &weights, Arc::clone(&ops) as Arc<dyn Ops>)?;
    let mut cache = decoder.ops().kv_cache(&layout)?;
    for (len, position, repeats) in [(1, DEPTH, REPEATS), (8, DEPTH, REPEATS), (256, 0, 4)] {
        let tokens: Vec<u32> = (0..len as u32).map(|token| token * 7 % 100).collect();
        let positions: Vec<usize> = (position..position + len).collect();
        let block_table = (0..20).collect();
        let prompt_len = position + len;
        let sequences =
            [StepSequence { start: 0, len, position, prompt_len, adapter: None, block_table }];
        let batch = BatchView { sequences: &sequences, positions: &positions, adapters: &[] };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..repeats {
            let start = Instant::now();
            reference::step(&*ops, &decoder, &tokens, &batch, Some(&mut *cache), &[len - 1])?;
            times[0].push(start.elapsed().as_micros());
            let start = Instant::now();
            decoder.forward(&tokens, &batch, Some(&mut *cache), &[len - 1])?;
            times[1].push(start.elapsed().as_micros());
        }
        for (name, mut times) in ["one by one", "executor"].into_iter().zip(times) {
            times.sort_unstable();
            let median = times[times.len() / 2];
            println!("{len} tokens, {name}: least {} µs, median {median} µs", times[0]);
        }
    }
    Ok(())
}
