//! Safetensors files: one, or shards with an index.
//!
//! The format: 8 bytes of header length (little-endian), a JSON header of
//! type, shape and byte range per tensor, and the data.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;
use inference_core::{Error, Result};
use serde_json::Value;

use super::mapped_bytes::MappedBytes;
use super::{WeightSource, aligned, missing};
use crate::files::ModelFiles;
use crate::json::{MAX_VALUES, parse};
use crate::{Weight, WeightType};

/// The largest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// The name of the single file, and of the index of shards.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model's safetensors files, mapped or embedded, as stored.
pub struct SafetensorsFiles {
    tensors: HashMap<String, Entry>,
    /// What to name where a tensor is missing.
    file: String,
    stored_bytes: u64,
    files: Vec<MappedBytes>,
}

struct Entry {
    file: Arc<str>,
    kind: ElementType,
    shape: Vec<usize>,
    bytes: MappedBytes,
    range: Range<usize>,
}

/// An element type of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    F32,
    F16,
    Bf16,
    U32,
    I32,
    U8,
    F8E4m3,
    /// The name of one that nothing here reads.
    Other(String),
}

impl ElementType {
    fn parse(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            "U32" => Self::U32,
            "I32" => Self::I32,
            "U8" => Self::U8,
            "F8_E4M3" => Self::F8E4m3,
            other => Self::Other(other.to_owned()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::U8 => "U8",
            Self::F8E4m3 => "F8_E4M3",
            Self::Other(name) => name,
        }
    }

    /// Bytes of an element, where known.
    pub(crate) fn width(&self) -> Option<usize> {
        match self {
            Self::F32 | Self::U32 | Self::I32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::U8 | Self::F8E4m3 => Some(1),
            Self::Other(_) => None,
        }
    }

    /// The type of a dense weight.
    fn dense(&self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
            _ => None,
        }
    }
}

/// A tensor as the file has it. The bytes are as many as type and shape say,
/// at any address.
#[derive(Clone)]
pub(crate) struct RawTensor {
    pub(crate) file: Arc<str>,
    pub(crate) kind: ElementType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: MappedBytes,
    pub(crate) range: Range<usize>,
}

impl RawTensor {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.range.clone())
    }

    /// Lets the operating system take back the memory of pages that have been
    /// read and will not be read again.
    pub(crate) fn release(&self) {
        self.bytes.release(self.range.clone());
    }
}

impl SafetensorsFiles {
    /// Opens `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names. Only headers are read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// naming file, field or tensor, [`ErrorKind::Io`](inference_core::ErrorKind::Io).
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let mut opened = Self {
            tensors: HashMap::new(),
            file: SINGLE.to_owned(),
            stored_bytes: 0,
            files: Vec::new(),
        };
        if files.contains(SINGLE) {
            opened.add(files, SINGLE)?;
            return Ok(opened);
        }
        let Some(index) = files.read(INDEX)? else {
            let found = "neither".to_owned();
            return Err(Error::invalid_model(
                files.name(),
                "weights",
                format!("{SINGLE} or {INDEX}"),
                found,
            ));
        };
        INDEX.clone_into(&mut opened.file);
        let shards = read_index(&index)?;
        let names: BTreeSet<&str> = shards.values().map(String::as_str).collect();
        for shard in names {
            if !files.contains(shard) {
                let what = format!("weight_map: {shard}");
                return Err(Error::invalid_model(INDEX, what, "a file", "nothing"));
            }
            opened.add(files, shard)?;
        }
        for (tensor, shard) in &shards {
            let held = opened.tensors.get(tensor).map(|entry| &*entry.file);
            if held != Some(shard) {
                return Err(Error::invalid_model(
                    INDEX,
                    format!("tensor `{tensor}`"),
                    format!("in {shard}"),
                    held.map_or_else(|| "in no shard".to_owned(), |file| format!("in {file}")),
                ));
            }
        }
        Ok(opened)
    }

    /// A tensor of whatever type; `None` where there is none.
    pub(crate) fn raw(&self, name: &str) -> Option<RawTensor> {
        let entry = self.tensors.get(name)?;
        Some(RawTensor {
            file: Arc::clone(&entry.file),
            kind: entry.kind.clone(),
            shape: entry.shape.clone(),
            bytes: entry.bytes.clone(),
            range: entry.range.clone(),
        })
    }

    /// The names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What to name where a tensor is missing.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn add(&mut self, files: &ModelFiles, name: &str) -> Result<()> {
        let bytes = files.map_releasable(name)?;
        let file: Arc<str> = name.into();
        let header = Header::parse(name, bytes.all())?;
        self.files.push(bytes.clone());
        for (tensor, parsed) in header.tensors {
            self.stored_bytes += parsed.range.len() as u64;
            let (kind, shape) = (parsed.kind, parsed.shape);
            let (file, bytes) = (Arc::clone(&file), bytes.clone());
            let entry = Entry { file, kind, shape, bytes, range: parsed.range };
            if let Some(other) = self.tensors.insert(tensor.clone(), entry) {
                let found = format!("also in {}", other.file);
                let what = format!("tensor `{tensor}`");
                return Err(Error::invalid_model(name, what, "in one shard", found));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SafetensorsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafetensorsFiles")
            .field("tensors", &self.tensors.len())
            .field("stored_bytes", &self.stored_bytes)
            .finish_non_exhaustive()
    }
}

