//! The files of a merged model: shards as the source has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use inference_core::{Error, ProgressEvent, Result};
use serde_json::{Map, Value, json};

use super::MergeOptions;
use crate::checkpoint::CONFIG;
use crate::weights::RawTensor;
use crate::{MergedWeights, ModelFiles, SafetensorsFiles, WeightSource};

/// The phase that progress names.
const PHASE: &str = "merge";

/// The index of shards.
const INDEX: &str = "model.safetensors.index.json";

/// Endings of files that hold weights, in whatever format.
const WEIGHTS: [&str; 8] =
    [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];

/// A tensor to be written: under its name, in the form of a stored one.
struct Planned {
    name: String,
    /// What of the source has its type and shape.
    like: RawTensor,
    /// Whether the adapter changes it.
    merged: bool,
}

/// Writes the folder; bytes of tensors, and how many were changed.
pub(super) fn write(
    files: &ModelFiles,
    stored: &SafetensorsFiles,
    merged: &MergedWeights,
    config: Option<&[u8]>,
    out: &Path,
    options: &MergeOptions,
) -> Result<(u64, usize)> {
    let shards = plan(stored, merged)?;
    let total = shards.values().flatten().map(|tensor| tensor.like.bytes().len() as u64).sum();
    let folder = NewFolder::create(out)?;
    copy_companions(files, config, &folder.temporary)?;
    let mut progress = Progress { options, done: 0 };
    progress.report(ProgressEvent::Started {
        phase: PHASE.to_owned(),
        total: Some(total),
        unit: "bytes",
    });
    for (shard, tensors) in &shards {
        write_shard(&folder.temporary.join(shard), tensors, merged, &mut progress)?;
        merged.release_pages();
    }
    if shards.len() > 1 || !shards.contains_key("model.safetensors") {
        write_whole(&folder.temporary.join(INDEX), &index(&shards, total)?)?;
    }
    folder.finish()?;
    progress.report(ProgressEvent::Finished { phase: PHASE.to_owned() });
    let changed = shards.values().flatten().filter(|tensor| tensor.merged).count();
    Ok((total, changed))
}

/// The tensors by the name of their file, in their order there.
fn plan(
    stored: &SafetensorsFiles,
    merged: &MergedWeights,
) -> Result<BTreeMap<String, Vec<Planned>>> {
    let mut shards: BTreeMap<String, Vec<Planned>> = BTreeMap::new();
    let mut done = BTreeSet::new();
    let tied = merged.tied_names().filter(|_| merged.unties_head());
    for name in stored.names() {
        // A copy of the embedding that the source stores in vain.
        if tied.is_some_and(|[head, _]| head == name) {
            continue;
        }
        let Some(like) = stored.raw(name) else { continue };
        let module = merged.changes(name);
        done.extend(module);
        let planned = Planned { name: name.to_owned(), merged: module.is_some(), like };
        shards.entry(planned.like.file.to_string()).or_default().push(planned);
    }
    if let Some([head, embedding]) = tied
        && let Some(like) = stored.raw(embedding)
    {
        done.extend(merged.changes(head));
        let planned = Planned { name: head.clone(), merged: true, like };
        shards.entry(planned.like.file.to_string()).or_default().push(planned);
    }
    if let Some(module) = merged.changed().into_iter().find(|module| !done.contains(module)) {
        let what = format!("tensors of `{module}`");
        let expected = "present, for the adapter changes them";
        return Err(Error::invalid_model(stored.file(), what, expected, "nothing"));
    }
    for tensors in shards.values_mut() {
        tensors.sort_by(|a, b| (a.like.range.start, &a.name).cmp(&(b.like.range.start, &b.name)));
    }
    Ok(shards)
}

fn write_shard(
    path: &Path,
    tensors: &[Planned],
    merged: &MergedWeights,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.like.bytes().len();
        let (kind, shape) = (tensor.like.kind.name(), &tensor.like.shape);
        let entry = json!({"dtype": kind, "shape": shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(header))
        .map_err(|error| Error::engine("writing a header", error))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let failed = |error| Error::io(path, "write", error);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    for tensor in tensors {
        progress.check_cancelled()?;
        let stored = tensor.like.bytes();
        if tensor.merged {
            let weight = merged.get(&tensor.name)?;
            // The original's type and shape, so as many bytes.
            let bytes = weight.bytes().filter(|bytes| bytes.len() == stored.len());
            let other = || Error::engine_message(format!("merging `{}`", tensor.name));
            file.write_all(bytes.ok_or_else(other)?).map_err(failed)?;
        } else {
            file.write_all(stored).map_err(failed)?;
            tensor.like.release();
        }
        progress.advance(stored.len());
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Says which file has which tensor.
fn index(shards: &BTreeMap<String, Vec<Planned>>, total: u64) -> Result<Vec<u8>> {
    let pairs = shards.iter().flat_map(|(shard, tensors)| {
        tensors.iter().map(move |tensor| (tensor.name.clone(), Value::from(shard.as_str())))
    });
    let map: BTreeMap<String, Value> = pairs.collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    serde_json::to_vec_pretty(&index).map_err(|error| Error::engine("writing an index", error))
}

/// Copies what lies beside the weights, with another `config.json` where it is
/// given.
fn copy_companions(files: &ModelFiles, config: Option<&[u8]>, folder: &Path) -> Result<()> {
    for name in files.list()? {
        let holds_weights = WEIGHTS.iter().any(|ending| name.ends_with(ending))
            || name.ends_with(".index.json")
            || name.starts_with('.');
        if holds_weights {
            continue;
        }
        let bytes = match config.filter(|_| name == CONFIG) {
            Some(config) => config.to_vec(),
            None => files.read_required(&name)?,
        };
        write_whole(&folder.join(&name), &bytes)?;
    }
    Ok(())
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::io(path, "write", error))
}

/// A folder under a temporary name, removed unless it is finished.
struct NewFolder {
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl NewFolder {
    fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            let what = path.display().to_string();
            return Err(Error::invalid_input(what, "the path of a folder", "no name"));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(hidden);
        fs::create_dir(&temporary).map_err(|error| Error::io(&temporary, "create", error))?;
        Ok(Self { temporary, path: path.to_owned(), finished: false })
    }

    fn finish(mut self) -> Result<()> {
        let renamed = fs::rename(&self.temporary, &self.path);
        renamed.map_err(|error| Error::io(&self.path, "write", error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            // Of no use to anybody, and a destructor cannot fail.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

struct Progress<'a> {
    options: &'a MergeOptions,
    done: u64,
}

impl Progress<'_> {
    fn report(&self, event: ProgressEvent) {
        if let Some(progress) = &self.options.progress {
            progress.report(&event);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.report(ProgressEvent::Advanced { phase: PHASE.to_owned(), done: self.done });
    }

    fn check_cancelled(&self) -> Result<()> {
        match &self.options.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(Error::engine_message("cancelled")),
            _ => Ok(()),
        }
    }
}
