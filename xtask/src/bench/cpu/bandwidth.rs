//! How fast this machine reads memory.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::Result;

/// Bytes that are summed, beyond every cache.
const BYTES: usize = 1 << 30;
/// Passes over them; the fastest counts.
const PASSES: usize = 3;
/// Sums that do not wait for each other.
const LANES: usize = 32;

/// Bytes per second that `threads` threads read together, each of a buffer of
/// its own.
pub(super) fn read_bytes_per_sec(threads: usize) -> Result<f64> {
    let words = BYTES / size_of::<u64>() / threads.max(1);
    let barrier = Barrier::new(threads);
    let read = &|seed: usize| {
        let buffer: Vec<u64> = (0..words).map(|word| (word ^ seed) as u64).collect();
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            barrier.wait();
            let began = Instant::now();
            black_box(sum(black_box(&buffer)));
            barrier.wait();
            // Until the slowest thread is through.
            best = best.min(began.elapsed().as_secs_f64());
        }
        best
    };
    let best = thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|seed| scope.spawn(move || read(seed))).collect();
        readers.into_iter().map(|reader| reader.join()).collect::<Vec<_>>()
    });
    let mut slowest: f64 = 0.0;
    for time in best {
        slowest = slowest.max(time.map_err(|_| "a thread that reads memory panicked")?);
    }
    Ok((words * size_of::<u64>() * threads) as f64 / slowest)
}

fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; LANES];
    let (blocks, rest) = words.as_chunks::<LANES>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (1..=1000).collect();
        assert_eq!(sum(&words), 500_500);
    }
}
