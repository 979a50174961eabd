//! Which safetensors files of a folder hold the weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use inference_core::{Error, Result};
use serde_json::Value;

use crate::bounded_file;

/// The name of the single file, and of the index of shards.
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The weight files of a folder, all of which are there.
///
/// # Errors
///
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) naming the index
/// and the shard that is missing, or the folder where it has neither a single
/// file nor an index.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        let expected = format!("{SINGLE} or {INDEX}");
        return Err(Error::invalid_model(name(folder), "weights", expected, "neither"));
    }
    let shards = shards(&name(&index), &bounded_file::json(&index)?)?;
    let mut files = Vec::with_capacity(shards.len());
    for shard in shards {
        let file = folder.join(&shard);
        if !file.is_file() {
            let what = format!("shard `{shard}`");
            return Err(Error::invalid_model(name(&index), what, "a file", "nothing"));
        }
        files.push(file);
    }
    Ok(files)
}

/// The shards that an index names, sorted; `file` names the index in errors.
pub(crate) fn shards(file: &str, index: &Value) -> Result<BTreeSet<String>> {
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let Some(map) = map else {
        return Err(Error::invalid_model(file, "weight_map", "an object of shards", "none"));
    };
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        // A shard lies beside the index, nowhere else.
        let plain = |shard: &&str| {
            shard.ends_with(".safetensors") && !shard.contains(['/', '\\']) && !shard.contains("..")
        };
        let Some(shard) = shard.as_str().filter(plain) else {
            let what = format!("weight_map of tensor `{tensor}`");
            let found = shard.to_string();
            return Err(Error::invalid_model(file, what, "a .safetensors file's name", found));
        };
        if !shards.contains(shard) {
            shards.insert(shard.to_owned());
        }
    }
    Ok(shards)
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
