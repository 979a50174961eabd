//! The header of one file: version, counts, metadata, tensors, and where the
//! data begins.
//!
//! The format is described in ggml's `docs/gguf.md`.

use inference_core::{Error, Result};

use crate::cursor::Cursor;
use crate::{FileBytes, Metadata, TensorInfo, TensorType, limits};

/// What data is aligned to where `general.alignment` does not say it.
const DEFAULT_ALIGNMENT: usize = 32;

/// The least bytes of a pair: an empty key, the type and one byte.
const PAIR_BYTES: usize = 13;

/// The parsed and checked header of one file.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header in `bytes`, which is part `part` of a model.
    pub(crate) fn read(
        file: &str,
        bytes: &FileBytes,
        part: usize,
        names: &mut limits::Names,
    ) -> Result<Self> {
        let data = (**bytes).as_ref();
        let mut cursor = Cursor::new(file, data, 0);
        read_version(&mut cursor)?;
        // The counts stand side by side before what they count.
        let tensor_count =
            cursor.count(TensorInfo::LEAST_BYTES, limits::TENSORS, "number of tensors")?;
        let key_count = cursor.count(PAIR_BYTES, limits::KEYS, "number of keys")?;
        let metadata = Metadata::read(file, bytes, &mut cursor, key_count, names)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = Vec::with_capacity(tensor_count);
        for number in 0..tensor_count {
            tensors.push(TensorInfo::read(&mut cursor, part, number, names)?);
        }
        // Files that hold a vocabulary alone may end with the header.
        let start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        place(file, &mut tensors, start, data.len(), alignment)?;
        Ok(Self { metadata, tensors })
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<()> {
    let file = cursor.file;
    let magic = cursor.chunk::<4>(|| "magic number".to_owned())?;
    let big_endian =
        || Err(Error::unsupported_model(file, "byte order", "big-endian", "little-endian"));
    if &magic == b"FUGG" {
        return big_endian();
    }
    if &magic != b"GGUF" {
        let found = format!("`{}`", magic.escape_ascii());
        return Err(Error::invalid_model(file, "magic number", "`GGUF`", found));
    }
    let version = cursor.u32(|| "version".to_owned())?;
    match version {
        2 | 3 => Ok(()),
        // A small number with its bytes swapped.
        swapped if swapped != 0 && swapped.trailing_zeros() >= 16 => big_endian(),
        other => Err(Error::unsupported_model(file, "GGUF version", other.to_string(), "2, 3")),
    }
}

fn alignment(metadata: &Metadata) -> Result<usize> {
    const KEY: &str = "general.alignment";
    match metadata.size(KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() => Ok(alignment),
        Some(other) => Err(metadata.invalid(KEY, "a power of two", other.to_string())),
    }
}

/// Makes the tensors' ranges those in the file, and checks that they lie in
/// it, are aligned, and share no byte.
fn place(
    file: &str,
    tensors: &mut [TensorInfo],
    start: usize,
    file_len: usize,
    alignment: usize,
) -> Result<()> {
    for tensor in &mut *tensors {
        let range = &mut tensor.range;
        let what = || format!("data of tensor `{}`", tensor.name);
        if !range.start.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(Error::invalid_model(file, what(), expected, range.start.to_string()));
        }
        if matches!(tensor.kind, TensorType::Unknown(_)) {
            *range = 0..0;
            continue;
        }
        let end = range.end.checked_add(start).filter(|end| *end <= file_len);
        if let Some(end) = end {
            *range = range.start + start..end;
        } else if range.start >= range.end {
            *range = 0..0;
        } else {
            let len = range.len();
            let expected =
                format!("{len} bytes from byte {} on", range.start as u128 + start as u128);
            return Err(Error::invalid_model(
                file,
                what(),
                expected,
                format!("a file of {file_len} bytes"),
            ));
        }
    }
    let mut order: Vec<&TensorInfo> =
        tensors.iter().filter(|tensor| tensor.byte_len() > 0).collect();
    order.sort_unstable_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if let [first, second] = pair
            && first.range.end > second.range.start
        {
            return Err(Error::invalid_model(
                file,
                format!("data of tensor `{}`", second.name),
                format!("behind that of `{}`", first.name),
                "overlapping bytes",
            ));
        }
    }
    Ok(())
}