impl WeightSource for SafetensorsFiles {
    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let entry = self.tensors.get(name).ok_or_else(|| missing(&self.file, name))?;
        let Some(dtype) = entry.kind.dense() else {
            let (what, found) = (format!("type of tensor `{name}`"), entry.kind.name());
            return Err(Error::unsupported_model(&*entry.file, what, found, "F32, F16, BF16"));
        };
        let bytes = entry.bytes.shared();
        let (bytes, range) = aligned(bytes, entry.range.clone(), dtype.size_in_bytes());
        let kind = WeightType::Dense(dtype);
        let weight = Weight::stored(name, entry.shape.clone(), kind, bytes, range)?;
        Ok(weight.with_map(entry.bytes.mapped()))
    }

    fn release_pages(&self) {
        for file in &self.files {
            file.release(0..file.all().len());
        }
    }
}

/// A parsed and checked header: ranges are within the file and fit the shapes.
struct Header {
    tensors: Vec<(String, Parsed)>,
}

struct Parsed {
    kind: ElementType,
    shape: Vec<usize>,
    /// In the file.
    range: Range<usize>,
}

impl Header {
    fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let truncated = |what: &str, needed: u64| {
            let (expected, found) = (format!("{needed} bytes"), format!("{} bytes", bytes.len()));
            Error::invalid_model(file, what, expected, found)
        };
        let length = bytes.first_chunk::<8>().ok_or_else(|| truncated("the header's length", 8))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            let (expected, found) = (format!("at most {MAX_HEADER}"), length.to_string());
            return Err(Error::invalid_model(file, "the header's length", expected, found));
        }
        let start = 8 + length as usize;
        let json = bytes.get(8..start).ok_or_else(|| truncated("the header", start as u64))?;
        let data_len = bytes.len() - start;
        // A file of many tensors is large by their data.
        let max_values = MAX_VALUES + data_len / 256;
        let value = parse(file, "the header", json, max_values)?;
        let Value::Object(map) = value else {
            return Err(Error::invalid_model(file, "the header", "a JSON object", "another value"));
        };
        let mut tensors = Vec::with_capacity(map.len());
        for (name, value) in map {
            if name != "__metadata__" {
                let parsed = Parsed::read(file, &name, &value, start, data_len)?;
                tensors.push((name, parsed));
            }
        }
        Ok(Self { tensors })
    }
}

impl Parsed {
    fn read(file: &str, name: &str, value: &Value, start: usize, data_len: usize) -> Result<Self> {
        let invalid = |what: &str, expected: String, found: String| {
            Error::invalid_model(file, format!("{what} of tensor `{name}`"), expected, found)
        };
        let field = |name: &str| value.get(name).unwrap_or(&Value::Null);
        let Some(dtype) = field("dtype").as_str() else {
            return Err(invalid("dtype", "a string".into(), field("dtype").to_string()));
        };
        let sizes = |field: &Value| -> Option<Vec<usize>> {
            let size = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok());
            field.as_array()?.iter().map(size).collect()
        };
        let Some(shape) = sizes(field("shape")) else {
            return Err(invalid("shape", "an array of sizes".into(), field("shape").to_string()));
        };
        let offsets = sizes(field("data_offsets"));
        let Some(&[begin, end]) = offsets.as_deref() else {
            let found = field("data_offsets").to_string();
            return Err(invalid("data_offsets", "[begin, end]".into(), found));
        };
        if begin > end || end > data_len {
            let expected = format!("a range within {data_len} bytes of data");
            return Err(invalid("data_offsets", expected, format!("{begin}..{end}")));
        }
        let kind = ElementType::parse(dtype);
        let width = kind.width().unwrap_or(0);
        let size = shape.iter().try_fold(width, |n: usize, dim| n.checked_mul(*dim));
        if width > 0 && size != Some(end - begin) {
            let expected = size.map_or_else(|| "fewer".to_owned(), |size| size.to_string());
            let expected = format!("{expected} bytes for shape {shape:?}");
            return Err(invalid("data_offsets", expected, format!("{} bytes", end - begin)));
        }
        Ok(Self { kind, shape, range: start + begin..start + end })
    }
}

/// The index: tensor name to shard.
fn read_index(json: &[u8]) -> Result<HashMap<String, String>> {
    let invalid = |what: &str, expected: &str, found: String| {
        Error::invalid_model(INDEX, what, expected, found)
    };
    let value = parse(INDEX, "the document", json, MAX_VALUES)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("weight_map", "an object", "nothing of that".into()))?;
    let mut shards = HashMap::with_capacity(map.len());
    for (tensor, shard) in map {
        // A shard lies beside the index, nowhere else.
        let plain = |shard: &&str| {
            shard.ends_with(".safetensors") && !shard.contains(['/', '\\']) && !shard.contains("..")
        };
        let Some(shard) = shard.as_str().filter(plain) else {
            let what = format!("weight_map of tensor `{tensor}`");
            return Err(invalid(&what, "the name of a .safetensors file", shard.to_string()));
        };
        shards.insert(tensor.clone(), shard.to_owned());
    }
    Ok(shards)
}
