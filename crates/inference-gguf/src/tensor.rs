//! One tensor of a file, as its header describes it.

use crate::TensorType;

/// A tensor's name, shape and type; where its data lies has been checked.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: TensorType,
    /// Index of the file among the parts of a split model.
    pub(crate) part: usize,
    /// Bytes in that file; empty for an unknown type.
    pub(crate) range: std::ops::Range<usize>,
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
        self.shape.iter().map(|dim| *dim as u64).product()
    }

    /// Bytes of data; 0 for an unknown type.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.range.len() as u64
    }
}
