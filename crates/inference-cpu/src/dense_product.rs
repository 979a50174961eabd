//! Affine maps over f32, f16 and bf16 weights.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};
use half::{bf16, f16};
use inference_candle::{Weight, WeightType};
use inference_core::{Error, Result};

use crate::activations::Activations;
use crate::dense_tiles::{PanelTiles, TiledProduct, interleave};
use crate::dense_transposed::{Transposed, decode_panels};
use crate::kernels::{Element, FEW_ROWS, FEW_TILE, FewArgs, Kernels, PANEL};
use crate::linear::{Pieces, Product, SharedOut, bias_of, compute_all, invalid, matrix};
use crate::packing::pack_panels;
use crate::view::{AnyFloats, Contiguous, shapes};
use crate::weight_memory::{Allocation, WeightMemory};
use crate::workers::Workers;

/// Bytes of weights that a task of few rows reads, where there are as many:
/// some microseconds.
const TASK_BYTES: usize = 1 << 17;

/// `x · Wᵀ + b` from weights of their stored type, in panels.
pub(crate) struct DenseProduct {
    kernels: &'static Kernels,
    workers: Workers,
    weight: DenseWeight,
    name: String,
    in_features: usize,
    out_features: usize,
    bias: Option<Vec<f32>>,
}

/// `[panels, k, PANEL]`; or a tensor that somebody else owns and may change,
/// which is read anew every time.
enum DenseWeight {
    F32(Allocation),
    F16(Allocation),
    Bf16(Allocation),
    Live(Weight),
}

impl DenseProduct {
    pub(crate) fn new(
        kernels: &'static Kernels,
        workers: Workers,
        memory: &WeightMemory,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let (out_features, in_features) = matrix(weight)?;
        let bias = bias_of(bias, out_features)?;
        let expected = "f32, f16 or bf16";
        let packed = match (weight.bytes(), weight.kind()) {
            (Some(bytes), WeightType::Dense(DType::F32)) => {
                DenseWeight::F32(packed::<f32>(&workers, memory, weight, bytes)?)
            }
            (Some(bytes), WeightType::Dense(DType::F16)) => {
                DenseWeight::F16(packed::<f16>(&workers, memory, weight, bytes)?)
            }
            (Some(bytes), WeightType::Dense(DType::BF16)) => {
                DenseWeight::Bf16(packed::<bf16>(&workers, memory, weight, bytes)?)
            }
            (None, WeightType::Dense(DType::F32 | DType::F16 | DType::BF16)) => {
                DenseWeight::Live(weight.clone())
            }
            _ => return Err(invalid(weight, expected)),
        };
        let name = format!("{weight:?}");
        Ok(Self { kernels, workers, weight: packed, name, in_features, out_features, bias })
    }

    /// As [`new`](Self::new), from a weight that does not change any more, also
    /// where it is a tensor.
    pub(crate) fn frozen(
        kernels: &'static Kernels,
        workers: Workers,
        memory: &WeightMemory,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let mut this = Self::new(kernels, workers, memory, weight, bias)?;
        if let (DenseWeight::Live(_), Some(tensor)) = (&this.weight, weight.as_tensor()) {
            let tensor = Contiguous::new(tensor, "weight")?;
            let elements = tensor.elements()?;
            let workers = &this.workers;
            this.weight = match elements.any()? {
                AnyFloats::F32(rows) => DenseWeight::F32(panels_of(workers, memory, weight, rows)?),
                AnyFloats::F16(rows) => DenseWeight::F16(panels_of(workers, memory, weight, rows)?),
                AnyFloats::Bf16(rows) => {
                    DenseWeight::Bf16(panels_of(workers, memory, weight, rows)?)
                }
            };
        }
        Ok(this)
    }

    /// Bytes of the panels of a weight.
    pub(crate) fn packed_bytes(weight: &Weight) -> usize {
        let size = match weight.kind() {
            WeightType::Dense(dtype) => dtype.size_in_bytes(),
            _ => 0,
        };
        let panels = weight.rows().div_ceil(PANEL).saturating_mul(weight.columns());
        panels.saturating_mul(PANEL).saturating_mul(size)
    }

