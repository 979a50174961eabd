//! The affine map on ggml's blocks, by Candle's kernels.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use inference_core::{Error, Result};
use inference_gguf::BlockType;

use crate::{Linear, Weight};

/// An affine map whose weight is a quantized tensor of Candle's. On the CPU
/// its kernels quantize activations to 8 bits, as llama.cpp's do.
pub(super) struct QuantizedLinear {
    name: String,
    shape: [usize; 2],
    weight: QMatMul,
    kind: BlockType,
    /// `[out]`, f32.
    bias: Option<Tensor>,
}

impl QuantizedLinear {
    /// The map; `None` where Candle has no kernel for the type.
    pub(super) fn new(
        device: &Device,
        weight: &Weight,
        kind: BlockType,
        bias: Option<Tensor>,
    ) -> Result<Option<Self>> {
        let (Some(dtype), Some(bytes), &[out, inner]) =
            (candle_type(kind), weight.bytes(), weight.shape())
        else {
            return Ok(None);
        };
        // Candle reads blocks where they lie and panics on odd addresses.
        if bytes.as_ptr().align_offset(size_of::<half::f16>()) != 0 || out == 0 || inner == 0 {
            return Ok(None);
        }
        let error = |e| Error::engine(format!("uploading tensor `{}`", weight.name()), e);
        let storage = QStorage::from_data(Cow::Borrowed(bytes), device, dtype).map_err(error)?;
        let tensor = QTensor::new(storage, (out, inner)).map_err(error)?;
        let name = weight.name().to_owned();
        let weight = QMatMul::QTensor(Arc::new(tensor));
        Ok(Some(Self { name, shape: [out, inner], weight, kind, bias }))
    }
}

/// Candle's name of a type.
fn candle_type(kind: BlockType) -> Option<GgmlDType> {
    Some(match kind {
        BlockType::Q4_0 => GgmlDType::Q4_0,
        BlockType::Q4_1 => GgmlDType::Q4_1,
        BlockType::Q5_0 => GgmlDType::Q5_0,
        BlockType::Q5_1 => GgmlDType::Q5_1,
        BlockType::Q8_0 => GgmlDType::Q8_0,
        BlockType::Q2K => GgmlDType::Q2K,
        BlockType::Q3K => GgmlDType::Q3K,
        BlockType::Q4K => GgmlDType::Q4K,
        BlockType::Q5K => GgmlDType::Q5K,
        BlockType::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

impl Linear for QuantizedLinear {
    fn in_features(&self) -> usize {
        self.shape[1]
    }

    fn out_features(&self) -> usize {
        self.shape[0]
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let error = |e| Error::engine(format!("linear `{}`", self.name), e);
        let y = self.weight.forward(&x.contiguous().map_err(error)?).map_err(error)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias).map_err(error),
            None => Ok(y),
        }
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let error = |e| Error::engine(format!("rows of `{}`", self.name), e);
        let [_, inner] = self.shape;
        let (row, count) = (self.kind.row_bytes(inner), out.len() / inner);
        let bytes = match &self.weight {
            QMatMul::QTensor(tensor) => tensor.data().map_err(error)?,
            QMatMul::Tensor(_) | QMatMul::TensorF16(_) => Cow::Borrowed(&[][..]),
        };
        let rows = row.and_then(|row| bytes.get(first * row..(first + count) * row));
        match rows {
            Some(rows) => self.kind.decode(rows, out),
            None => Err(Error::engine_message(format!("{count} rows from {first} of {self:?}"))),
        }
    }

    fn bias(&self) -> Option<Tensor> {
        self.bias.clone()
    }
}

impl fmt::Debug for QuantizedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantizedLinear({} {:?})", self.name, self.shape)
    }
}
