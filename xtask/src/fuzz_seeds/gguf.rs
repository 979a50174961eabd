//! A GGUF file cut down: all of its keys, the beginning of long arrays, and a
//! tensor of each name with a block or two.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use inference_gguf::{BlockType, GgufFile, GgufWriter, Metadata, TensorType, ValueType};

use crate::Result;

/// Most elements of an array; the bytes that vocabularies begin with, and
/// some tokens more.
const ELEMENTS: usize = 300;
/// Most tensors.
const TENSORS: usize = 40;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// Writes the small copy of `source`; keys become words of the dictionary.
pub(super) fn shrink(source: &Path, out: &Path, words: &mut BTreeSet<String>) -> Result<()> {
    let file = GgufFile::open(source)?;
    let metadata = file.metadata();
    let mut writer = GgufWriter::new();
    for key in metadata.keys() {
        words.insert(key.to_owned());
        match metadata.stored(key) {
            Some((ValueType::Array, _)) => array(metadata, key, &mut writer)?,
            _ => writer.copy(metadata, |wanted| wanted == key && fits(metadata, key)),
        }
    }
    let mut kept = Vec::new();
    for tensor in file.tensors().iter().take(TENSORS) {
        let TensorType::Known(kind) = tensor.kind() else { continue };
        words.insert(tensor.name().to_owned());
        let mut shape: Vec<usize> = tensor.shape().iter().map(|dim| (*dim).min(2)).collect();
        if let Some(columns) = shape.last_mut() {
            *columns = kind.block_values();
        }
        let blocks: usize = shape.iter().rev().skip(1).product();
        writer.tensor(tensor.name(), &shape, kind)?;
        kept.push((tensor, blocks * kind.block_bytes()));
    }
    let _ = std::fs::remove_file(out);
    let mut output = writer.create(out)?;
    for (tensor, bytes) in kept {
        output
            .write(file.bytes(tensor)?.get(..bytes).ok_or("a tensor of less than its blocks")?)?;
    }
    Ok(output.finish()?)
}

/// Writes an adapter of rank 4 for a map of 64 to 64; its names become words.
pub(super) fn adapter(out: &Path, words: &mut BTreeSet<String>) -> Result<()> {
    let mut writer = GgufWriter::new();
    for (key, value) in
        [("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")]
    {
        words.insert(key.to_owned());
        writer.set(key, value);
    }
    words.insert("adapter.lora.alpha".to_owned());
    writer.set("adapter.lora.alpha", 8.0f32);
    let factors =
        [("blk.0.attn_q.weight.lora_a", [4, 64]), ("blk.0.attn_q.weight.lora_b", [64, 4])];
    for (name, shape) in &factors {
        words.insert((*name).to_owned());
        writer.tensor(name, shape, BlockType::F32)?;
    }
    let _ = std::fs::remove_file(out);
    let mut output = writer.create(out)?;
    for _ in factors {
        let values: Vec<u8> =
            (0..256).flat_map(|i| (i as f32 * 0.01 - 1.0).to_le_bytes()).collect();
        output.write(&values)?;
    }
    Ok(output.finish()?)
}

/// Whether a value is right for the vocabulary that is left.
fn fits(metadata: &Metadata, key: &str) -> bool {
    let is_id = key.starts_with("tokenizer.") && key.ends_with("_token_id");
    !is_id || matches!(metadata.size(key), Ok(Some(id)) if id < ELEMENTS)
}

fn array(metadata: &Metadata, key: &str, writer: &mut GgufWriter) -> Result<()> {
    if key == MERGES {
        let tokens = metadata.texts(TOKENS)?.unwrap_or_default();
        let tokens: HashSet<&str> = tokens.into_iter().take(ELEMENTS).collect();
        let known = |merge: &&str| {
            merge.split_once(' ').is_some_and(|(left, right)| {
                let whole = format!("{left}{right}");
                tokens.contains(left) && tokens.contains(right) && tokens.contains(&*whole)
            })
        };
        let merges = metadata.texts(key)?.unwrap_or_default();
        writer.set_array(key, merges.into_iter().filter(known).collect::<Vec<_>>());
        return Ok(());
    }
    match metadata.array(key)?.map(|array| array.element_type()) {
        Some(ValueType::Text) => {
            let texts: Vec<_> = metadata.texts(key)?.unwrap_or_default();
            writer.set_array(key, texts.into_iter().take(ELEMENTS).collect::<Vec<_>>());
        }
        Some(ValueType::F32) => {
            let numbers = metadata.numbers(key)?.unwrap_or_default();
            let kept: Vec<f32> = numbers.iter().take(ELEMENTS).map(|n| *n as f32).collect();
            writer.set_array(key, kept);
        }
        Some(ValueType::I32) => {
            let numbers = metadata.numbers(key)?.unwrap_or_default();
            let kept: Vec<i32> = numbers.iter().take(ELEMENTS).map(|n| *n as i32).collect();
            writer.set_array(key, kept);
        }
        _ => writer.copy(metadata, |wanted| wanted == key),
    }
    Ok(())
}
