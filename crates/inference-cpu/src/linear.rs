//! Affine maps: what computes them, and how the decoder calls it.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use inference_candle::{Linear, Weight, reference};
use inference_core::{Error, Result};

use crate::activations::Activations;
use crate::packed_product::PackedProduct;
use crate::view::{Contiguous, shapes, tensor};
use crate::workers::Workers;

/// Rows of a weight that a task decodes.
const DECODED_ROWS: usize = 64;

/// An affine map that writes its result where it is told to.
pub(crate) trait Product: Send + Sync + fmt::Debug {
    /// Input features.
    fn in_features(&self) -> usize;

    /// Output features.
    fn out_features(&self) -> usize;

    /// The threads that compute it.
    fn workers(&self) -> &Workers;

    /// `x · Wᵀ + b` over all of `out`, `[rows, out]`, as pieces, so that several
    /// products can be computed as one piece of shared work. `x` may be shared
    /// with other maps of the same input; what it is quantized to is computed
    /// once.
    ///
    /// # Errors
    ///
    /// Where the shapes do not fit.
    fn pieces<'a>(&'a self, x: &'a Activations<'_>, out: &'a mut [f32]) -> Result<Pieces<'a>>;

    /// Whether its results are those of f32 activations, not rounded.
    fn is_exact(&self) -> bool;

    /// `[out]`.
    fn bias(&self) -> Option<&[f32]>;

    /// Rows of the weight from `first` on, over all of `out`: whole rows that
    /// exist.
    ///
    /// # Errors
    ///
    /// Where the weights cannot be read.
    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()>;

    /// As [`forward_into`](Self::forward_into), with activations that are not
    /// rounded; `None`: the map's rows have to be decoded for that.
    fn forward_exact(&self, x: &Activations<'_>, out: &mut [f32]) -> Option<Result<()>> {
        self.is_exact().then(|| self.forward_into(x, out))
    }

    /// `gradient · W` over all of `out`, `[rows, in]`; `None`: the map's rows
    /// have to be decoded for that. Shapes are checked.
    fn input_gradient(&self, gradient: &Activations<'_>, out: &mut [f32]) -> Option<Result<()>> {
        let _ = (gradient, out);
        None
    }

    /// Computes all pieces.
    ///
    /// # Errors
    ///
    /// Where the shapes do not fit, or the weights cannot be read.
    fn forward_into(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<()> {
        compute_all(self.workers(), &[self.pieces(x, out)?])
    }

    /// The map itself where its weights are packed: what becomes of its output
    /// can be computed where a piece is.
    fn as_packed(&self) -> Option<&PackedProduct> {
        None
    }
}

/// The product behind a map, where it is one of ours.
pub(crate) fn product(map: &dyn Linear) -> Option<&dyn Product> {
    Some(&*map.as_any()?.downcast_ref::<CpuLinear>()?.product)
}

/// A product as pieces that may be computed in any order and at the same time,
/// each of them once.
pub(crate) struct Pieces<'a> {
    pub(crate) count: usize,
    /// Multiply-adds of all.
    pub(crate) work: usize,
    pub(crate) compute: Box<dyn Fn(usize) -> Result<()> + Send + Sync + 'a>,
}

impl Pieces<'_> {
    /// Of an output without elements.
    pub(crate) fn none() -> Self {
        Self { count: 0, work: 0, compute: Box::new(|_| Ok(())) }
    }
}

/// Multiply-adds that are not worth being shared: handing out a piece costs as
/// much as some hundred of them.
const GRAIN: usize = 1 << 14;

