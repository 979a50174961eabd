//! A weight is in memory once while it is packed: an integration test of its
//! own, because the operating system counts what a whole process has resident.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::sync::Arc;

use candle_core::DType;
use inference_candle::{Ops, Weight, WeightType};
use inference_cpu::{CpuOps, CpuOptions};
use inference_gguf::{BlockType, MappedFile};

/// Bytes of a tensor: several slices, and far more than a test has otherwise.
const BYTES: usize = 96 << 20;

/// The largest number of bytes that were resident since the last call.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    // The next peak is counted from what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kibibytes << 10
}

#[test]
fn a_weight_is_resident_once_while_it_is_packed() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for part in 0..BYTES >> 20 {
        file.write_all(&vec![part as u8; 1 << 20]).unwrap();
    }
    for kind in [WeightType::Blocks(BlockType::Q8_0), WeightType::Dense(DType::F16)] {
        let columns = 4096;
        let row = match kind {
            WeightType::Blocks(kind) => kind.row_bytes(columns).unwrap(),
            _ => 2 * columns,
        };
        let rows = BYTES / row;
        let map = Arc::new(MappedFile::open(file.path()).unwrap());
        let bytes = Arc::clone(&map);
        let weight = Weight::stored("w", vec![rows, columns], kind, bytes, 0..rows * row).unwrap();
        let weight = weight.with_map(Some(&map));
        for threads in [1, 2] {
            let ops = CpuOps::new(&CpuOptions::new().with_threads(threads)).unwrap();
            peak();
            let before = peak();
            let linear = ops.linear(&weight, None).unwrap();
            let grown = peak() - before;
            assert!(grown > BYTES * 9 / 10, "{kind}: {grown} bytes, which is not even the weight");
            assert!(grown < BYTES * 14 / 10, "{kind}: {grown} bytes for {BYTES} of weights");
            assert_eq!(linear.out_features(), rows);
        }
    }
}
