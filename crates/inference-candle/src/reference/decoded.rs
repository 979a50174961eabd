//! What any map computes from its weight's rows, a block of them at a time.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use inference_core::{Error, Result};

use crate::Linear;

/// Elements of a weight that are decoded at a time.
const DECODE_BLOCK: usize = 1 << 22;

fn error(error: candle_core::Error) -> Error {
    Error::engine("a decoded weight", error)
}

/// Calls `each` with blocks of the weight's rows, `[rows, in]`, and their first.
fn blocks<L: Linear + ?Sized>(
    map: &L,
    mut each: impl FnMut(usize, Tensor) -> CandleResult<()>,
) -> Result<()> {
    let (out, inner) = (map.out_features(), map.in_features());
    let rows = (DECODE_BLOCK / inner.max(1)).clamp(1, out.max(1));
    for start in (0..out).step_by(rows) {
        let count = rows.min(out - start);
        let mut values = vec![0.0; count * inner];
        map.decode_rows(start, &mut values)?;
        Tensor::from_vec(values, (count, inner), &Device::Cpu)
            .and_then(|block| each(start, block))
            .map_err(error)?;
    }
    Ok(())
}

/// The rows that `x` and `y` have.
fn rows(x: &[f32], width: usize, y: &[f32], height: usize) -> Result<usize> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    if x.len() != rows * width || y.len() != rows * height {
        let found = format!("{} values to {}", x.len(), y.len());
        return Err(Error::engine_message(format!("{found} of a map {width} -> {height}")));
    }
    Ok(rows)
}

/// `x · Wᵀ + b` in f32, over all of `out`.
///
/// # Errors
///
/// As [`Linear::forward_exact`].
pub fn forward_exact<L: Linear + ?Sized>(map: &L, x: &[f32], out: &mut [f32]) -> Result<()> {
    let (inputs, outputs) = (map.in_features(), map.out_features());
    let rows = rows(x, inputs, out, outputs)?;
    let x = Tensor::from_slice(x, (rows, inputs), &Device::Cpu).map_err(error)?;
    blocks(map, |start, block| {
        let product = x.matmul(&block.t()?)?.to_vec2::<f32>()?;
        for (to, from) in out.chunks_exact_mut(outputs).zip(&product) {
            to.iter_mut().skip(start).zip(from).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    })?;
    if let Some(bias) = map.bias() {
        let bias = bias.to_dtype(DType::F32).and_then(|bias| bias.to_vec1::<f32>());
        let bias = bias.map_err(error)?;
        for row in out.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&bias).for_each(|(to, bias)| *to += bias);
        }
    }
    Ok(())
}

/// `g · W` in f32, over all of `out`.
///
/// # Errors
///
/// As [`Linear::input_gradient`].
pub fn input_gradient<L: Linear + ?Sized>(
    map: &L,
    gradient: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let (inputs, outputs) = (map.in_features(), map.out_features());
    let rows = rows(gradient, outputs, out, inputs)?;
    let gradient = Tensor::from_slice(gradient, (rows, outputs), &Device::Cpu).map_err(error)?;
    out.fill(0.0);
    blocks(map, |start, block| {
        let part = gradient.narrow(1, start, block.dim(0)?)?.contiguous()?.matmul(&block)?;
        let part = part.flatten_all()?.to_vec1::<f32>()?;
        out.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
        Ok(())
    })
}