    /// The shapes are checked, and the output is not empty.
    fn packed<'a, T: Element>(
        &'a self,
        x: &'a Activations<'_>,
        w: &'a [T],
        out: &'a mut [f32],
    ) -> Pieces<'a> {
        if x.rows() > FEW_ROWS {
            let panels = Panels { kernels: self.kernels, w, k: self.in_features };
            return self.many(x, panels, out).pieces();
        }
        let few = self.few(x.values(), w, out);
        let count = few.tasks;
        let compute = move |task| {
            few.compute(task);
            Ok(())
        };
        Pieces { count, work: self.work(x), compute: Box::new(compute) }
    }

    /// The product with a tensor that may have changed, by all workers; the
    /// shapes are checked, and the output is not empty.
    fn live(&self, weight: &Weight, x: &Activations<'_>, out: &mut [f32]) -> Result<()> {
        let (k, n) = (self.in_features, self.out_features);
        let weight = Contiguous::new(&weight.to_tensor(&Device::Cpu)?, "weight")?;
        let weight = weight.elements()?;
        let pieces = match weight.any()? {
            AnyFloats::F32(w) => self.many(x, Rows { w, k, n }, out).pieces(),
            AnyFloats::F16(w) => self.many(x, Rows { w, k, n }, out).pieces(),
            AnyFloats::Bf16(w) => self.many(x, Rows { w, k, n }, out).pieces(),
        };
        compute_all(&self.workers, &[pieces])
    }

    /// Multiply-adds.
    fn work(&self, x: &Activations<'_>) -> usize {
        x.values().len() * self.out_features
    }

    /// The shapes are checked.
    fn many<'a, W: PanelTiles>(
        &'a self,
        x: &'a Activations<'_>,
        weights: W,
        out: &'a mut [f32],
    ) -> TiledProduct<'a, W> {
        let x = x.packed(self.kernels, &self.workers);
        let (bias, n) = (self.bias.as_deref(), self.out_features);
        TiledProduct::new((self.kernels, &self.workers), x, weights, bias, n, out)
    }

    /// `gradient · W`, in as many elements as `out` has.
    fn transposed<T: Element>(
        &self,
        gradient: &Activations<'_>,
        w: &[T],
        out: &mut [f32],
    ) -> Result<()> {
        let (kernels, workers, k) = (self.kernels, &self.workers, self.in_features);
        if out.is_empty() || self.out_features == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let x = gradient.packed(kernels, workers);
        let w = Transposed { kernels, w, k };
        let product = TiledProduct::new((kernels, workers), x, w, None, k, out);
        compute_all(workers, &[product.pieces()])
    }

    /// At least one row and at most [`FEW_ROWS`].
    fn few<'a, T: Element>(&'a self, x: &'a [f32], w: &'a [T], out: &'a mut [f32]) -> Few<'a, T> {
        let (k, n) = (self.in_features, self.out_features);
        let (rows, panels) = (x.len() / k, n.div_ceil(PANEL));
        assert!(
            (1..=FEW_ROWS).contains(&rows)
                && x.len() == rows * k
                && out.len() == rows * n
                && w.len() == panels * k * PANEL,
            "the caller checks shapes"
        );
        // Groups of four panels where each thread gets several of them; more where they
        // are asked for ahead of each other, which the first of a task is not.
        let bytes = if rows > FEW_TILE { 4 * TASK_BYTES } else { TASK_BYTES };
        let most = (bytes / (k * PANEL * size_of::<T>())).clamp(4, 64).next_multiple_of(4);
        let group = (panels / (self.workers.threads() * 8)).clamp(2, most);
        let group = if group < 4 { 2 } else { group / 4 * 4 };
        let out = SharedOut(out.as_mut_ptr());
        Few { product: self, x, w, out, rows, group, tasks: panels.div_ceil(group) }
    }
}

/// A product of a few rows, as tasks.
struct Few<'a, T> {
    product: &'a DenseProduct,
    x: &'a [f32],
    w: &'a [T],
    out: SharedOut,
    rows: usize,
    /// Panels per task.
    group: usize,
    tasks: usize,
}

impl<T: Element> Few<'_, T> {
    /// Each task is to be computed once.
    fn compute(&self, task: usize) {
        let DenseProduct { kernels, in_features: k, out_features: n, bias, .. } = self.product;
        let first = task * self.group;
        let feature = first * PANEL;
        let args = FewArgs {
            x: self.x.as_ptr(),
            x_stride: *k,
            x_step: 1,
            rows: self.rows,
            w: self.w[first * k * PANEL..].as_ptr(),
            k: *k,
            features: (self.group * PANEL).min(n - feature),
            bias: bias.as_ref().map_or(std::ptr::null(), |b| b[feature..].as_ptr()),
            out: self.out.at(feature),
            out_stride: *n,
        };
        // SAFETY: the table is for this CPU (checked where it was chosen);
        // the extents were asserted, the bias has `n` elements (`bias_of`),
        // and tasks write disjoint features.
        unsafe { (T::kernels(kernels).few)(&args) };
    }
}

