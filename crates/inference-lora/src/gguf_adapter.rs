//! llama.cpp's GGUF adapters.
//!
//! `blk.0.attn_q.weight.lora_a` is `[rank, in]`, `….lora_b` `[out, rank]`; of
//! `token_embd` they are `[rows, rank]` and `[columns, rank]`. The scaling is
//! `adapter.lora.alpha / rank`, and 1 where alpha is absent or 0. Where the
//! architecture's query and key rows are interleaved, those of `lora_b` are.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use inference_core::{Error, Result};
use inference_gguf::{BlockType, GgufFile, Metadata, TensorInfo, TensorType};

use crate::pieces::{Expected, Pieces, Role, transposed};
use crate::read_adapter::{ReadAdapter, ReadOptions, Unmatched};
use crate::stored_tensors::{TensorEntry, check_finite};
use crate::{ModuleKind, ModuleTable};

const TYPE: &str = "general.type";
const ARCHITECTURE: &str = "general.architecture";
const ADAPTER_TYPE: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
const INVOCATION: &str = "adapter.alora.invocation_tokens";

/// Opens a file that says to be an adapter.
pub(crate) fn open(path: &Path) -> Result<GgufFile> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    match metadata.text(TYPE)? {
        Some("adapter") => {}
        found => {
            return Err(metadata.invalid(TYPE, "adapter", found.unwrap_or("nothing")));
        }
    }
    match metadata.text(ADAPTER_TYPE)? {
        Some("lora") => {}
        Some(other) => {
            return Err(Error::unsupported_model(metadata.file(), ADAPTER_TYPE, other, "lora"));
        }
        None => return Err(metadata.invalid(ADAPTER_TYPE, "lora", "nothing")),
    }
    if metadata.contains(INVOCATION) {
        let found = "present";
        return Err(Error::unsupported_model(metadata.file(), INVOCATION, found, "none"));
    }
    Ok(file)
}

/// What the file says of its tensors.
pub(crate) fn entries(file: &GgufFile) -> Vec<TensorEntry> {
    let entry = |tensor: &TensorInfo| {
        TensorEntry::new(tensor.name(), tensor.kind().to_string(), tensor.shape())
    };
    file.tensors().iter().map(entry).collect()
}

/// The numerator of the scaling; `None` where the scaling is 1.
pub(crate) fn alpha(metadata: &Metadata) -> Result<Option<f64>> {
    Ok(metadata.number(ALPHA)?.filter(|alpha| *alpha != 0.0))
}

/// Reads an adapter from a file that [`open`] opened.
pub(crate) fn read(
    file: &GgufFile,
    table: &ModuleTable,
    options: ReadOptions,
) -> Result<ReadAdapter> {
    let metadata = file.metadata();
    let name = metadata.file();
    let Some(model) = &table.gguf_architecture else {
        return Err(Error::unsupported("a model without an architecture in GGUF", "GGUF adapters"));
    };
    match metadata.text(ARCHITECTURE)? {
        Some(found) if found == model => {}
        found => {
            let expected = format!("{model}, as the model");
            return Err(metadata.invalid(ARCHITECTURE, expected, found.unwrap_or("nothing")));
        }
    }
    let by_tensor: HashMap<&str, &str> = table
        .modules
        .iter()
        .filter_map(|(module, known)| Some((known.gguf.as_ref()?, module)))
        .filter(|(gguf, _)| gguf.expert.is_none())
        .map(|(gguf, module)| (gguf.name.as_str(), module.as_str()))
        .collect();
    let mut pieces = Pieces::new(name, table);
    for tensor in file.tensors() {
        let found = parse(tensor.name()).and_then(|(base, role)| {
            let module = *by_tensor.get(base)?;
            Some((module, table.get(module)?, role))
        });
        let Some((module, known, role)) = found else {
            pieces.add_unmatched(tensor.name());
            continue;
        };
        let values = decoded(file, tensor)?;
        let (role, values) = match (known.kind, role) {
            (ModuleKind::Embedding, Role::A) => (Role::B, values),
            (ModuleKind::Embedding, Role::B) => {
                (Role::A, transposed(name, tensor.name(), &values)?)
            }
            (ModuleKind::Norm, _) => {
                pieces.add_unmatched(tensor.name());
                continue;
            }
            (_, Role::B) => match known.gguf.as_ref().and_then(|gguf| gguf.interleaved_heads) {
                Some(heads) => (role, in_halves(name, tensor.name(), &values, heads)?),
                None => (role, values),
            },
            _ => (role, values),
        };
        pieces.add(module, role, tensor.name(), values)?;
    }
    let alpha = alpha(metadata)?;
    let ranks: HashMap<String, usize> = pieces.ranks();
    let tensors = pieces.take_unmatched();
    let unmatched = Unmatched { file: name, tensors, config: name, missing: Vec::new() };
    unmatched.check(table, options)?;
    let weights = pieces.finish(|module| {
        let rank = ranks.get(module).copied().unwrap_or(0);
        let scaling = alpha.map_or(1.0, |alpha| alpha / rank.max(1) as f64);
        Ok(Expected { rank: None, scaling })
    })?;
    unmatched.into_adapter(weights)
}

