//! How fast blocks are unpacked and decoded, per type, on one core:
//! `cargo run --release -p inference-gguf --example bench_blocks`.
//!
//! Build with `RUSTFLAGS="-C target-cpu=native"` to see what kernels that are
//! compiled for a set of vector instructions get.

#![expect(clippy::print_stdout, reason = "a program that prints its result")]

use std::hint::black_box;
use std::time::Instant;

use inference_gguf::BlockType;
use inference_gguf::blocks::{UNPACKED_VALUES, Unpacked};

/// Values that are unpacked; their blocks fit the second-level cache.
const VALUES: usize = 1 << 18;

fn main() {
    println!("{:8} {:>14} {:>14}", "type", "unpack Gvalue/s", "decode Gvalue/s");
    let mut out = vec![0.0; VALUES];
    for kind in BlockType::ALL.iter().filter(|kind| !kind.is_dense()) {
        let len = kind.row_bytes(VALUES).unwrap_or(0);
        // Any bytes are blocks; these have no two scales alike.
        let bytes: Vec<u8> =
            (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let step = UNPACKED_VALUES / kind.block_values() * kind.block_bytes();
        let mut unpacked = Unpacked::new();
        let unpack = best(|| {
            for chunk in bytes.chunks_exact(step) {
                let result = kind.unpack(chunk, UNPACKED_VALUES, &mut unpacked);
                black_box((&unpacked, result.is_ok()));
            }
        });
        let decode = best(|| {
            black_box(kind.decode(&bytes, &mut out).is_ok());
            black_box(&out);
        });
        println!("{:8} {unpack:>14.2} {decode:>14.2}", kind.as_str());
    }
}

/// Billions of values per second, the best of some runs.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..30 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    VALUES as f64 / best / 1e9
}
