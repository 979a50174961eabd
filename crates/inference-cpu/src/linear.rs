//! Affine maps over stored weights.

use std::fmt;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use inference_candle::{Linear, Weight, WeightType};
use inference_core::{Error, Result};

use crate::kernels::{Element, Kernels, LANES, LinearArgs, PANEL_FEATURES, with_panel_scratch};
use crate::view::{AnyFloats, Contiguous, shapes, tensor};
use crate::workers::Workers;

/// Rows from which on weights are widened panel by panel instead of in
/// registers. Either way computes the same bits.
pub(crate) const PANEL_MIN_ROWS: usize = 8;

/// Features per task where the weights are read directly: a multiple of every
/// tile's size.
const DIRECT_FEATURES: usize = 24;

/// `x · Wᵀ + b` straight from the weight's stored bytes.
pub(crate) struct CpuLinear {
    kernels: &'static Kernels,
    workers: Workers,
    weight: Weight,
    in_features: usize,
    out_features: usize,
    bias: Option<Vec<f32>>,
}

impl CpuLinear {
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

    /// `x` is `[rows, in]`, the result `[rows, out]`.
    fn compute<T: Element>(&self, x: &[f32], weight: &[T]) -> Result<Vec<f32>> {
        let (k, n) = (self.in_features, self.out_features);
        let rows = x.len().checked_div(k).unwrap_or(0);
        if x.len() != rows * k || weight.len() != n * k {
            return Err(shapes("linear", &[&[x.len()], &[n, k]]));
        }
        let mut out = vec![0.0f32; rows * n];
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
        Ok(out)
    }

    fn compute_bytes<T: Element>(&self, x: &[f32], bytes: &[u8]) -> Result<Vec<f32>> {
        let weight = bytemuck::try_cast_slice(bytes).map_err(|error| {
            Error::engine_message(format!("tensor `{}`: {error}", self.weight.name()))
        })?;
        self.compute::<T>(x, weight)
    }
}

impl Linear for CpuLinear {
    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = input(x, &self.weight)?;
        let x = Contiguous::new(x, "linear input")?;
        let x = x.elements()?;
        let x = x.f32()?;
        let out = match self.weight.bytes() {
            Some(bytes) => match self.weight.kind() {
                WeightType::Dense(DType::F32) => self.compute_bytes::<f32>(x, bytes)?,
                WeightType::Dense(DType::F16) => self.compute_bytes::<f16>(x, bytes)?,
                _ => self.compute_bytes::<bf16>(x, bytes)?,
            },
            // A tensor that somebody else owns and may change: read every time.
            None => {
                let weight = Contiguous::new(&self.weight.to_tensor(&Device::Cpu)?, "weight")?;
                let weight = weight.elements()?;
                match weight.any()? {
                    AnyFloats::F32(weight) => self.compute(x, weight)?,
                    AnyFloats::F16(weight) => self.compute(x, weight)?,
                    AnyFloats::Bf16(weight) => self.compute(x, weight)?,
                }
            }
        };
        tensor(out, (rows, self.out_features))
    }
}

impl fmt::Debug for CpuLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuLinear({:?}, {})", self.weight, self.kernels.tier)
    }
}

fn invalid(weight: &Weight, expected: impl Into<String>) -> Error {
    Error::invalid_model(
        "weights",
        format!("tensor `{}`", weight.name()),
        expected,
        format!("{} {:?}", weight.kind(), weight.shape()),
    )
}

/// The output and input features of a weight.
pub(crate) fn matrix(weight: &Weight) -> Result<(usize, usize)> {
    match weight.shape() {
        &[out_features, in_features] => Ok((out_features, in_features)),
        _ => Err(invalid(weight, "a matrix")),
    }
}

/// A bias for as many features, widened.
pub(crate) fn bias_of(bias: Option<&Weight>, out_features: usize) -> Result<Option<Vec<f32>>> {
    match bias {
        Some(bias) if bias.shape() != [out_features] => {
            Err(invalid(bias, format!("a vector of {out_features}")))
        }
        Some(bias) => widened(bias).map(Some),
        None => Ok(None),
    }
}

/// The number of rows of an input that fits the weight.
pub(crate) fn input(x: &Tensor, weight: &Weight) -> Result<usize> {
    match x.dims() {
        &[rows, width] if width == weight.columns() => Ok(rows),
        dims => Err(shapes("linear", &[dims, weight.shape()])),
    }
}

/// The start of an output that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct SharedOut(pub(crate) *mut f32);

// SAFETY: the pointer is only handed on; whoever writes through it promises
// that no two threads write the same element.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

impl SharedOut {
    /// The address of element `index`.
    pub(crate) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// Copies rows of `k` elements to rows of `stride`, filled up with zeros.
pub(crate) fn pad_rows(x: &[f32], k: usize, stride: usize) -> Vec<f32> {
    let mut padded = vec![0.0; x.len() / k * stride];
    for (to, from) in padded.chunks_exact_mut(stride).zip(x.chunks_exact(k)) {
        to[..k].copy_from_slice(from);
    }
    padded
}

/// A small weight, widened.
fn widened(weight: &Weight) -> Result<Vec<f32>> {
    weight
        .to_tensor(&Device::Cpu)?
        .to_dtype(DType::F32)
        .and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>())
        .map_err(|error| Error::engine(format!("reading tensor `{}`", weight.name()), error))
}