impl Product for DenseProduct {
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
        true
    }

    fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let k = self.in_features;
        match &self.weight {
            DenseWeight::F32(w) => decode_panels(elements::<f32>(w), k, first, out),
            DenseWeight::F16(w) => decode_panels(elements::<f16>(w), k, first, out),
            DenseWeight::Bf16(w) => decode_panels(elements::<bf16>(w), k, first, out),
            DenseWeight::Live(weight) => {
                let rows = out.len().checked_div(k).unwrap_or(0);
                let part = weight.narrow_rows(first..first + rows)?.to_tensor(&Device::Cpu)?;
                let part = part.to_dtype(DType::F32).and_then(|part| part.flatten_all()?.to_vec1());
                let part: Vec<f32> = part.map_err(|e| Error::engine("rows of a weight", e))?;
                out.copy_from_slice(&part);
            }
        }
        Ok(())
    }

    fn input_gradient(&self, gradient: &Activations<'_>, out: &mut [f32]) -> Option<Result<()>> {
        match &self.weight {
            DenseWeight::F32(w) => Some(self.transposed(gradient, elements::<f32>(w), out)),
            DenseWeight::F16(w) => Some(self.transposed(gradient, elements::<f16>(w), out)),
            DenseWeight::Bf16(w) => Some(self.transposed(gradient, elements::<bf16>(w), out)),
            DenseWeight::Live(_) => None,
        }
    }

    fn pieces<'a>(&'a self, x: &'a Activations<'_>, out: &'a mut [f32]) -> Result<Pieces<'a>> {
        let (k, n) = (self.in_features, self.out_features);
        if x.values().len() != x.rows() * k || out.len() != x.rows() * n {
            return Err(shapes("linear", &[&[x.values().len()], &[n, k], &[out.len()]]));
        }
        if out.is_empty() {
            return Ok(Pieces::none());
        }
        Ok(match &self.weight {
            DenseWeight::F32(w) => self.packed(x, elements::<f32>(w), out),
            DenseWeight::F16(w) => self.packed(x, elements::<f16>(w), out),
            DenseWeight::Bf16(w) => self.packed(x, elements::<bf16>(w), out),
            DenseWeight::Live(weight) => {
                // One piece, which alone shares its work in turn.
                let out = Mutex::new(out);
                let compute = move |_| {
                    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                    self.live(weight, x, &mut out)
                };
                Pieces { count: 1, work: self.work(x), compute: Box::new(compute) }
            }
        })
    }
}

impl fmt::Debug for DenseProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DenseProduct({}, {})", self.name, self.kernels.tier)
    }
}

/// Packed panels.
struct Panels<'a, T> {
    kernels: &'static Kernels,
    w: &'a [T],
    k: usize,
}

impl<T: Element> PanelTiles for Panels<'_, T> {
    fn tiles<'a>(
        &'a self,
        panels: Range<usize>,
        k: Range<usize>,
        _: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let stride = self.k * PANEL;
        let part = |panel: usize| {
            &self.w[panel * stride + k.start * PANEL..panel * stride + k.end * PANEL]
        };
        if size_of::<T>() == size_of::<f32>()
            && let Ok(w) = bytemuck::try_cast_slice(self.w)
        {
            // They are f32 already.
            return (&w[panels.start * stride + k.start * PANEL..], stride);
        }
        let len = k.len() * PANEL;
        for (panel, to) in panels.zip(scratch.chunks_exact_mut(len)) {
            let from = part(panel);
            // SAFETY: the table is for this CPU, checked where it was chosen;
            // both have `len` elements.
            unsafe { (T::kernels(self.kernels).widen)(from.as_ptr(), len, to.as_mut_ptr()) };
        }
        (scratch, len)
    }
}

/// Rows `[n, k]`, interleaved where they are needed.
struct Rows<'a, T> {
    w: &'a [T],
    k: usize,
    n: usize,
}

impl<T: Element> PanelTiles for Rows<'_, T> {
    fn tiles<'a>(
        &'a self,
        panels: Range<usize>,
        k: Range<usize>,
        _: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let len = k.len() * PANEL;
        for (panel, to) in panels.zip(scratch.chunks_exact_mut(len)) {
            interleave(self.w, self.k, self.n, panel, k.clone(), T::widen, to);
        }
        (scratch, len)
    }
}

/// The elements that were written there.
fn elements<T: Element>(memory: &Allocation) -> &[T] {
    bytemuck::cast_slice(memory.bytes())
}

/// The panels of a stored weight, packed by all workers.
fn packed<T: Element + Default>(
    workers: &Workers,
    memory: &WeightMemory,
    weight: &Weight,
    bytes: &[u8],
) -> Result<Allocation> {
    let rows: &[T] = bytemuck::try_cast_slice(bytes)
        .map_err(|error| Error::engine_message(format!("tensor `{}`: {error}", weight.name())))?;
    panels_of(workers, memory, weight, rows)
}

/// The panels of a weight's rows, packed by all workers; pages that they came
/// from are given back.
fn panels_of<T: Element + Default>(
    workers: &Workers,
    memory: &WeightMemory,
    weight: &Weight,
    rows: &[T],
) -> Result<Allocation> {
    let (n, k) = matrix(weight)?;
    if rows.len() != n * k {
        return Err(invalid(weight, format!("{n} * {k} elements")));
    }
    let panels = n.div_ceil(PANEL);
    let elements = panels.saturating_mul(k).saturating_mul(PANEL);
    let mut memory = memory.allocate(elements.saturating_mul(size_of::<T>()), weight.name())?;
    // Aligned to a cache line, so to any element.
    let panel_bytes = k * PANEL * size_of::<T>();
    pack_panels(workers, weight, &mut memory, PANEL, panel_bytes, |panel, to| {
        interleave(rows, k, n, panel, 0..k, |value| value, bytemuck::cast_slice_mut(to));
    })?;
    Ok(memory)
}
