//! What any map computes from its weight's rows, a block of them at a time.

use candle_core::Tensor;
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
    x: &Tensor,
    mut each: impl FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    let (out, inner) = (map.out_features(), map.in_features());
    let rows = (DECODE_BLOCK / inner.max(1)).clamp(1, out.max(1));
    for start in (0..out).step_by(rows) {
        let count = rows.min(out - start);
        let mut values = vec![0.0; count * inner];
        map.decode_rows(start, &mut values)?;
        each(start, Tensor::from_vec(values, (count, inner), x.device()).map_err(error)?)?;
    }
    Ok(())
}

/// `x · Wᵀ + b` in f32.
///
/// # Errors
///
/// As [`Linear::forward_exact`].
pub fn forward_exact<L: Linear + ?Sized>(map: &L, x: &Tensor) -> Result<Tensor> {
    let mut products = Vec::new();
    blocks(map, x, |_, block| {
        products.push(block.t().and_then(|block| x.matmul(&block)).map_err(error)?);
        Ok(())
    })?;
    let y = match products.as_slice() {
        [one] => one.clone(),
        _ => Tensor::cat(&products, 1).map_err(error)?,
    };
    match map.bias() {
        Some(bias) => y.broadcast_add(&bias).map_err(error),
        None => Ok(y),
    }
}

/// `g · W` in f32.
///
/// # Errors
///
/// As [`Linear::input_gradient`].
pub fn input_gradient<L: Linear + ?Sized>(map: &L, gradient: &Tensor) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    blocks(map, gradient, |start, block| {
        let rows = block.dim(0).map_err(error)?;
        let part = || gradient.narrow(1, start, rows)?.contiguous()?.matmul(&block);
        let part = part().map_err(error)?;
        sum = Some(match sum.take() {
            Some(sum) => sum.add(&part).map_err(error)?,
            None => part,
        });
        Ok(())
    })?;
    sum.ok_or_else(|| Error::engine_message("a map without outputs"))
}