/// The base tensor of a factor, without `.weight`.
fn parse(name: &str) -> Option<(&str, Role)> {
    let (base, role) = match name.rsplit_once('.')? {
        (base, "lora_a") => (base, Role::A),
        (base, "lora_b") => (base, Role::B),
        _ => return None,
    };
    Some((base.strip_suffix(".weight")?, role))
}

/// A tensor's values: dense as stored, blocks in f32.
fn decoded(file: &GgufFile, tensor: &TensorInfo) -> Result<Tensor> {
    let bytes = file.bytes(tensor)?;
    let shape = tensor.shape();
    let dtype = match tensor.kind() {
        TensorType::Known(BlockType::F32) => Some(DType::F32),
        TensorType::Known(BlockType::F16) => Some(DType::F16),
        TensorType::Known(BlockType::Bf16) => Some(DType::BF16),
        _ => None,
    };
    let name = file.metadata().file();
    let result = if let Some(dtype) = dtype {
        check_finite(name, tensor.name(), dtype, bytes)?;
        Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)
    } else {
        let TensorType::Known(kind) = tensor.kind() else {
            let what = format!("type of tensor `{}`", tensor.name());
            let found = tensor.kind().to_string();
            return Err(Error::unsupported_model(name, what, found, "the types of ggml"));
        };
        let count = usize::try_from(tensor.elem_count()).unwrap_or(usize::MAX);
        let mut values = vec![0.0_f32; count];
        kind.decode(bytes, &mut values)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let found = format!("NaN or an infinity at element {at}");
            let what = format!("tensor `{}`", tensor.name());
            return Err(Error::invalid_model(name, what, "finite values", found));
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    };
    result.map_err(|error| Error::engine(format!("reading tensor `{}`", tensor.name()), error))
}

/// `B` with the rows of each head in halves instead of interleaved: row
/// `2i + j` of a head of `n` goes to `j * n/2 + i`.
fn in_halves(file: &str, name: &str, b: &Tensor, heads: usize) -> Result<Tensor> {
    let invalid = || {
        let expected = format!("an even number of rows for each of {heads} heads");
        let found = format!("shape {:?}", b.dims());
        Error::invalid_model(file, format!("tensor `{name}`"), expected, found)
    };
    let [rows, rank] = *b.dims() else { return Err(invalid()) };
    let head = rows.checked_div(heads).unwrap_or(0);
    if head * heads != rows || !head.is_multiple_of(2) || head == 0 {
        return Err(invalid());
    }
    b.reshape((heads, head / 2, 2, rank))
        .and_then(|b| b.transpose(1, 2))
        .and_then(|b| b.reshape((rows, rank)))
        .map_err(|error| Error::engine(format!("ordering tensor `{name}`"), error))
}
