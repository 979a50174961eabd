//! Affine maps over quantized weights that are decoded to f32: exactly what the
//! same numbers give as a dense f32 weight.

use std::fmt;
use std::ops::Range;

use inference_candle::Weight;
use inference_core::Result;

use crate::activations::Activations;
use crate::dense_tiles::{PanelTiles, TiledProduct, interleave};
use crate::kernels::{Kernels, PANEL};
use crate::linear::{Pieces, Product, bias_of, matrix};
use crate::view::shapes;
use crate::workers::Workers;

/// `x · Wᵀ + b` from blocks or a codec's rows, of which each task holds one
/// panel's decoded at a time.
pub(crate) struct DecodedProduct {
    kernels: &'static Kernels,
    workers: Workers,
    rows: DecodedRows,
    bias: Option<Vec<f32>>,
}

impl DecodedProduct {
    pub(crate) fn new(
        kernels: &'static Kernels,
        workers: Workers,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self> {
        let (n, k) = matrix(weight)?;
        let bias = bias_of(bias, n)?;
        // Refuses types that cannot be decoded, by name.
        weight.decode_rows(0, &mut [])?;
        let rows = DecodedRows { weight: weight.clone(), n, k };
        Ok(Self { kernels, workers, rows, bias })
    }
}

impl Product for DecodedProduct {
    fn in_features(&self) -> usize {
        self.rows.k
    }

    fn out_features(&self) -> usize {
        self.rows.n
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
        self.rows.weight.decode_rows(first, out)
    }

    fn pieces<'a>(&'a self, x: &'a Activations<'_>, out: &'a mut [f32]) -> Result<Pieces<'a>> {
        let DecodedRows { n, k, .. } = self.rows;
        if x.values().len() != x.rows() * k || out.len() != x.rows() * n {
            return Err(shapes("linear", &[&[x.values().len()], &[n, k], &[out.len()]]));
        }
        if out.is_empty() {
            return Ok(Pieces::none());
        }
        let (kernels, workers) = (self.kernels, &self.workers);
        let (x, bias) = (x.packed(kernels, workers), self.bias.as_deref());
        Ok(TiledProduct::new((kernels, workers), x, &self.rows, bias, n, out).pieces())
    }
}

impl fmt::Debug for DecodedProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecodedProduct({:?}, {}, exact)", self.rows.weight, self.kernels.tier)
    }
}

/// `[n, k]`, decoded as needed.
struct DecodedRows {
    weight: Weight,
    n: usize,
    k: usize,
}

impl PanelTiles for &DecodedRows {
    fn decoded_len(&self) -> usize {
        self.k * PANEL
    }

    fn decode(&self, panels: Range<usize>, to: &mut [f32]) -> Result<()> {
        let first = panels.start * PANEL;
        let rows = (panels.len() * PANEL).min(self.n - first);
        self.weight.decode_rows(first, &mut to[..rows * self.k])
    }

    fn tiles<'a>(
        &'a self,
        panels: Range<usize>,
        k: Range<usize>,
        decoded: &'a [f32],
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let len = k.len() * PANEL;
        let rows = self.n - panels.start * PANEL;
        for (panel, to) in scratch.chunks_exact_mut(len).take(panels.len()).enumerate() {
            interleave(decoded, self.k, rows, panel, k.clone(), |value| value, to);
        }
        (scratch, len)
    }
}
