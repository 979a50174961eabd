//! A loop over models, with the `gemm` crate's product for each layer.

use gemm::Parallelism;

use super::shape::{Model, Shape};
use crate::Result;

pub(super) struct GemmPeer<'a> {
    layers: Vec<(usize, usize)>,
    models: &'a [Model],
    inputs: &'a [f32],
    outputs: Vec<f32>,
    /// Activations of one model, in turns.
    between: [Vec<f32>; 2],
}

impl<'a> GemmPeer<'a> {
    pub(super) fn new(shape: &Shape, models: &'a [Model], inputs: &'a [f32]) -> Self {
        let widest = shape.widths.iter().copied().max().unwrap_or(0);
        let outputs = shape.widths.last().copied().unwrap_or(0) * shape.models;
        Self {
            layers: shape.layers().collect(),
            models,
            inputs,
            outputs: vec![0.0; outputs],
            between: [vec![0.0; widest], vec![0.0; widest]],
        }
    }

    pub(super) fn call(&mut self) -> Result<()> {
        let (Some((width, _)), Some((_, outputs))) = (self.layers.first(), self.layers.last())
        else {
            return Ok(());
        };
        let rows = self.inputs.chunks(*width).zip(self.outputs.chunks_mut(*outputs));
        for (model, (input, output)) in self.models.iter().zip(rows) {
            let [first, second] = &mut self.between;
            let (mut x, mut y) = (first, second);
            x[..*width].copy_from_slice(input);
            for (index, (layer, (weight, bias))) in self.layers.iter().zip(model).enumerate() {
                let out = &mut y[..layer.1];
                out.copy_from_slice(bias);
                add_product(&x[..layer.0], weight, out);
                if index + 1 < self.layers.len() {
                    out.iter_mut().for_each(|y| *y = y.max(0.0));
                }
                (x, y) = (y, x);
            }
            output.copy_from_slice(&x[..output.len()]);
        }
        Ok(())
    }

    pub(super) fn outputs(&mut self) -> &[f32] {
        // Nothing in it fails.
        let _ = self.call();
        &self.outputs
    }
}

/// Adds `x W` to `y`, with `W` row-major `[inputs, outputs]`.
fn add_product(x: &[f32], weight: &[f32], y: &mut [f32]) {
    assert_eq!(weight.len(), x.len() * y.len());
    let (k, n) = (x.len(), y.len());
    // SAFETY: rows of `k` and `n` numbers and a weight of both, as asserted.
    unsafe {
        gemm::gemm(
            1,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            true,
            x.as_ptr(),
            1,
            k as isize,
            weight.as_ptr(),
            1,
            n as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
