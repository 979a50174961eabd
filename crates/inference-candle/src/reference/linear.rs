//! The affine map on dense and on quantized weights.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use inference_core::{Error, Precision, Result};

use super::context;
use super::quantized_linear::QuantizedLinear;
use crate::{Linear, Weight, WeightType};

/// Elements of a narrow or quantized weight that are widened at a time.
const WIDEN_BLOCK: usize = 1 << 20;

/// A dense affine map whose weight stays in its stored type on the device.
pub struct DenseLinear {
    name: String,
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`, f32.
    bias: Option<Tensor>,
}

/// The affine map `x · Wᵀ + b` of an `[out, in]` weight and an `[out]` bias.
///
/// A weight of ggml's blocks is computed by Candle's kernel for its type, if
/// there is one and `precision` is not exact; any other quantized weight is
/// decoded a bounded block of rows at a time.
///
/// # Errors
///
/// [`ErrorKind::InvalidModel`](inference_core::ErrorKind::InvalidModel) for
/// shapes that do not fit or a dense type other than f32, f16 and bf16;
/// [`ErrorKind::Engine`](inference_core::ErrorKind::Engine) where the device
/// refuses.
pub fn linear(
    device: &Device,
    weight: &Weight,
    bias: Option<&Weight>,
    precision: Precision,
) -> Result<Arc<dyn Linear>> {
    let &[out, _] = weight.shape() else {
        return Err(misfit(weight, "a matrix [out, in]"));
    };
    for weight in [Some(weight), bias].into_iter().flatten() {
        if let WeightType::Dense(dtype) = weight.kind()
            && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        {
            return Err(misfit(weight, "f32, f16 or bf16"));
        }
    }
    if let Some(bias) = bias.filter(|bias| bias.shape() != [out]) {
        return Err(misfit(bias, &format!("shape [{out}]")));
    }
    let bias = match bias {
        Some(bias) => {
            Some(bias.to_tensor(device)?.to_dtype(DType::F32).map_err(context("widening a bias"))?)
        }
        None => None,
    };
    if let (WeightType::Blocks(kind), Precision::Fast) = (weight.kind(), precision)
        && let Some(fast) = QuantizedLinear::new(device, weight, kind, bias.clone())?
    {
        return Ok(Arc::new(fast));
    }
    if !matches!(weight.kind(), WeightType::Dense(_)) {
        let (weight, device) = (weight.clone(), device.clone());
        return Ok(Arc::new(DecodedLinear { weight, bias, device }));
    }
    let name = weight.name().to_owned();
    Ok(Arc::new(DenseLinear { name, weight: weight.to_tensor(device)?, bias }))
}

fn misfit(weight: &Weight, expected: &str) -> Error {
    let found = format!("{} {:?}", weight.kind(), weight.shape());
    Error::invalid_model("weights", format!("tensor `{}`", weight.name()), expected, found)
}

impl DenseLinear {
    fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        let y = if self.weight.dtype() == DType::F32 {
            x.matmul(&self.weight.t()?)?
        } else {
            let (out, inner) = self.weight.dims2()?;
            let rows = (WIDEN_BLOCK / inner.max(1)).clamp(1, out.max(1));
            let block = |start: usize| -> CandleResult<Tensor> {
                let block = self.weight.narrow(0, start, rows.min(out - start))?;
                x.matmul(&block.to_dtype(DType::F32)?.t()?)
            };
            let blocks = (0..out).step_by(rows).map(block).collect::<CandleResult<Vec<_>>>()?;
            match blocks.as_slice() {
                [one] => one.clone(),
                _ => Tensor::cat(&blocks, 1)?,
            }
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Linear for DenseLinear {
    fn in_features(&self) -> usize {
        self.weight.dims().last().copied().unwrap_or_default()
    }

    fn out_features(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or_default()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x).map_err(|e| Error::engine(format!("linear `{}`", self.name), e))
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let rows = out.len() / self.in_features().max(1);
        let read = || -> CandleResult<Vec<f32>> {
            let rows = self.weight.narrow(0, first, rows)?;
            rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
        };
        let values = read().map_err(|e| Error::engine(format!("rows of `{}`", self.name), e))?;
        out.copy_from_slice(&values);
        Ok(())
    }

    fn bias(&self) -> Option<Tensor> {
        self.bias.clone()
    }
}

impl fmt::Debug for DenseLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DenseLinear({} {:?})", self.name, self.weight.shape())
    }
}

/// An affine map whose weight stays quantized: a block of rows is decoded at
/// a time, on the host, for every call.
struct DecodedLinear {
    /// `[out, in]`.
    weight: Weight,
    /// `[out]`, f32.
    bias: Option<Tensor>,
    device: Device,
}

impl Linear for DecodedLinear {
    fn in_features(&self) -> usize {
        self.weight.columns()
    }

    fn out_features(&self) -> usize {
        self.weight.rows()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let error = |e| Error::engine(format!("linear `{}`", self.weight.name()), e);
        let (out, inner) = (self.weight.rows(), self.weight.columns());
        let rows = (WIDEN_BLOCK / inner.max(1)).clamp(1, out.max(1));
        let mut blocks = Vec::with_capacity(out.div_ceil(rows));
        for start in (0..out).step_by(rows) {
            let count = rows.min(out - start);
            let mut values = vec![0.0; count * inner];
            self.weight.decode_rows(start, &mut values)?;
            let product = Tensor::from_vec(values, (count, inner), &self.device)
                .and_then(|block| x.matmul(&block.t()?));
            blocks.push(product.map_err(error)?);
        }
        let y = match blocks.as_slice() {
            [one] => one.clone(),
            _ => Tensor::cat(&blocks, 1).map_err(error)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias).map_err(error),
            None => Ok(y),
        }
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        self.weight.decode_rows(first, out)
    }

    fn bias(&self) -> Option<Tensor> {
        self.bias.clone()
    }
}

impl fmt::Debug for DecodedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecodedLinear({:?})", self.weight)
    }
}
