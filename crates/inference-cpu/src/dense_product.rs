//! Affine maps over f32, f16 and bf16 weights.

use std::fmt;

use candle_core::{DType, Device};
use half::{bf16, f16};
use inference_candle::{Weight, WeightType};
use inference_core::{Error, Result};

use crate::activations::Activations;
use crate::kernels::{Element, Kernels, LANES, LinearArgs, PANEL_FEATURES, with_panel_scratch};
use crate::linear::{Product, SharedOut, bias_of, invalid, matrix, pad_rows};
use crate::view::{AnyFloats, Contiguous, shapes};
use crate::workers::Workers;

/// Rows from which on weights are widened panel by panel instead of in
/// registers. Either way computes the same bits.
pub(crate) const PANEL_MIN_ROWS: usize = 8;

/// Features per task where the weights are read directly: a multiple of every
/// tile's size.
const DIRECT_FEATURES: usize = 24;

/// `x · Wᵀ + b` straight from the weight's stored bytes.
pub(crate) struct DenseProduct {
    kernels: &'static Kernels,
    workers: Workers,
    weight: Weight,
    in_features: usize,
    out_features: usize,
    bias: Option<Vec<f32>>,
}

impl DenseProduct {
    pub(crate) fn new(
        kernels: &'static Kernels,
        workers: Workers,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let (out_features, in_features) = matrix(weight)?;
        let kinds = [DType::F32, DType::F16, DType::BF16].map(WeightType::Dense);
        if !kinds.contains(&weight.kind()) {
            return Err(invalid(weight, "f32, f16 or bf16"));
        }
        let bias = bias_of(bias, out_features)?;
        let weight = weight.clone();
        Ok(Self { kernels, workers, weight, in_features, out_features, bias })
    }

    /// `x` is `[rows, in]`, `out` `[rows, out]`.
    fn compute<T: Element>(&self, x: &[f32], weight: &[T], out: &mut [f32]) -> Result<()> {
        let (k, n) = (self.in_features, self.out_features);
        let rows = x.len().checked_div(k).unwrap_or(0);
        if x.len() != rows * k || weight.len() != n * k || out.len() != rows * n {
            return Err(shapes("linear", &[&[x.len()], &[n, k], &[out.len()]]));
        }
        let kernels = T::kernels(self.kernels);
        let work = rows * n * k;
        let target = SharedOut(out.as_mut_ptr());
        // The block of all rows and the features from `first` on.
        let block = |x: &[f32], x_stride: usize, first: usize, features: usize| LinearArgs {
            x: x.as_ptr(),
            x_stride,
            rows,
            w: weight.as_ptr().wrapping_add(first * k),
            k,
            features,
            bias: self.bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr().wrapping_add(first)),
            out: target.at(first),
            out_stride: n,
        };
        if rows < PANEL_MIN_ROWS {
            self.workers.for_each(n.div_ceil(DIRECT_FEATURES), work, |task| {
                let first = task * DIRECT_FEATURES;
                let args = block(x, k, first, DIRECT_FEATURES.min(n - first));
                // SAFETY: the table is for this CPU (checked where it was
                // chosen); x has `rows * k` elements, the weight `n * k`, the
                // output `rows * n`, and tasks write disjoint features.
                unsafe { (kernels.direct)(&args) };
            });
        } else {
            let padded;
            let (x, stride) = if k.is_multiple_of(LANES) {
                (x, k)
            } else {
                let stride = k.next_multiple_of(LANES);
                padded = pad_rows(x, k, stride);
                (padded.as_slice(), stride)
            };
            self.workers.for_each(n.div_ceil(PANEL_FEATURES), work, |task| {
                let first = task * PANEL_FEATURES;
                let args = block(x, stride, first, PANEL_FEATURES.min(n - first));
                // SAFETY: as above; rows are padded with zeros to a multiple
                // of `LANES`, and the scratch is as long as it must be.
                with_panel_scratch(|scratch| unsafe { (kernels.panel)(&args, scratch) });
            });
        }
        Ok(())
    }

    fn compute_bytes<T: Element>(&self, x: &[f32], bytes: &[u8], out: &mut [f32]) -> Result<()> {
        let weight = bytemuck::try_cast_slice(bytes).map_err(|error| {
            Error::engine_message(format!("tensor `{}`: {error}", self.weight.name()))
        })?;
        self.compute::<T>(x, weight, out)
    }
}

impl Product for DenseProduct {
    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }

    fn forward_into(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<()> {
        let x = x.values();
        match self.weight.bytes() {
            Some(bytes) => match self.weight.kind() {
                WeightType::Dense(DType::F32) => self.compute_bytes::<f32>(x, bytes, out),
                WeightType::Dense(DType::F16) => self.compute_bytes::<f16>(x, bytes, out),
                _ => self.compute_bytes::<bf16>(x, bytes, out),
            },
            // A tensor that somebody else owns and may change: read every time.
            None => {
                let weight = Contiguous::new(&self.weight.to_tensor(&Device::Cpu)?, "weight")?;
                let weight = weight.elements()?;
                match weight.any()? {
                    AnyFloats::F32(weight) => self.compute(x, weight, out),
                    AnyFloats::F16(weight) => self.compute(x, weight, out),
                    AnyFloats::Bf16(weight) => self.compute(x, weight, out),
                }
            }
        }
    }
}

impl fmt::Debug for DenseProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DenseProduct({:?}, {})", self.weight, self.kernels.tier)
    }
}
