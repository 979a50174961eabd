//! Snapshots as files.
//!
//! A file is a safetensors file: tensor `ids`, u32 `[positions]`, and tensor
//! `kv`, u8 `[positions, position_bytes]`, the keys and values one position
//! after the other as [`KvBlocks`](crate::KvBlocks) reads them. Its metadata
//! are texts:
//!
//! | key | value |
//! |---|---|
//! | `format` | `inference-kv-snapshot` |
//! | `version` | `1` |
//! | `architecture` | as in [`ModelInfo`](inference_core::ModelInfo) |
//! | `model` | [`ModelParts::identity`](crate::ModelParts::identity) |
//! | `tokenizer` | SHA-256 of the tokens' bytes, or `none` |
//! | `kv_format` | [`KvBlocks::format`](crate::KvBlocks::format) |
//! | `position_bytes` | bytes of one position |
//! | `positions` | how many |
//! | `sharing_class` | [`KvBlocks::sharing_class`](crate::KvBlocks::sharing_class) of the prompt |
//! | `checksum` | SHA-256 of the lines `key=value` above, in this order, ids, keys and values |

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use inference_core::{Error, Result, TokenId};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorView, serialize_to_file};
use sha2::{Digest, Sha256};

use crate::identity::{Identity, hex};
use crate::request::Requirements;
use crate::state::{EngineSnapshot, check_field, reserve};
use crate::submission::KvBytes;

const FORMAT: &str = "inference-kv-snapshot";
const VERSION: &str = "1";

/// Most bytes of a header: it has two tensors and ten short texts.
const MAX_HEADER: u64 = 1 << 16;

/// What a file says before its tensors, without the checksum.
fn fields(identity: &Identity, positions: usize, class: u64) -> Vec<(&'static str, String)> {
    let mut fields = vec![("format", FORMAT.to_owned()), ("version", VERSION.to_owned())];
    fields.extend(identity.fields());
    fields.push(("positions", positions.to_string()));
    fields.push(("sharing_class", class.to_string()));
    fields
}

fn checksum(fields: &[(&'static str, String)], ids: &[u8], kv: &[u8]) -> String {
    let mut hash = Sha256::new();
    for (name, value) in fields {
        hash.update(format!("{name}={value}\n"));
    }
    hash.update(ids);
    hash.update(kv);
    hex(&hash.finalize())
}

fn without_identity() -> Error {
    Error::unsupported("a model without an identity", "snapshot files")
}

/// Writes a snapshot: to a file beside `path`, which then takes its place, so
/// that `path` is the old file or the new one, whatever happens.
pub(crate) fn save(snapshot: &EngineSnapshot, path: &Path) -> Result<()> {
    let EngineSnapshot { identity, ids, kv } = snapshot;
    if identity.model.is_none() {
        return Err(without_identity());
    }
    if kv.adapter.is_some() {
        // Nothing in a file could say which.
        return Err(Error::unsupported("a sequence with an adapter", "snapshot files"));
    }
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut fields = fields(identity, kv.positions, kv.class);
    fields.push(("checksum", checksum(&fields, &ids, &kv.bytes)));
    let metadata: HashMap<String, String> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let size = kv.bytes.len().checked_div(kv.positions).unwrap_or(0);
    let shape = |error| Error::engine("the shape of a snapshot", error);
    let tensors = [
        ("ids", TensorView::new(Dtype::U32, vec![kv.positions], &ids).map_err(shape)?),
        ("kv", TensorView::new(Dtype::U8, vec![kv.positions, size], &kv.bytes).map_err(shape)?),
    ];
    let beside = beside(path);
    let written = serialize_to_file(tensors, Some(metadata), &beside)
        .map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })
        .and_then(|()| OpenOptions::new().write(true).open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|error| {
        // It may never have been there.
        let _ = fs::remove_file(&beside);
        Error::io(path, "write", error)
    })
}

/// A name in the same folder that nobody else writes to.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{count}.part", std::process::id()));
    path.with_file_name(name)
}

/// Makes a new name as durable as the file that it names.
fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        // Folders cannot be opened as files there.
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The file being read, and its name for errors.
struct Source<'a> {
    path: &'a Path,
    name: String,
    file: File,
}

impl Source<'_> {
    fn damaged(&self, what: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::invalid_input(format!("{what} of {}", self.name), expected, found)
    }

    fn read(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reserve(&mut bytes, len)?;
        self.file
            .by_ref()
            .take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(self.path, "read", error))?;
        if bytes.len() < len {
            let found = format!("{} bytes to its end", bytes.len());
            return Err(self.damaged("a part", format!("{len} bytes"), found));
        }
        Ok(bytes)
    }
}

