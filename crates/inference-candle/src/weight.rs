//! Weights as they are stored: mapped or embedded bytes with a type and shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use inference_core::{Error, Quantization, Result};
use inference_gguf::{BlockType, MappedFile};

/// The bytes of a weight file: a memory map, or a binary's own static data.
pub type WeightBytes = inference_gguf::FileBytes;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightType {
    /// Elements one by one: f32, f16 or bf16.
    Dense(DType),
    /// Rows of ggml's blocks.
    Blocks(BlockType),
    /// Rows that only their [`RowCodec`] can read; its name.
    Coded(&'static str),
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => f.write_str(dtype.as_str()),
            Self::Blocks(kind) => f.write_str(&kind.as_str().to_ascii_lowercase()),
            Self::Coded(name) => f.write_str(name),
        }
    }
}

/// A matrix `[rows, columns]` in a compressed form that is neither dense nor
/// made of ggml's blocks (GPTQ, AWQ, MLX, FP8), decoded row by row.
pub trait RowCodec: Send + Sync + fmt::Debug {
    /// The form's name, for example `gptq-int4`.
    fn name(&self) -> &'static str;

    /// Rows and columns.
    fn shape(&self) -> [usize; 2];

    /// Bytes as stored, scales included.
    fn stored_bytes(&self) -> u64;

    /// Bits per element and elements per scale.
    fn quantization(&self) -> Quantization;

    /// Writes the rows from `first` on, decoded to f32, over all of `out`
    /// (`[n, columns]`); rows are in range.
    fn decode_rows(&self, first: usize, out: &mut [f32]);
}

/// A stored weight: type, shape and bytes, shared and never widened.
///
/// Cloning shares the bytes. The bytes of a dense weight begin at an address
/// that is aligned to its element size.
#[derive(Clone)]
pub struct Weight {
    name: Arc<str>,
    shape: Vec<usize>,
    kind: WeightType,
    data: WeightData,
}

#[derive(Clone)]
enum WeightData {
    /// Little-endian elements or blocks in row-major order.
    Stored {
        bytes: WeightBytes,
        range: Range<usize>,
        /// The same bytes, where they are a map of a file.
        map: Option<Arc<MappedFile>>,
    },
    /// The rows of a codec from the given one on.
    Coded { codec: Arc<dyn RowCodec>, first: usize },
    /// A tensor that somebody else owns, such as a variable under training.
    Tensor(Tensor),
}

impl Weight {
    /// A weight in stored bytes; a row (the last dimension) is a whole number
    /// of blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel)
    /// where range, type and shape do not agree, or the bytes are misaligned.
    pub fn stored(
        name: impl Into<Arc<str>>,
        shape: Vec<usize>,
        kind: WeightType,
        bytes: WeightBytes,
        range: Range<usize>,
    ) -> Result<Self> {
        let name = name.into();
        let invalid = |expected: String, found: String| {
            Err(Error::invalid_model("weights", format!("tensor `{name}`"), expected, found))
        };
        let columns = shape.last().copied().unwrap_or(1);
        let (row, align) = match kind {
            WeightType::Dense(dtype) => {
                (columns.checked_mul(dtype.size_in_bytes()), dtype.size_in_bytes())
            }
            WeightType::Blocks(kind) => (kind.row_bytes(columns), 1),
            WeightType::Coded(_) => (None, 1),
        };
        let rows = shape.iter().rev().skip(1).try_fold(1_usize, |n, dim| n.checked_mul(*dim));
        let size = row.zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
        if size != Some(range.len()) {
            let size = size.map_or_else(|| "another number of".to_owned(), |size| size.to_string());
            let expected = format!("{size} bytes for {kind} {shape:?}");
            return invalid(expected, range.len().to_string());
        }
        let total = (*bytes).as_ref().len();
        let Some(slice) = (*bytes).as_ref().get(range.clone()) else {
            return invalid(format!("bytes {range:?}"), format!("a file of {total} bytes"));
        };
        if slice.as_ptr().align_offset(align) != 0 {
            return invalid(format!("data aligned to {kind}"), "misaligned data".to_owned());
        }
        Ok(Self { name, shape, kind, data: WeightData::Stored { bytes, range, map: None } })
    }

    /// The weight, whose bytes are `map`'s where their addresses say so: its
    /// pages can be [released](Self::release_pages).
    #[must_use]
    pub fn with_map(mut self, mapped: Option<&Arc<MappedFile>>) -> Self {
        if let (WeightData::Stored { bytes, map, .. }, Some(mapped)) = (&mut self.data, mapped) {
            let same = std::ptr::eq((**bytes).as_ref(), (**mapped).as_ref());
            *map = same.then(|| Arc::clone(mapped));
        }
        self
    }

    /// Gives the pages of mapped bytes back to the operating system, once they
    /// were packed or copied. What is read later is read from the file again.
    pub fn release_pages(&self) {
        if let WeightData::Stored { range, map: Some(map), .. } = &self.data {
            map.release_range(range.clone());
        }
    }

    /// A weight that a codec decodes.
    #[must_use]
    pub fn coded(name: impl Into<Arc<str>>, codec: Arc<dyn RowCodec>) -> Self {
        Self {
            name: name.into(),
            shape: codec.shape().to_vec(),
            kind: WeightType::Coded(codec.name()),
            data: WeightData::Coded { codec, first: 0 },
        }
    }

