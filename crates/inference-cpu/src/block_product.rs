//! Affine maps over quantized weights.
//!
//! Activations are quantized too, to 8 bits, and multiplied with blocks of
//! weights as integers, where they lie.

use std::fmt;

use inference_candle::{Weight, WeightType};
use inference_core::Result;

use crate::activations::Activations;
use crate::kernels::{BlockArgs, BlockKernel, GROUP, Kernels, QuantizedRow, padded};
use crate::linear::{Pieces, Product, SharedOut, bias_of, invalid, matrix};
use crate::view::shapes;
use crate::workers::Workers;

/// Weights per task of the fast path: some microseconds for one row.
const TASK_WEIGHTS: usize = 1 << 16;

/// `x · Wᵀ + b` from blocks.
pub(crate) struct BlockProduct {
    kernels: &'static Kernels,
    workers: Workers,
    weight: Weight,
    in_features: usize,
    out_features: usize,
    bias: Option<Vec<f32>>,
    kernel: BlockKernel,
}

impl BlockProduct {
    pub(crate) fn new(
        kernels: &'static Kernels,
        workers: Workers,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let (out_features, in_features) = matrix(weight)?;
        let bias = bias_of(bias, out_features)?;
        let kernel = match weight.kind() {
            WeightType::Blocks(kind) => (kernels.blocks)(kind),
            _ => None,
        };
        let kernel = kernel.ok_or_else(|| invalid(weight, "blocks of integers"))?;
        let weight = weight.clone();
        Ok(Self { kernels, workers, weight, in_features, out_features, bias, kernel })
    }

    /// The bias of the features from `first` on.
    fn bias_at(&self, first: usize) -> *const f32 {
        self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr().wrapping_add(first))
    }
}

impl Product for BlockProduct {
    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        self.weight.decode_rows(first, out)
    }

    fn pieces<'a>(&'a self, x: &'a Activations<'_>, out: &'a mut [f32]) -> Result<Pieces<'a>> {
        let (k, n, rows) = (self.in_features, self.out_features, x.rows());
        let x = x.values();
        let bytes = self.weight.bytes().unwrap_or_default();
        let row_bytes = bytes.len() / n.max(1);
        if x.len() != rows * k || k == 0 || out.len() != rows * n {
            return Err(shapes("linear", &[&[x.len()], &[n, k], &[out.len()]]));
        }
        let (values, groups) = (padded(k), padded(k) / GROUP);
        let mut q = vec![0i8; rows * values];
        let mut scales = vec![0.0f32; rows * groups];
        let parts = q.chunks_exact_mut(values).zip(scales.chunks_exact_mut(groups));
        let mut quantized: Vec<_> = parts
            .zip(x.chunks_exact(k))
            .map(|((q, scales), x)| (x, QuantizedRow { q, scales }))
            .collect();
        self.workers.for_each_mut(&mut quantized, x.len(), |(x, row)| {
            // SAFETY: the table is for this CPU, checked where it was chosen.
            unsafe { (self.kernels.quantize)(x, row) };
        });
        let target = SharedOut(out.as_mut_ptr());
        let per_task = (TASK_WEIGHTS / k).clamp(8, 128);
        let compute = move |task: usize| {
            let first = task * per_task;
            let args = BlockArgs {
                x: q.as_ptr(),
                x_scales: scales.as_ptr(),
                rows,
                w: bytes.as_ptr().wrapping_add(first * row_bytes),
                k,
                features: per_task.min(n - first),
                bias: self.bias_at(first),
                out: target.at(first),
                out_stride: n,
            };
            // SAFETY: the table is for this CPU; activations are `rows` rows
            // of `padded(k)` values, the weight is `n` rows of whole blocks of
            // `k` values (`Weight::stored`), the output `rows * n`, and tasks
            // write disjoint features.
            unsafe { (self.kernel)(&args) };
            Ok(())
        };
        Ok(Pieces { count: n.div_ceil(per_task), work: rows * n * k, compute: Box::new(compute) })
    }
}

impl fmt::Debug for BlockProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockProduct({:?}, {}, fast)", self.weight, self.kernels.tier)
    }
}
