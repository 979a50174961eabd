//! Safetensors headers and indices: weights whose bytes lie in the file, or an
//! error that names the file.
//!
//! The first byte says what the rest is: 0 the file of the whole model; any
//! other number an index, a zero byte, and one shard.

#![no_main]

use std::cell::OnceCell;
use std::fs;

use inference_candle::{ModelFiles, SafetensorsFiles, WeightSource};
use inference_core::ModelSource;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00001-of-00001.safetensors";

/// Names that are asked for; mutations of the seeds keep some of them.
const TENSORS: [&str; 4] =
    ["a", "b", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"];

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    FOLDER.with(|cell| {
        let folder = cell.get_or_init(|| TempDir::new().expect("a folder")).path();
        for file in [SINGLE, INDEX, SHARD] {
            let _ = fs::remove_file(folder.join(file));
        }
        let size = if *kind == 0 {
            fs::write(folder.join(SINGLE), bytes).expect("a file");
            bytes.len()
        } else {
            let mut parts = bytes.splitn(2, |byte| *byte == 0);
            let index = parts.next().unwrap_or_default();
            let shard = parts.next().unwrap_or_default();
            fs::write(folder.join(INDEX), index).expect("a file");
            fs::write(folder.join(SHARD), shard).expect("a file");
            shard.len()
        };
        let files = ModelFiles::new(&ModelSource::from(folder)).expect("a folder");
        match SafetensorsFiles::open(&files) {
            Ok(weights) => {
                for name in TENSORS {
                    let Ok(weight) = weights.get(name) else { continue };
                    let stored = weight.bytes().map_or(0, <[u8]>::len);
                    assert_eq!(stored as u64, weight.stored_bytes());
                    assert!(stored < size);
                    if weight.shape().len() == 2 && weight.rows() > 0 && weight.columns() < 1 << 16
                    {
                        let mut row = vec![0.0; weight.columns()];
                        weight.decode_rows(0, &mut row).expect("a row that is there");
                    }
                }
            }
            Err(error) => assert!(error.to_string().contains("model"), "{error}"),
        }
    });
});