    /// A weight that is a tensor, such as a variable under training: what is
    /// computed from it can be differentiated with respect to it.
    #[must_use]
    pub fn from_tensor(name: impl Into<Arc<str>>, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            shape: tensor.dims().to_vec(),
            kind: WeightType::Dense(tensor.dtype()),
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

    /// How it is stored.
    #[must_use]
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Number of elements.
    #[must_use]
    pub fn elem_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of a row, the last dimension.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the last.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes as stored; for a tensor those of its elements.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        match &self.data {
            WeightData::Stored { range, .. } => range.len() as u64,
            WeightData::Coded { codec, .. } => {
                let [rows, _] = codec.shape();
                codec.stored_bytes().checked_div(rows as u64).unwrap_or(0) * self.rows() as u64
            }
            WeightData::Tensor(tensor) => {
                (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
            }
        }
    }

    /// Bits per weight and weights per scale, where it is quantized.
    #[must_use]
    pub fn quantization(&self) -> Option<Quantization> {
        match (self.kind, &self.data) {
            (_, WeightData::Coded { codec, .. }) => Some(codec.quantization()),
            (WeightType::Blocks(kind), _) => kind.quantization(),
            _ => None,
        }
    }

    /// The stored little-endian bytes, row-major; `None` for a tensor and for
    /// a codec's rows.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.data {
            // In range: checked by `stored`.
            WeightData::Stored { bytes, range, .. } => (**bytes).as_ref().get(range.clone()),
            WeightData::Coded { .. } | WeightData::Tensor(_) => None,
        }
    }

    /// The tensor, where the weight is one.
    #[must_use]
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match &self.data {
            WeightData::Tensor(tensor) => Some(tensor),
            WeightData::Stored { .. } | WeightData::Coded { .. } => None,
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
            WeightData::Stored { bytes, range, map } => {
                let row = range.len().checked_div(total).unwrap_or(0);
                let start = range.start + rows.start * row;
                let range = start..start + rows.len() * row;
                WeightData::Stored { bytes: Arc::clone(bytes), range, map: map.clone() }
            }
            WeightData::Coded { codec, first } => {
                WeightData::Coded { codec: Arc::clone(codec), first: first + rows.start }
            }
            WeightData::Tensor(tensor) => WeightData::Tensor(
                tensor
                    .narrow(0, rows.start, rows.len())
                    .map_err(|e| Error::engine(format!("narrowing `{}`", self.name), e))?,
            ),
        };
        Ok(Self { name: Arc::clone(&self.name), shape, kind: self.kind, data })
    }

    /// Entry `index` of the first dimension, which is dropped from the shape,
    /// sharing the bytes: one expert of a stacked tensor.
    ///
    /// # Errors
    ///
    /// As [`narrow_rows`](Self::narrow_rows).
    pub fn index_first(&self, index: usize) -> Result<Self> {
        let mut entry = self.narrow_rows(index..index.saturating_add(1))?;
        entry.shape.remove(0);
        if let WeightData::Tensor(tensor) = &mut entry.data {
            let squeezed = tensor.squeeze(0);
            *tensor =
                squeezed.map_err(|e| Error::engine(format!("expert of `{}`", self.name), e))?;
        }
        Ok(entry)
    }

    /// Writes the rows from `first` on, widened or decoded to f32, over all of
    /// `out`, which holds whole rows of [`columns`](Self::columns) elements.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where `out` is
    /// not whole rows that exist, or the weight is a tensor.
    pub fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let columns = self.columns().max(1);
        let count = out.len() / columns;
        let fits = first.checked_add(count).is_some_and(|end| end <= self.rows());
        if !fits || count * columns != out.len() {
            return Err(Error::engine_message(format!(
                "{} values from row {first} on of {self:?}",
                out.len()
            )));
        }
        let rows = || {
            let row = self.bytes()?.len().checked_div(self.rows())?;
            self.bytes()?.get(first * row..(first + count) * row)
        };
        match (&self.data, self.kind) {
            (WeightData::Coded { codec, first: start }, _) => {
                codec.decode_rows(start + first, out);
                Ok(())
            }
            (WeightData::Stored { .. }, WeightType::Blocks(kind)) => {
                kind.decode(rows().unwrap_or_default(), out)
            }
            (WeightData::Stored { .. }, WeightType::Dense(dtype)) => {
                let kind = match dtype {
                    DType::F32 => BlockType::F32,
                    DType::F16 => BlockType::F16,
                    DType::BF16 => BlockType::Bf16,
                    _ => return Err(Error::engine_message(format!("decoding {self:?}"))),
                };
                kind.decode(rows().unwrap_or_default(), out)
            }
            _ => Err(Error::engine_message(format!("decoding the tensor {self:?}"))),
        }
    }

    /// The weight as a tensor on `device`: of its stored type where it is
    /// dense, decoded to f32 where it is not (for small weights: nothing
    /// dequantizes a matrix this way). For a weight that is a tensor: that
    /// tensor itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the
    /// device refuses.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let result = match (&self.data, self.kind) {
            (WeightData::Tensor(tensor), _) => Ok(tensor.clone()),
            (WeightData::Stored { .. }, WeightType::Dense(dtype)) => {
                let bytes = self.bytes().unwrap_or_default();
                Tensor::from_raw_buffer(bytes, dtype, &self.shape, device)
            }
            _ => {
                let mut values = vec![0.0; self.elem_count()];
                self.decode_rows(0, &mut values)?;
                Tensor::from_vec(values, self.shape.as_slice(), device)
            }
        };
        result.map_err(|e| Error::engine(format!("uploading tensor `{}`", self.name), e))
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({} {} {:?})", self.name, self.kind, self.shape)
    }
}
