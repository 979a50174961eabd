//! How fast this machine reads as many bytes, at the moment.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;

use memmap2::MmapMut;

use crate::Result;

/// Sums that do not wait for each other.
const LANES: usize = 32;

/// Bytes in huge pages, and threads to sum them.
pub(super) struct Reader {
    map: MmapMut,
    threads: usize,
}

/// Measures the seconds of one call.
type Timed<'a> = dyn FnMut(&mut dyn FnMut() -> Result<()>) -> Result<f64> + 'a;

impl Reader {
    pub(super) fn new(bytes: usize, threads: usize) -> Result<Self> {
        let mut map = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        map.advise(memmap2::Advice::HugePage)?;
        for (at, byte) in map.iter_mut().enumerate() {
            *byte = at as u8;
        }
        Ok(Self { map, threads })
    }

    /// Bytes per second of all threads together; `timed` measures one reading.
    pub(super) fn bytes_per_sec(&self, timed: &mut Timed<'_>) -> Result<f64> {
        let part = self.map.len().div_ceil(self.threads).next_multiple_of(8 * LANES);
        let parts: Vec<&[u8]> = self.map.chunks(part).collect();
        let barrier = Barrier::new(parts.len());
        let done = std::sync::atomic::AtomicBool::new(false);
        let (first, others) = parts.split_first().ok_or("nothing to read")?;
        let seconds = thread::scope(|scope| {
            for part in others {
                scope.spawn(|| {
                    loop {
                        barrier.wait();
                        if done.load(std::sync::atomic::Ordering::Acquire) {
                            return;
                        }
                        black_box(sum(black_box(part)));
                        barrier.wait();
                    }
                });
            }
            let seconds = timed(&mut || {
                barrier.wait();
                black_box(sum(black_box(first)));
                barrier.wait();
                Ok(())
            });
            done.store(true, std::sync::atomic::Ordering::Release);
            barrier.wait();
            seconds
        })?;
        Ok(self.map.len() as f64 / seconds)
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; LANES];
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, few) = words.as_chunks::<LANES>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    let few = few.iter().map(|word| u64::from_ne_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    lanes.into_iter().chain(few).chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let bytes: Vec<u8> = (0..1003).map(|at| at as u8).collect();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(sum(&bytes), sum(&other), "{at}");
        }
    }
}
