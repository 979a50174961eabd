//! How fast this machine's memory delivers.

use std::hint::black_box;
use std::num::NonZero;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// Bytes that are read in all: more than processors cache.
const BYTES: usize = 512 << 20;

/// Rounds, of which the fastest counts.
const ROUNDS: usize = 3;

/// Bytes per second that all cores together read from memory.
pub(super) fn measure() -> f64 {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let words = (BYTES / 8).div_ceil(threads);
    let barrier = Barrier::new(threads);
    let round = |data: &[u64]| {
        barrier.wait();
        let start = Instant::now();
        black_box(sum(black_box(data)));
        // The slowest of the threads ends the round.
        barrier.wait();
        start.elapsed().as_secs_f64()
    };
    let work = || {
        // Written, so that every page is memory of its own.
        let data: Vec<u64> = (0..words as u64).collect();
        (0..ROUNDS).map(|_| round(&data)).fold(f64::INFINITY, f64::min)
    };
    let seconds = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        helpers.into_iter().map(|helper| helper.join().unwrap_or(0.0)).fold(own, f64::max)
    });
    (words * threads * 8) as f64 / seconds
}

/// In lanes that do not wait for one another.
fn sum(data: &[u64]) -> u64 {
    let mut lanes = [0_u64; 16];
    for chunk in data.as_chunks::<16>().0 {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_delivers_within_reason() {
        let bandwidth = measure();
        assert!((1e7..1e14).contains(&bandwidth), "{bandwidth}");
    }
}
