//! Weights as they are stored: mapped or embedded bytes with a type and shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_core::{Error, Result};

/// The bytes of a weight file: a memory map, or a binary's own static data.
pub type WeightBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A stored weight: type, shape and bytes, shared and never widened.
///
/// Cloning shares the bytes. The bytes of a stored weight begin at an address
/// that is aligned to its element size.
#[derive(Clone)]
pub struct Weight {
    name: Arc<str>,
    shape: Vec<usize>,
    dtype: DType,
    data: WeightData,
}

#[derive(Clone)]
enum WeightData {
    /// Little-endian elements in row-major order.
    Stored { bytes: WeightBytes, range: Range<usize> },
    /// A tensor that somebody else owns, such as a variable under training.
    Tensor(Tensor),
}

impl Weight {
    /// A weight in stored bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where range, type and shape do not agree, or the bytes are misaligned.
    pub fn stored(
        name: impl Into<Arc<str>>,
        shape: Vec<usize>,
        dtype: DType,
        bytes: WeightBytes,
        range: Range<usize>,
    ) -> Result<Self> {
        let name = name.into();
        let invalid = |expected: String, found: String| {
            Err(Error::invalid_model("weights", format!("tensor `{name}`"), expected, found))
        };
        let size = shape.iter().try_fold(dtype.size_in_bytes(), |n, dim| n.checked_mul(*dim));
        if size != Some(range.len()) {
            return invalid(
                format!("{size:?} bytes for {dtype:?} {shape:?}"),
                range.len().to_string(),
            );
        }
        let total = (*bytes).as_ref().len();
        let Some(slice) = (*bytes).as_ref().get(range.clone()) else {
            return invalid(format!("bytes {range:?}"), format!("a file of {total} bytes"));
        };
        if slice.as_ptr().align_offset(dtype.size_in_bytes()) != 0 {
            return invalid(format!("data aligned to {dtype:?}"), "misaligned data".to_owned());
        }
        Ok(Self { name, shape, dtype, data: WeightData::Stored { bytes, range } })
    }

    /// A weight that is a tensor, such as a variable under training: what is
    /// computed from it can be differentiated with respect to it.
    #[must_use]
    pub fn from_tensor(name: impl Into<Arc<str>>, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            shape: tensor.dims().to_vec(),
            dtype: tensor.dtype(),
            data: WeightData::Tensor(tensor),
        }
    }

    /// The tensor's name in the model's files.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The stored type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    #[must_use]
    pub fn elem_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The stored little-endian bytes, row-major; `None` for a tensor.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.data {
            // In range: checked by `stored`.
            WeightData::Stored { bytes, range } => (**bytes).as_ref().get(range.clone()),
            WeightData::Tensor(_) => None,
        }
    }

    /// The rows `range` of the first dimension, sharing the bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where there are not as many rows.
    pub fn narrow_rows(&self, rows: Range<usize>) -> Result<Self> {
        let total = self.shape.first().copied().unwrap_or(0);
        if rows.start > rows.end || rows.end > total {
            return Err(Error::invalid_model(
                "weights",
                format!("tensor `{}`", self.name),
                format!("at least {} rows", rows.end),
                format!("shape {:?}", self.shape),
            ));
        }
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let data = match &self.data {
            WeightData::Stored { bytes, range } => {
                let row = range.len().checked_div(total).unwrap_or(0);
                let start = range.start + rows.start * row;
                let range = start..start + rows.len() * row;
                WeightData::Stored { bytes: Arc::clone(bytes), range }
            }
            WeightData::Tensor(tensor) => WeightData::Tensor(
                tensor
                    .narrow(0, rows.start, rows.len())
                    .map_err(|e| Error::engine(format!("narrowing `{}`", self.name), e))?,
            ),
        };
        Ok(Self { name: Arc::clone(&self.name), shape, dtype: self.dtype, data })
    }

    /// The weight as a tensor of its stored type on `device`. For a weight
    /// that is a tensor: that tensor itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the
    /// device refuses.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let result = match &self.data {
            WeightData::Tensor(tensor) => Ok(tensor.clone()),
            WeightData::Stored { .. } => {
                let bytes = self.bytes().unwrap_or_default();
                Tensor::from_raw_buffer(bytes, self.dtype, &self.shape, device)
            }
        };
        result.map_err(|e| Error::engine(format!("uploading tensor `{}`", self.name), e))
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({} {:?} {:?})", self.name, self.dtype, self.shape)
    }
}
