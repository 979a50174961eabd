//! How long it takes to describe a thousand models from their headers.
//!
//! `cargo run --release --example bench_discover`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that prints its result")]

#[path = "../tests/support/model_bytes.rs"]
mod model_bytes;

use std::fs;
use std::time::Instant;

use inference_discover::discover;
use model_bytes::{Value, gguf, llama_metadata, safetensors};

/// Folders, files, and files with a vocabulary.
const MODELS: usize = 1000;

/// Tokens of the large vocabulary, and its merges: those of Llama 3.
const TOKENS: usize = 128_256;
const MERGES: usize = 280_147;

fn main() {
    let place = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..291).map(|index| format!("blk.{index}.weight")).collect();
    let tensors: Vec<(&str, &[u64])> = names.iter().map(|name| (&**name, &[1, 8][..])).collect();
    let folders = place.path().join("folders");
    let weights = safetensors(&tensors);
    for index in 0..MODELS {
        let folder = folders.join(format!("{index:04}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        fs::write(folder.join("model.safetensors"), &weights).unwrap();
    }
    let plain = gguf(&llama_metadata(15), &tensors);
    let mut metadata = llama_metadata(15);
    let texts =
        |count, stem: &str| Value::Texts((0..count).map(|i| format!("{stem}{i}")).collect());
    metadata.push(("tokenizer.ggml.tokens", texts(TOKENS, "tok")));
    metadata.push(("tokenizer.ggml.merges", texts(MERGES, "a b")));
    let large = gguf(&metadata, &tensors);
    for (kind, bytes) in [("files", &plain), ("vocabularies", &large)] {
        let folder = place.path().join(kind);
        fs::create_dir_all(&folder).unwrap();
        // A hundred files of ten names each: more than a processor caches, and
        // no strain on the disk.
        for index in 0..MODELS {
            let path = folder.join(format!("{index:04}.gguf"));
            match index.checked_sub(100) {
                None => fs::write(path, bytes).unwrap(),
                Some(_) => {
                    let first = folder.join(format!("{:04}.gguf", index % 100));
                    fs::hard_link(first, path).unwrap();
                }
            }
        }
    }
    for kind in ["folders", "files", "vocabularies"] {
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                let found = discover(place.path().join(kind)).filter(Result::is_ok).count();
                assert_eq!(found, MODELS);
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{MODELS} {kind}: {:.3} s (median of 5)", times[2]);
    }
}
