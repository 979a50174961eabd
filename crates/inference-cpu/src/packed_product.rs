//! Affine maps over packed weights.

use std::fmt;
use std::ops::Range;

use inference_candle::Weight;
use inference_core::Result;

use crate::activations::Activations;
use crate::kernels::packed::FEATURES;
use crate::kernels::{Kernels, PackedArgs};
use crate::linear::{Pieces, Product, SharedOut, bias_of};
use crate::packed_decoding::{decode_rows, forward_exact, input_gradient};
use crate::packed_weight::PackedWeight;
use crate::view::shapes;
use crate::weight_memory::WeightMemory;
use crate::workers::Workers;

/// Rows up to which weights are unpacked in registers, again for every few
/// rows, instead of once for all.
const FEW_ROWS: usize = 16;

/// Bytes of weights per task for few rows: some microseconds.
const TASK_BYTES: usize = 1 << 16;

/// Panels per task for many rows, which read the same activations from the
/// second-level cache.
const TASK_PANELS: usize = 8;

/// Rows that go over a task's panels together: their part of k stays in the
/// second-level cache.
const ROWS: usize = 256;

/// `x · Wᵀ + b` from packed weights.
pub(crate) struct PackedProduct {
    table: &'static Kernels,
    workers: Workers,
    weight: PackedWeight,
    /// `[out_features]`.
    bias: Option<Vec<f32>>,
}

impl PackedProduct {
    /// Packs a weight of a type that `kernels` packs.
    pub(crate) fn new(
        kernels: &'static Kernels,
        workers: Workers,
        memory: &WeightMemory,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let bias = match weight.shape() {
            &[out_features, _] => bias_of(bias, out_features)?,
            _ => None,
        };
        let weight = PackedWeight::new(kernels, &workers, memory, weight)?;
        Ok(Self { table: kernels, workers, weight, bias })
    }

    /// Panels of [`FEATURES`] output features.
    pub(crate) fn panels(&self) -> usize {
        self.weight.panels()
    }

    /// Panels per task.
    pub(crate) fn panels_per_task(&self, rows: usize) -> usize {
        let most = match rows <= FEW_ROWS {
            true => TASK_BYTES / self.weight.panel_bytes().max(1),
            false => TASK_PANELS,
        };
        // Several tasks for each thread, so that none waits long for the last.
        (self.panels() / (8 * self.workers.threads())).clamp(1, most.max(1))
    }

    /// The input as [`compute`](Self::compute) wants it.
    pub(crate) fn quantized(&self, x: &Activations<'_>) -> SharedIn {
        SharedIn(x.quantized(self.weight.chunks(), self.table, &self.workers))
    }

    /// Computes the features of some panels for all rows. `x` are chunks of
    /// `rows` quantized rows.
    ///
    /// # Safety
    ///
    /// `x` are [`Activations::quantized`] as the weight wants them, of `rows`
    /// rows of as many values as it has input features; `out` is
    /// `[rows, out_features]`, and nothing else accesses these features of it.
    pub(crate) unsafe fn compute(
        &self,
        panels: Range<usize>,
        x: *const u8,
        rows: usize,
        out: SharedOut,
    ) {
        let (weight, n) = (&self.weight, self.weight.out_features());
        let first = panels.start * FEATURES;
        let bias = self.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr());
        let chunk = weight.chunk_bytes();
        for row in (0..rows).step_by(ROWS) {
            let args = PackedArgs {
                x: x.wrapping_add(row * chunk),
                x_rows: rows,
                rows: ROWS.min(rows - row),
                w: weight.panel(panels.start),
                panels: panels.len(),
                blocks: weight.blocks(),
                features: (panels.end * FEATURES).min(n) - first,
                bias: if bias.is_null() { bias } else { bias.wrapping_add(first) },
                out: out.at(row * n + first),
                out_stride: n,
            };
            let kernel = match rows <= FEW_ROWS {
                true => weight.kernels.few,
                false => weight.kernels.many,
            };
            // SAFETY: the table is for this CPU, checked where it was chosen;
            // weights are whole panels, the rest is the caller's promise.
            unsafe { kernel(&args) };
        }
    }
}

impl Product for PackedProduct {
    fn as_packed(&self) -> Option<&PackedProduct> {
        Some(self)
    }

    fn in_features(&self) -> usize {
        self.weight.in_features()
    }

    fn out_features(&self) -> usize {
        self.weight.out_features()
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
        decode_rows(&self.weight, first, out);
        Ok(())
    }

    fn forward_exact(&self, x: &Activations<'_>, out: &mut [f32]) -> Option<Result<()>> {
        let with = (self.table, &self.workers);
        Some(forward_exact(with, &self.weight, self.bias.as_deref(), x, out))
    }

    fn input_gradient(&self, gradient: &Activations<'_>, out: &mut [f32]) -> Option<Result<()>> {
        Some(input_gradient((self.table, &self.workers), &self.weight, gradient, out))
    }

    fn pieces<'a>(&'a self, x: &'a Activations<'_>, out: &'a mut [f32]) -> Result<Pieces<'a>> {
        let (k, n, rows) = (self.in_features(), self.out_features(), x.rows());
        if x.values().len() != rows * k || k == 0 || out.len() != rows * n {
            return Err(shapes("linear", &[&[x.values().len()], &[n, k], &[out.len()]]));
        }
        let per_task = self.panels_per_task(rows);
        let quantized = self.quantized(x);
        let target = SharedOut(out.as_mut_ptr());
        let compute = move |task: usize| {
            let first = task * per_task;
            let panels = first..(first + per_task).min(self.panels());
            // SAFETY: `quantized` is made of `rows` rows of `k` values, the
            // output was checked, and tasks write disjoint features.
            unsafe { self.compute(panels, quantized.get(), rows, target) };
            Ok(())
        };
        let count = self.panels().div_ceil(per_task);
        Ok(Pieces { count, work: rows * n * k, compute: Box::new(compute) })
    }
}

/// Quantized activations that tasks read.
#[derive(Clone, Copy)]
pub(crate) struct SharedIn(*const u8);

// SAFETY: what it points to is only read.
unsafe impl Send for SharedIn {}
// SAFETY: as above.
unsafe impl Sync for SharedIn {}

impl SharedIn {
    pub(crate) fn get(self) -> *const u8 {
        self.0
    }
}

impl fmt::Debug for PackedProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedProduct({:?}, {}, fast)", self.weight, self.table.tier)
    }
}
