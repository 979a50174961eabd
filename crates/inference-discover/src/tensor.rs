//! A tensor as the header of its file describes it.

/// A tensor as the header of its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredTensor {
    /// The name.
    pub name: String,
    /// The type in the file's own words, for example `BF16` or `Q4_K`.
    pub dtype: String,
    /// The shape, outermost dimension first (`[out, in]` for a matrix).
    pub shape: Vec<u64>,
    /// Bytes of data.
    pub bytes: u64,
}

impl StoredTensor {
    /// Number of elements, as stored: packed ones count once.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, dim| product.saturating_mul(*dim))
    }
}

/// The type that most bytes of the tensors are stored in.
pub(crate) fn main_type(tensors: &[StoredTensor]) -> Option<&str> {
    let mut bytes: Vec<(&str, u64)> = Vec::new();
    for tensor in tensors {
        match bytes.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
            Some((_, sum)) => *sum += tensor.bytes,
            None => bytes.push((&tensor.dtype, tensor.bytes)),
        }
    }
    // Among equals the first one stays.
    bytes.into_iter().rev().max_by_key(|(_, sum)| *sum).map(|(dtype, _)| dtype)
}