/// What a file says of its tensors.
struct Extent {
    positions: usize,
    class: u64,
    ids_bytes: usize,
    kv_bytes: usize,
    /// The recorded one.
    checksum: String,
}

/// Reads a snapshot of the model of `identity`. What the file says of itself
/// is checked before anything of its size is allocated.
pub(crate) fn load(
    path: &Path,
    identity: &Arc<Identity>,
    requirements: &Requirements,
) -> Result<EngineSnapshot> {
    if identity.model.is_none() {
        return Err(without_identity());
    }
    let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    let size = file.metadata().map_err(|error| Error::io(path, "read", error))?.len();
    let name = format!("the snapshot `{}`", path.display());
    let mut source = Source { path, name, file };

    let length = source.read(8)?.try_into().map_or(u64::MAX, u64::from_le_bytes);
    let Some(header_bytes) = usize::try_from(length).ok().filter(|_| length <= MAX_HEADER) else {
        let expected = format!("at most {MAX_HEADER} bytes");
        return Err(source.damaged("the header", expected, length.to_string()));
    };
    let header: Metadata =
        serde_json::from_slice(&source.read(header_bytes)?).map_err(|error| {
            source.damaged("the header", "that of a safetensors file", error.to_string())
        })?;
    let extent = check_header(&source, &header, identity, requirements.context_len())?;
    let Extent { positions, class, ids_bytes, kv_bytes, .. } = extent;
    let expected = 8 + length + (ids_bytes as u64) + (kv_bytes as u64);
    if size != expected {
        return Err(source.damaged("the size", format!("{expected} bytes"), size.to_string()));
    }

    let (ids, kv) = (source.read(ids_bytes)?, source.read(kv_bytes)?);
    let sum = checksum(&fields(identity, positions, class), &ids, &kv);
    check_field(&source.name, "checksum", &sum, &extent.checksum)?;
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, byte| id << 8 | TokenId::from(*byte));
    let ids: Vec<TokenId> = ids.chunks_exact(size_of::<TokenId>()).map(id).collect();
    requirements.check_ids("an id of the snapshot", &ids)?;
    let kv = Arc::new(KvBytes { class, adapter: None, positions, bytes: kv });
    Ok(EngineSnapshot { identity: Arc::clone(identity), ids, kv })
}

/// Checks a header against the model, whose context has `most` tokens.
fn check_header(
    source: &Source<'_>,
    header: &Metadata,
    identity: &Identity,
    most: usize,
) -> Result<Extent> {
    let empty = HashMap::new();
    let texts = header.metadata().as_ref().unwrap_or(&empty);
    let text = |field: &str| texts.get(field).map_or("", String::as_str);
    let number = |field: &str, expected: String| -> Result<u64> {
        let refuse = |_| source.damaged(field, expected, format!("`{:.40}`", text(field)));
        text(field).parse().map_err(refuse)
    };
    for (field, expected) in [("format", FORMAT), ("version", VERSION)] {
        check_field(&source.name, field, expected, text(field))?;
    }
    for (field, expected) in identity.fields() {
        check_field(&source.name, field, &expected, text(field))?;
    }
    let class = number("sharing_class", "a number".to_owned())?;
    let expected = format!("1 to {most}, which is the context");
    let positions = number("positions", expected.clone())?;
    let in_context = usize::try_from(positions).ok().filter(|n| (1..=most).contains(n));
    let Some(positions) = in_context else {
        return Err(source.damaged("positions", expected, positions.to_string()));
    };
    let position_bytes = usize::try_from(identity.kv.position_bytes).unwrap_or(usize::MAX);
    let ids_bytes = positions.saturating_mul(size_of::<TokenId>());
    let kv_bytes = positions.saturating_mul(position_bytes);
    let end = ids_bytes.saturating_add(kv_bytes);
    for (tensor, dtype, shape, range) in [
        ("ids", Dtype::U32, vec![positions], (0, ids_bytes)),
        ("kv", Dtype::U8, vec![positions, position_bytes], (ids_bytes, end)),
    ] {
        let info = header.info(tensor);
        if !info.is_some_and(|i| i.dtype == dtype && i.shape == shape && i.data_offsets == range) {
            let expected = format!("{dtype:?} {shape:?} at {range:?}");
            let found: String = format!("{info:?}").chars().take(200).collect();
            return Err(source.damaged(&format!("tensor `{tensor}`"), expected, found));
        }
    }
    if header.tensors().len() != 2 {
        let found = header.tensors().len().to_string();
        return Err(source.damaged("the number of tensors", "2", found));
    }
    Ok(Extent { positions, class, ids_bytes, kv_bytes, checksum: text("checksum").to_owned() })
}
