//! Adapters: one that fits the model, with finite factors of the model's
//! shapes, or an error that names a file.
//!
//! The first byte says what the rest is: 0 a GGUF file; 1 PEFT's
//! configuration, a zero byte, and its tensors; anything else mlx-lm's.

#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use inference_candle::DecoderConfig;
use inference_lora::{AdapterFiles, MergeDelta, ModuleTable, ReadOptions};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const CONFIG: &str = "adapter_config.json";
const PEFT: &str = "adapter_model.safetensors";
const MLX: &str = "adapters.safetensors";
const GGUF: &str = "adapter.gguf";

/// The base of the seeds.
const BASE: &[u8] = br#"{"model_type": "llama", "vocab_size": 384, "hidden_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
    "num_hidden_layers": 2, "attention_bias": true}"#;

thread_local! {
    static PLACE: OnceCell<(TempDir, ModuleTable)> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    PLACE.with(|cell| {
        let (folder, table) = cell.get_or_init(|| {
            let base = DecoderConfig::from_json("config.json", BASE).expect("a configuration");
            (TempDir::new().expect("a folder"), base.modules())
        });
        for file in [CONFIG, PEFT, MLX, GGUF] {
            let _ = fs::remove_file(folder.path().join(file));
        }
        let write = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).expect("a file");
        };
        if *kind == 0 {
            write(GGUF, bytes);
        } else {
            let mut parts = bytes.splitn(2, |byte| *byte == 0);
            write(CONFIG, parts.next().unwrap_or_default());
            write(if *kind == 1 { PEFT } else { MLX }, parts.next().unwrap_or_default());
        }
        for lenient in [false, true] {
            check(folder.path(), table, lenient);
        }
    });
});

fn check(folder: &Path, table: &ModuleTable, lenient: bool) {
    let options = ReadOptions::new().with_lenient(lenient);
    let read = AdapterFiles::open(folder).and_then(|files| {
        let _ = (files.tensors(), files.settings());
        files.read(table, options)
    });
    match read {
        Ok(adapter) => {
            for (name, delta) in &adapter.weights.modules {
                let module = table.get(name).expect("a module of the model");
                assert!(delta.rank() > 0 && delta.scaling.is_finite());
                assert_eq!(delta.a.dims(), [delta.rank(), module.input]);
                assert_eq!(delta.b.dims(), [module.out, delta.rank()]);
                let change = MergeDelta::new(delta, 1.0).expect("factors of a matrix");
                let mut row = vec![0.0; module.input];
                change.apply(module.out - 1, &mut row);
            }
            assert!(lenient || adapter.unmatched.is_empty() && adapter.missing.is_empty());
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(&*folder.to_string_lossy()) || text.contains(CONFIG), "{text}");
        }
    }
}
