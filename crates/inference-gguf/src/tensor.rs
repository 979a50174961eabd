//! One tensor of a file, as its header describes it.

use std::ops::Range;
use std::sync::Arc;

use inference_core::{Error, Result};

use crate::cursor::{Cursor, utf8};
use crate::{BlockType, TensorType, limits};

/// A tensor's name, shape and type; where its data lies has been checked.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub(crate) name: Arc<str>,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: TensorType,
    /// Index of the file among the parts of a split model.
    pub(crate) part: usize,
    /// Bytes in that file; empty for an unknown type.
    pub(crate) range: Range<usize>,
}

impl TensorInfo {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape, outermost dimension first (`[out, in]` for a matrix): the
    /// reverse of the order in the file.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of its data.
    #[must_use]
    pub fn kind(&self) -> TensorType {
        self.kind
    }

    /// Number of elements.
    #[must_use]
    pub fn elem_count(&self) -> u64 {
        // No overflow: checked when it was read.
        self.shape.iter().map(|dim| *dim as u64).product()
    }

    /// Bytes of data; 0 for an unknown type.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.range.len() as u64
    }

    /// Index of its file among the parts of a split model, from 0 on.
    #[must_use]
    pub fn part(&self) -> usize {
        self.part
    }

    /// Bytes of a tensor in the header: at least those of an empty name, the
    /// number of dimensions, the type and the offset.
    pub(crate) const LEAST_BYTES: usize = 24;

    /// Reads one; the range is still relative to the data's begin.
    pub(crate) fn read(
        cursor: &mut Cursor<'_>,
        part: usize,
        number: usize,
        names: &mut limits::Names,
    ) -> Result<Self> {
        let file = cursor.file;
        let what = || format!("name of tensor {}", number + 1);
        let name = cursor.text_bytes(what)?;
        names.add(file, name, what)?;
        let name: Arc<str> = utf8(file, name, what)?.into();
        let of = |field: &str| format!("{field} of tensor `{name}`");
        let dimensions = cursor.u32(|| of("dimensions"))?;
        if dimensions > limits::DIMENSIONS {
            let expected = format!("at most {}", limits::DIMENSIONS);
            return Err(Error::invalid_model(
                file,
                of("dimensions"),
                expected,
                dimensions.to_string(),
            ));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        let mut count = Some(1_usize);
        for _ in 0..dimensions {
            let dim = cursor.u64(|| of("shape"))?;
            let dim = usize::try_from(dim).map_err(|_| {
                Error::invalid_model(file, of("shape"), "sizes that fit memory", dim.to_string())
            })?;
            // Every partial product counts: a zero must not hide an overflow.
            count = count.and_then(|count| count.checked_mul(dim.max(1)));
            shape.push(dim);
        }
        if count.is_none() {
            let (expected, found) = (format!("at most {} elements", usize::MAX), "more");
            return Err(Error::invalid_model(file, of("shape"), expected, found));
        }
        let id = cursor.u32(|| of("type"))?;
        let offset = cursor.u64(|| of("offset"))?;
        let offset = usize::try_from(offset).map_err(|_| {
            Error::invalid_model(file, of("offset"), "one within the file", offset.to_string())
        })?;
        let columns = shape.first().copied().unwrap_or(1);
        shape.reverse();
        let Some(kind) = BlockType::from_id(id) else {
            let kind = TensorType::Unknown(id);
            return Ok(Self { name, shape, kind, part, range: offset..offset });
        };
        let rows: usize = shape.iter().rev().skip(1).product();
        let row = kind.row_bytes(columns).ok_or_else(|| {
            let expected = format!("rows of whole {kind} blocks of {}", kind.block_values());
            Error::invalid_model(file, of("shape"), expected, format!("{shape:?}"))
        })?;
        let end = row.checked_mul(rows).and_then(|bytes| offset.checked_add(bytes));
        let end = end.ok_or_else(|| {
            let expected = "one within the file";
            Error::invalid_model(file, of("offset"), expected, offset.to_string())
        })?;
        Ok(Self { name, shape, kind: TensorType::Known(kind), part, range: offset..end })
    }
}