/// Computes several products as one piece of shared work; what is small as one
/// part of it.
///
/// # Errors
///
/// One of those of the products.
pub(crate) fn compute_all(workers: &Workers, products: &[Pieces<'_>]) -> Result<()> {
    let work = products.iter().map(|product| product.work).sum();
    let mut count = 0;
    // Of each product, what comes before it and with it.
    let mut ends = Vec::with_capacity(products.len());
    for product in products {
        count += if product.work < GRAIN { product.count.min(1) } else { product.count };
        ends.push(count);
    }
    let failed = OnceLock::new();
    let compute = |product: &Pieces<'_>, piece: usize| {
        if let Err(error) = (product.compute)(piece) {
            // Of several errors, any will do.
            let _ = failed.set(error);
        }
    };
    workers.for_each(count, work, |part| {
        let index = ends.partition_point(|end| *end <= part);
        let before = index.checked_sub(1).and_then(|index| ends.get(index)).copied();
        let Some(product) = products.get(index) else { return };
        if product.work < GRAIN {
            (0..product.count).for_each(|piece| compute(product, piece));
        } else {
            compute(product, part - before.unwrap_or(0));
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// A [`Product`] as the decoder holds it.
#[derive(Debug)]
pub(crate) struct CpuLinear {
    pub(crate) product: Box<dyn Product>,
}

impl Linear for CpuLinear {
    fn in_features(&self) -> usize {
        self.product.in_features()
    }

    fn out_features(&self) -> usize {
        self.product.out_features()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = (self.in_features(), self.out_features());
        let &[rows, width] = x.dims() else {
            return Err(shapes("linear", &[x.dims(), &[outputs, inputs]]));
        };
        if width != inputs {
            return Err(shapes("linear", &[x.dims(), &[outputs, inputs]]));
        }
        let x = Contiguous::new(x, "linear input")?;
        let x = x.elements()?;
        let mut out = vec![0.0f32; rows * outputs];
        self.product.forward_into(&Activations::new(x.f32()?, inputs), &mut out)?;
        tensor(out, (rows, outputs))
    }

    fn decode_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let k = self.in_features();
        let count = out.len().checked_div(k).unwrap_or(0);
        let end = first.checked_add(count).filter(|end| *end <= self.out_features());
        if end.is_none() || count * k != out.len() {
            return Err(shapes(
                "rows of a weight",
                &[&[first, out.len()], &[self.out_features(), k]],
            ));
        }
        let failed = OnceLock::new();
        let mut parts: Vec<_> = out.chunks_mut((DECODED_ROWS * k).max(1)).enumerate().collect();
        // Decoding a value costs several times a multiply-add.
        self.product.workers().for_each_mut(&mut parts, count * k * 8, |(index, part)| {
            if let Err(error) = self.product.decode_rows(first + *index * DECODED_ROWS, part) {
                // Of several errors, any will do.
                let _ = failed.set(error);
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn bias(&self) -> Option<Tensor> {
        let bias = self.product.bias()?;
        Tensor::from_slice(bias, bias.len(), &Device::Cpu).ok()
    }

    fn forward_exact(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let (inputs, outputs) = (self.in_features(), self.out_features());
        check_rows("exact product", (x, inputs), (out, outputs))?;
        match self.product.forward_exact(&Activations::new(x, inputs), out) {
            Some(result) => result,
            None => reference::forward_exact(self, x, out),
        }
    }

    fn input_gradient(&self, gradient: &[f32], out: &mut [f32]) -> Result<()> {
        let (inputs, outputs) = (self.in_features(), self.out_features());
        check_rows("input gradient", (gradient, outputs), (out, inputs))?;
        match self.product.input_gradient(&Activations::new(gradient, outputs), out) {
            Some(result) => result,
            None => reference::input_gradient(self, gradient, out),
        }
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Whether both are as many whole rows of their widths.
fn check_rows(what: &str, from: (&[f32], usize), to: (&[f32], usize)) -> Result<()> {
    let rows = from.0.len().checked_div(from.1).unwrap_or(0);
    if from.0.len() != rows * from.1 || to.0.len() != rows * to.1 {
        return Err(shapes(what, &[&[from.0.len(), from.1], &[to.0.len(), to.1]]));
    }
    Ok(())
}

pub(crate) fn invalid(weight: &Weight, expected: impl Into<String>) -> Error {
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

/// A small weight, widened.
fn widened(weight: &Weight) -> Result<Vec<f32>> {
    weight
        .to_tensor(&Device::Cpu)?
        .to_dtype(DType::F32)
        .and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>())
        .map_err(|error| Error::engine(format!("reading tensor `{}`", weight.name()), error))
}
